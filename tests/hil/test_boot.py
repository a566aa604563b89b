# SPDX-License-Identifier: Apache-2.0
"""The ports on their boards: a small program built by ``pio run`` in a fresh core directory with no registry, booted
by ``pio run -t upload`` or by :func:`tlc.toolchain.start`, and spoken to over the socket.
"""

from __future__ import annotations

import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hil_support import ALL, EMULATED

from tlc import boards, emulator, resources, toolchain
from tlc.errors import ToolchainError

pytestmark = pytest.mark.hil

ECHO = Path(__file__).parent / "echo" / "main.c"
NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
# Instructions of one round of the loop that the 't' command runs.
ROUND = {
    "qemu-m0": 4,
    "qemu-m3": 4,
    "qemu-m33": 4,
    "qemu-m4": 4,
    "qemu-m55": 3,
    "qemu-m7": 4,
    "qemu-rv32": 3,
    "qemu-stm32f4": 4,
    "qemu-xtensa": 4,
}


class Probe:
    """The host's side of tests/hil/echo/main.c."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def command(self, letter: str, value: int = 0) -> None:
        self.socket.sendall(letter.encode() + struct.pack("<I", value))

    def take(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            some = self.socket.recv(count - len(received))
            if not some:
                raise EOFError(received)
            received += some
        return received

    def ask(self, letter: str, value: int = 0) -> int:
        self.command(letter, value)
        return int.from_bytes(self.take(8 if letter == "t" else 4), "little")

    def rest(self) -> bytes:
        received = b""
        try:
            while some := self.socket.recv(4096):
                received += some
        except ConnectionError:
            pass
        return received

    def echo(self, data: bytes) -> bytes:
        self.command("e", len(data))
        self.socket.sendall(data)
        return self.take(len(data))

    def __enter__(self) -> Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PlatformIO core directory that has never been used."""
    return tmp_path_factory.mktemp("core")


def make_project(name: str, directory: Path) -> Path:
    board = boards.load(name)
    project = directory / board.id
    for path, text in board.project_files().items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    library = project / "lib" / "tlc"
    (library / "src").mkdir(parents=True)
    shutil.copy(resources.firmware_dir() / "library.json", library)
    for part in ("include", "ports"):
        shutil.copytree(resources.firmware_dir() / part, library / part)
    (project / "src").mkdir()
    shutil.copy(ECHO, project / "src")
    return project


@pytest.fixture(scope="module")
def projects(core: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A built project for every board, with every way to a registry closed."""
    directory = tmp_path_factory.mktemp("projects")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in NO_NETWORK.items():
            patch.setenv(name, value)
        built = {}
        for name in ALL:
            built[name] = make_project(name, directory)
            toolchain.pio_run(built[name], directory=core, timeout=120)
        return built


@pytest.fixture
def running(request: pytest.FixtureRequest, projects: dict[str, Path]) -> Iterator[toolchain.EmulatorProcess]:
    """A board that runs the program, started with a fixed seed."""
    board = boards.load(request.param)
    with toolchain.Emulator(board, toolchain.firmware_elf(projects[board.id], board), seed=1) as process:
        yield process


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[-1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.005)
    return not alive(pid)


@pytest.mark.parametrize("name", ALL)
def test_upload_boots_and_stop_ends(name: str, projects: dict[str, Path], core: Path) -> None:
    project = projects[name]
    state_file = project / ".pio" / "tlc-emulator.json"
    printed = toolchain.pio_run(project, "-t", "upload", directory=core, timeout=120)
    state = json.loads(state_file.read_text())
    try:
        assert f"socket://127.0.0.1:{state['port']}" in printed
        assert emulator.read_state(state_file) == state
        with Probe(state["port"]) as probe:
            assert probe.echo(b"hello") == b"hello"
        # Flashing again replaces what runs, on the port that is asked for.
        printed = toolchain.pio_run(
            project, "-t", "upload", "--upload-port", str(state["port"]), directory=core, timeout=120
        )
        assert gone(state["pid"])
        again = json.loads(state_file.read_text())
        assert again["port"] == state["port"] and again["pid"] != state["pid"]
        with Probe(again["port"]) as probe:
            assert probe.echo(b"hello") == b"hello"
    finally:
        printed = toolchain.pio_run(project, "-t", "stop", directory=core, timeout=120)
    assert "stopped" in printed and not state_file.exists() and gone(again["pid"])
    assert "nothing runs" in toolchain.pio_run(project, "-t", "stop", directory=core, timeout=120)


def test_the_monitor_finds_the_uart(projects: dict[str, Path], core: Path) -> None:
    project = projects["qemu-m4"]
    toolchain.pio_run(project, "-t", "upload", directory=core, timeout=120)
    try:
        port = json.loads((project / ".pio" / "tlc-emulator.json").read_text())["port"]
        ours, theirs = pty.openpty()  # it wants a terminal
        command = [sys.executable, "-m", "platformio", "device", "monitor", "-d", str(project)]
        environment = toolchain.platformio_environment(core)
        with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment) as monitor:
            os.close(theirs)
            try:
                assert b"socket://127.0.0.1:%d" % port in shown(ours, b"Ctrl+H")
                os.write(ours, b"e    " + b"typed here")  # echo, and very much of it
                shown(ours, b"typed here")
            finally:
                monitor.terminate()
        os.close(ours)
    finally:
        toolchain.pio_run(project, "-t", "stop", directory=core, timeout=120)


def shown(terminal: int, wanted: bytes, seconds: float = 30.0) -> bytes:
    """What a terminal shows, until a text has come."""
    text = b""
    deadline = time.monotonic() + seconds
    while wanted not in text:
        left = deadline - time.monotonic()
        assert left > 0 and select.select([terminal], [], [], left)[0], text
        text += os.read(terminal, 4096)
    return text


@pytest.mark.parametrize("running", ALL, indirect=True)
def test_no_byte_is_lost(running: toolchain.EmulatorProcess) -> None:
    data = random.Random(7).randbytes(65536)
    expected = 0
    for byte in data:
        expected = (expected * 31 + byte) & 0xFFFFFFFF
    with Probe(running.port) as probe:
        # The board stops reading and computes, again and again, while all of it is on its way.
        probe.command("k", len(data))
        probe.socket.sendall(data)
        assert int.from_bytes(probe.take(4), "little") == expected
        assert probe.echo(data[:4096]) == data[:4096]


@pytest.mark.parametrize("running", ALL, indirect=True)
def test_another_host_may_come(running: toolchain.EmulatorProcess) -> None:
    for word in (b"first", b"second", b"third"):
        with Probe(running.port) as probe:
            assert probe.echo(word) == word


@pytest.mark.parametrize("name", EMULATED)
def test_ticks_are_instructions(name: str, projects: dict[str, Path]) -> None:
    board = boards.load(name)
    counts = []
    for _ in range(2):
        with (
            toolchain.Emulator(board, toolchain.firmware_elf(projects[name], board)) as process,
            Probe(process.port) as probe,
        ):
            counts.append([probe.ask("t", rounds) for rounds in (10, 11, 12, 1000, 1001, 100_000, 10)])
    first, second = counts
    assert first == second  # exactly repeatable, whenever the host comes
    assert first[-1] == first[0]
    assert [first[1] - first[0], first[2] - first[1], first[4] - first[3]] == [ROUND[name]] * 3
    assert first[5] - first[0] == (100_000 - 10) * ROUND[name]


@pytest.mark.parametrize("running", EMULATED, indirect=True)
def test_stack_high_water(running: toolchain.EmulatorProcess) -> None:
    with Probe(running.port) as probe:
        before = probe.ask("s")
        probe.ask("d", 3)
        deeper = probe.ask("s")
        assert 0 < before < 512
        assert 4 * 256 <= deeper - before <= 4 * 256 + 256
        assert probe.ask("s") == deeper


@pytest.mark.parametrize("running", EMULATED, indirect=True)
def test_clock_and_entropy(running: toolchain.EmulatorProcess) -> None:
    with Probe(running.port) as probe:
        assert probe.ask("m") <= probe.ask("m") < 60_000
        first = probe.ask("r")
        running.reset()
        deadline = time.monotonic() + 10
        while probe.ask("r") == first and time.monotonic() < deadline:
            pass
        assert probe.ask("r") != first


@pytest.mark.parametrize("name", EMULATED)
@pytest.mark.parametrize(
    ("command", "value"), [("f", 0xE800_0000), ("d", 100_000)], ids=["bad address", "stack overflow"]
)
def test_a_fault_is_told_and_ends(name: str, command: str, value: int, projects: dict[str, Path]) -> None:
    board = boards.load(name)
    with (
        toolchain.Emulator(board, toolchain.firmware_elf(projects[name], board)) as process,
        Probe(process.port) as probe,
    ):
        probe.command(command, value)
        said = probe.rest().decode()
        told = re.fullmatch(
            r"\0\r\ntlc fault: ([a-z ]+); cause (\w{8}) pc (\w{8}) lr \w{8} sp \w{8} detail (\w{8}) build (\w{16})\r\n\0",
            said,
        )
        assert told and int(told[2], 16) > 0
        assert told[1] == ("stack overflow" if command == "d" else "hard fault" if name == "qemu-m0" else "bus error")
        assert int(told[3], 16) > 0 and told[5] != 16 * "0"
        assert int(told[4], 16) > 0 or name == "qemu-m0"  # which tells no more
        assert process.wait(10) == 70


@pytest.mark.parametrize("name", ALL)
def test_exit_code(name: str, projects: dict[str, Path]) -> None:
    board = boards.load(name)
    with (
        toolchain.Emulator(board, toolchain.firmware_elf(projects[name], board)) as process,
        Probe(process.port) as probe,
    ):
        probe.command("x", 7)
        assert process.wait(10) == 7


@pytest.mark.parametrize("name", ["qemu-m4", "native"])
def test_no_orphan_when_we_are_killed(name: str, projects: dict[str, Path]) -> None:
    elf = toolchain.firmware_elf(projects[name], boards.load(name))
    program = (
        "import sys, time\nfrom tlc import boards, toolchain\n"
        f"process = toolchain.start(boards.load({name!r}), {str(elf)!r})\n"
        "print(process.pid, flush=True)\ntime.sleep(60)\n"
    )
    path = os.pathsep.join(entry for entry in sys.path if entry)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as child:
        assert child.stdout is not None
        pid = int(child.stdout.readline())
        assert alive(pid)
        child.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_native_listens_by_itself(projects: dict[str, Path]) -> None:
    elf = toolchain.firmware_elf(projects["native"], boards.load("native"))
    with subprocess.Popen([elf, "--port", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        host, _, port = process.stdout.readline().removeprefix("listening ").strip().partition(":")
        assert host == "127.0.0.1"
        with Probe(int(port)) as probe:
            assert probe.echo(b"hello") == b"hello"
        process.stdin.close()
        assert process.wait(10) == 0
    assert subprocess.run([elf, "--prt", "0"], capture_output=True, timeout=10).returncode == 2


def test_a_port_in_use_and_a_missing_image(projects: dict[str, Path], tmp_path: Path) -> None:
    board = boards.load("qemu-m4")
    elf = toolchain.firmware_elf(projects["qemu-m4"], board)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ToolchainError, match="is taken"):
            toolchain.start(board, elf, port=taken.getsockname()[1])
    with pytest.raises(ToolchainError, match="no firmware image"):
        toolchain.start(board, tmp_path / "none.elf")
    with pytest.raises(ToolchainError, match="build it: pio run"):
        toolchain.firmware_elf(tmp_path, board)


@pytest.mark.parametrize("name", ["qemu-m4", "native"])
def test_an_image_of_another_architecture(name: str, projects: dict[str, Path], tmp_path: Path) -> None:
    elf = toolchain.firmware_elf(projects["qemu-rv32"], boards.load("qemu-rv32"))
    with pytest.raises(ToolchainError, match=f"board '{name}': .* is an ELF file for machine 243, .*build it for this"):
        toolchain.start(boards.load(name), elf)
    (tmp_path / "text.elf").write_text("no image")
    with pytest.raises(ToolchainError, match="is no ELF file"):
        toolchain.start(boards.load(name), tmp_path / "text.elf")


def test_a_missing_emulator(projects: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    board = boards.load("qemu-m4")
    elf = toolchain.firmware_elf(projects["qemu-m4"], board)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolchainError, match="qemu-system-arm is not installed; apt-get install qemu-system-arm"):
        toolchain.start(board, elf)


def test_a_missing_compiler_and_broken_source(
    projects: dict[str, Path], core: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project("qemu-m4", tmp_path)
    (project / "src" / "main.c").write_text("int main(void) { return nothing; }\n")
    with pytest.raises(ToolchainError, match=r"pio run -d .*qemu-m4: src/main.c:1:25: error: 'nothing' undeclared"):
        toolchain.pio_run(project, directory=core, timeout=120)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolchainError, match="arm-none-eabi-gcc is not installed; apt-get install gcc-arm-none-eabi"):
        toolchain.pio_run(project, directory=core, timeout=120)
