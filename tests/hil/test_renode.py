# SPDX-License-Identifier: Apache-2.0
"""Boards in Renode. Their firmware is built here; how Renode is controlled is tried on a stand-in, a process that speaks
Renode's robot protocol (renode_standin.py says what it is and is not); Renode itself runs in test_suite.py, where there is one.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hil_support import RENODE, build
from test_bad_emulator import ARM_ELF
from test_boot import Probe, gone, make_project
from test_suite import model

from tlc import boards, emulator, toolchain
from tlc.emulator_renode import HOW_TO_GET_IT, RenodeProcess
from tlc.errors import BoardError, ToolchainError
from tlc.size import measure, require
from tlc_host.hil.report import run_hil

pytestmark = pytest.mark.hil
HERE = Path(__file__).parent
BOARD = "renode-stm32f4-discovery"


@pytest.fixture
def standin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``TLC_RENODE`` names a script around the stand-in, which goes on when the script alone is ended."""
    script = tmp_path / "renode"
    script.write_text(f'#!/bin/sh\n{sys.executable} {HERE / "renode_standin.py"} "$@"\nexit $?\n')
    script.chmod(0o755)
    monkeypatch.setenv("TLC_RENODE", str(script))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(entry for entry in sys.path if entry))
    return script


@pytest.fixture(scope="module")
def echo_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program of test_boot.py for the board that stands for one in Renode, built."""
    directory = tmp_path_factory.mktemp("renode")
    project = make_project(str(a_renode_board(directory)), directory / "projects")
    toolchain.pio_run(project, timeout=300)
    return project


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "firmware.elf"
    path.write_bytes(ARM_ELF)
    return path


def a_renode_board(directory: Path) -> Path:
    """The board file of qemu-stm32f4, but for the emulator: its image is one that QEMU can run for the stand-in."""
    ours, theirs = (boards.path_of(name).read_text() for name in ("qemu-stm32f4", BOARD))
    path = directory / "standin.toml"
    start = ours.index("[emulator]")
    path.write_text(ours[:start].replace("qemu-stm32f4", "standin") + theirs[theirs.index("[emulator]") :])
    return path


@pytest.mark.parametrize("name", RENODE)
def test_the_firmware_is_built_and_fits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = build(model(), name, tmp_path / "split", cut="conv2d_1_out", train="last")
    report = measure(built.directory)
    require(report)
    handler = [step for step, _ in report.stack.path if step == "tlc_hw_interrupt"]
    assert handler == ([] if name == "renode-rv32" else ["tlc_hw_interrupt"]), "the bound counts the interrupt's stack"
    board = (built.directory / "renode" / "board.repl").read_text()
    assert board.startswith(f'using "{built.board.emulator_spec()["platform"]}"\n')
    for file in ("board.resc", "board.robot"):
        text = (built.directory / "renode" / file).read_text()
        assert f".pio/build/{name}/firmware.elf" in text and f"sysbus.{built.board.emulator_spec()['uart']}" in text
    assert f"{built.board.emulator_spec()['seed_address'] + 4:#x}" in text
    monkeypatch.setenv("TLC_RENODE", "no-such-renode")
    with pytest.raises(ToolchainError, match="TLC_RENODE names no program: 'no-such-renode'; install Renode"):
        run_hil(built.directory)


def test_scenarios_by_way_of_the_stand_in(standin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_BOARD", "qemu-stm32f4")
    built = build(model(), str(a_renode_board(tmp_path)), tmp_path / "split", cut="conv2d_1_out", train="last")
    report = run_hil(built.directory, only=["greet", "inference", "reset", "several", "power-cut"])
    assert [each.outcome for each in report.outcomes] == ["passed", "passed", "passed", "skipped", "passed"], report
    assert report.outcomes[1].detail.endswith(
        " 1,000 instructions of the CPU, the link's among them"
    )  # the stand-in's count
    assert report.where == "renode" and re.search(r"3 boards in one emulation", report.outcomes[-1].detail)


def test_upload_and_stop(standin: Path, echo_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_BOARD", "qemu-stm32f4")
    project = echo_project
    state_file = project / ".pio" / "tlc-emulator.json"
    printed = toolchain.pio_run(project, "-t", "upload", timeout=120)
    state = emulator.read_state(state_file)
    assert state is not None and state["address"].startswith("serial:///")
    pty = state["address"].removeprefix("serial://")
    try:
        assert f"UART on {pty}," in printed
        with open(os.open(pty, os.O_RDWR | os.O_NOCTTY), "r+b", buffering=0) as line:
            line.write(b"e\x05\0\0\0hello")
            assert b"".join(line.read(1) for _ in range(5)) == b"hello"
    finally:
        printed = toolchain.pio_run(project, "-t", "stop", timeout=120)
    assert "stopped" in printed and gone(state["pid"]) and not Path(state["directory"]).exists()


def test_two_at_once_and_the_counts(standin: Path, image: Path) -> None:
    board = boards.load(BOARD)
    with toolchain.start(board, image, seed=5, machines=2) as one, toolchain.start(board, image) as other:
        assert isinstance(one, RenodeProcess) and isinstance(other, RenodeProcess)
        assert len(one.addresses) == 2 and len({*one.addresses, *other.addresses}) == 3
        before, beside = one.instructions(), one.instructions(1)
        assert before is not None and beside is not None
        assert (one.instructions() or 0) > before
        one.reset(machine=1)
        with pytest.raises(
            ToolchainError, match="Renode refused 'mach create \"board0\"': KeywordException: Machine board0"
        ):
            one.command('mach create "board0"')
        directories = [one.directory, other.directory]
    assert not any(directory.exists() for directory in directories) and gone(one.pid) and gone(other.pid)
    assert one.returncode == 0, "it was asked to stop, not killed"
    with pytest.raises(ToolchainError, match="does not take commands"):
        one.command("version")


def test_a_socket_where_a_port_is_asked_for(standin: Path, echo_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN_BOARD", "qemu-stm32f4")
    board, taken = boards.load(str(echo_project.parents[1] / "standin.toml")), emulator.listen()
    port = taken.getsockname()[1]
    elf = toolchain.firmware_elf(echo_project, board)
    with pytest.raises(ToolchainError, match=f"port {port} of 127.0.0.1 is taken"):
        toolchain.start(board, elf, port=port)
    taken.close()
    with toolchain.start(board, elf, port=port) as process, Probe(port) as probe:
        assert process.address == f"tcp://127.0.0.1:{port}"
        assert probe.echo(b"hello") == b"hello"


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        (
            "STANDIN_VERSION",
            "1.15.3",
            r"board '.*': the emulator is Renode 1\.15, and 1\.16 is the oldest .*; install Renode",
        ),
        ("STANDIN_VERSION", "of today", r"Renode does not tell its version, but 'Renode, version of today"),
        (
            "STANDIN_REFUSES",
            "machine Load",
            r"Renode refused 'machine LoadPlatform.*': KeywordException: There was an error",
        ),
        ("TLC_RENODE", "/nonexistent/renode", r"TLC_RENODE names no program: '/nonexistent/renode'; install Renode"),
    ],
)
def test_one_line(
    variable: str, value: str, says: str, standin: Path, image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(ToolchainError, match=says) as caught:
        toolchain.start(boards.load(BOARD), image)
    assert "\n" not in str(caught.value)


def test_one_that_dies(standin: Path, image: Path) -> None:
    standin.write_text("#!/bin/sh\necho 'No usable version of libssl was found'\nexit 134\n")
    with pytest.raises(ToolchainError, match=r"ended with code 134: No usable version of libssl was found") as caught:
        toolchain.start(boards.load(BOARD), image)
    assert "\n" not in str(caught.value)


def test_one_that_dies_later(standin: Path, image: Path) -> None:
    with toolchain.start(boards.load(BOARD), image) as process:
        assert isinstance(process, RenodeProcess)
        os.killpg(process.pid, signal.SIGKILL)
        assert gone(process.pid)
        with pytest.raises(ToolchainError, match=r"Renode does not take 'version' \(.*; it may have ended") as caught:
            process.command("version")
    assert "\n" not in str(caught.value)


def test_none_at_all(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TLC_RENODE", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolchainError, match="renode is not installed; " + re.escape(HOW_TO_GET_IT)):
        toolchain.start(boards.load(BOARD), image)


def test_an_image_of_another_architecture(standin: Path, image: Path) -> None:
    with pytest.raises(ToolchainError, match="is an ELF file for machine 40, the board needs machine 243"):
        toolchain.start(boards.load("renode-rv32"), image)
    with pytest.raises(ToolchainError, match="2 boards in one emulation: only Renode has several"):
        toolchain.start(boards.load("qemu-m4"), image, machines=2)


def test_no_orphan_when_we_are_killed(standin: Path, image: Path) -> None:
    """Neither the script that is called renode nor the program that it starts."""
    program = (
        "import os, sys, time\nfrom tlc import boards, toolchain\n"
        f"process = toolchain.start(boards.load({BOARD!r}), {str(image)!r})\n"
        "print(process.pid, *(int(path.name[7:]) for path in process.directory.glob('renode-*')), flush=True)\n"
        "print(process.directory, flush=True)\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pids = [int(word) for word in child.stdout.readline().split()]
        directory = Path(child.stdout.readline().strip())
        assert directory.is_dir()
        child.send_signal(signal.SIGKILL)
    assert len(pids) == 2 and all(gone(pid) for pid in pids)
    assert not directory.exists()


def test_a_board_file_that_lacks_what_renode_needs(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(boards.path_of(BOARD).read_text().replace('uart = "usart2"\n', ""))
    with pytest.raises(BoardError, match=r"needs emulator.platform, emulator.uart and emulator.seed_address"):
        boards.load(str(path))
