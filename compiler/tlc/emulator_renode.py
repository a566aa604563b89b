# SPDX-License-Identifier: Apache-2.0
"""Boots firmware images in Renode: one emulation with one machine or several, each with its UART on a pseudo-terminal.

Renode is told what to do over its robot server, which speaks XML-RPC: ``run_keyword("ExecuteCommand", [line])`` runs a line
of its monitor. It chooses a free port for that by itself and writes it to a file in its temporary directory, of which each
instance gets its own, so many may run side by side. What it is told lies there too, as ``board.repl`` and ``board.resc``;
a project has the same two for its board, and a robot file (:func:`project_files`).

Like :mod:`tlc.emulator` this file needs the standard library alone: a copy of it goes into the PlatformIO platform.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import xmlrpc.client
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING or __name__ != "tlc_emulator_renode":
    from tlc.emulator import EmulatorFailed, EmulatorProcess, EmulatorTooOld, listen, spawn
else:  # the copy in the PlatformIO platform
    from tlc_emulator import EmulatorFailed, EmulatorProcess, EmulatorTooOld, listen, spawn

__all__ = ["HOW_TO_GET_IT", "RenodeProcess", "boot", "find_renode", "project_files", "renode"]

VARIABLE = "TLC_RENODE"
HOW_TO_GET_IT = f"install Renode 1.16 or newer (https://github.com/renode/renode/releases) and put it on the PATH, or name it in {VARIABLE}"
OLDEST = (1, 16)
START_SECONDS = 60.0
"""Renode is ready in 3 to 6 s on a machine that does nothing else."""
CALL_SECONDS = 60.0
STOP_SECONDS = 5.0
UART_SECONDS = 20.0
POLL_SECONDS = 0.02

# Renode may be a script around the program that does the work, so what ends is the process group: when the pipe from this
# process closes, however this process ends; and with it the instance's directory, which is the script's name.
GUARD = 'exec 3<&0; "$@" </dev/null 3<&- & child=$!; (cat <&3 >/dev/null; rm -rf "$0"; kill -9 0) & wait "$child"'


def find_renode() -> str | None:
    """The program that ``TLC_RENODE`` names, or the one on the PATH; None where there is none."""
    return shutil.which(os.environ.get(VARIABLE) or "renode")


def renode() -> str:
    """What :func:`find_renode` finds.

    Raises:
        EmulatorFailed: nothing.
    """
    program, named = find_renode(), os.environ.get(VARIABLE)
    if program is None:
        raise EmulatorFailed(
            f"{VARIABLE} names no program: '{named}'" if named else "renode is not installed", HOW_TO_GET_IT
        )
    return program


class _Timed(xmlrpc.client.Transport):
    """A call that waits for ever is an emulator that hangs."""

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = super().make_connection(host)
        connection.timeout = CALL_SECONDS
        return connection


class RenodeProcess(EmulatorProcess):
    """An emulation that runs, with one machine or several of the same board.

    Attributes:
        addresses: of the machines' UARTs, as ``open_transport`` takes them.
        pid: the process, which leads its group.
    """

    def __init__(
        self, process: subprocess.Popen[bytes], log: IO[bytes], directory: Path, starts_address: int | None
    ) -> None:
        super().__init__(process, 0, log, None, starts_address)
        self.directory = directory
        self._lock = threading.Lock()
        self._server: xmlrpc.client.ServerProxy | None = None
        self._addresses: list[str] = []
        self._released = False

    @property
    def addresses(self) -> list[str]:
        """Where each machine's UART is."""
        return self._addresses

    def command(self, line: str) -> str:
        """Runs a line of Renode's monitor; what it answers.

        Raises:
            EmulatorFailed: it refuses, or does not answer.
        """
        if self._server is None:
            raise EmulatorFailed("the emulator does not take commands", "it has been stopped")
        try:
            with self._lock:
                answer: Any = self._server.run_keyword("ExecuteCommand", [line])
            status, said = (
                str(answer["status"]),
                str(answer.get("return" if answer["status"] == "PASS" else "error", "")),
            )
        except (OSError, http.client.HTTPException, xmlrpc.client.Error, KeyError, TypeError, ValueError) as error:
            raise EmulatorFailed(
                f"Renode does not take '{line}' ({_first_line(str(error)) or type(error).__name__})",
                "it may have ended",
            ) from error
        if status != "PASS":
            raise EmulatorFailed(f"Renode refused '{line}': {_first_line(said)}", "is this the Renode that we need?")
        return said.strip()

    def connect(self) -> None:
        """Waits for the robot server, and asks for the version.

        Raises:
            EmulatorFailed: it ends, or is not there in time.
            EmulatorTooOld: it is.
        """
        deadline = time.monotonic() + START_SECONDS
        while True:
            ports = list(self.directory.glob("renode-*/robot_port"))
            text = ports[0].read_text().strip() if ports else ""
            if text.isdigit():
                break
            if self.returncode is not None:
                raise EmulatorFailed(f"it ended with code {self.returncode}", HOW_TO_GET_IT)
            if time.monotonic() > deadline:
                raise EmulatorFailed(f"Renode's robot server is not there after {START_SECONDS:.0f} s", HOW_TO_GET_IT)
            time.sleep(POLL_SECONDS)
        self._server = xmlrpc.client.ServerProxy(f"http://127.0.0.1:{text}/", transport=_Timed(), allow_none=True)
        said = self.command("version")
        match = re.search(r"(\d+)\.(\d+)", said)
        if match is None:
            raise EmulatorFailed(f"Renode does not tell its version, but '{_first_line(said)}'", HOW_TO_GET_IT)
        if (int(match[1]), int(match[2])) < OLDEST:
            raise EmulatorTooOld(
                f"the emulator is Renode {match[0]}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that will do",
                HOW_TO_GET_IT,
            )

    def start(self, spec: Mapping[str, Any], seeds: Sequence[int], port: int) -> None:
        """Makes the machines and lets them run; returns when each has set up its UART.

        Args:
            spec: as of :func:`boot`.
            seeds: one a machine.
            port: the TCP port of the first one's UART; 0: a pseudo-terminal.
        """
        for number, seed in enumerate(seeds):
            terminal = self.directory / f"uart{number}"
            if port and number == 0:
                listen(port).close()  # says so where it is taken
                made = f'emulation CreateServerSocketTerminal {port} "term{number}" false'
                self.port = port
                self._addresses.append(f"tcp://{self.host}:{port}")
            else:
                made = f'emulation CreateUartPtyTerminal "term{number}" "{terminal}"'
                self._addresses.append(f"serial://{terminal}")
            for line in _machine(spec, self.directory, number, made, seed):
                self.command(line)
        self.command("start")
        for number in range(len(seeds)):
            self._await_start(number, 0)

    def reset(self, resume: Callable[[], None] | None = None, machine: int = 0) -> None:
        """Presses the reset button of a machine; RAM keeps what it held."""
        before = self._starts(machine)
        self.command("machine Reset")
        if resume is not None:
            resume()
        self._await_start(machine, before)

    def instructions(self, machine: int = 0) -> int | None:
        """Instructions that a machine's CPU has run since it was made, idle waiting not among them."""
        self.command(f'mach set "board{machine}"')
        return int(self.command("sysbus.cpu ExecutedInstructions"), 0)

    def listen_for_debugger(self, path: str) -> None:
        """Not in Renode: its debugger wants a TCP port.

        Raises:
            EmulatorFailed: always.
        """
        raise EmulatorFailed("Renode's debugger is not used here", "gdb reaches it: machine StartGdbServer 3333")

    def _starts(self, machine: int) -> int:
        """How often a machine's program has started, and makes the machine the one that commands are for."""
        self.command(f'mach set "board{machine}"')
        if self._starts_address is None:
            return 0
        return int(self.command(f"sysbus ReadDoubleWord {self._starts_address:#x}"), 0)

    def _await_start(self, machine: int, before: int) -> None:
        deadline = time.monotonic() + UART_SECONDS
        while self._starts_address is not None and self._starts(machine) == before:
            if time.monotonic() > deadline:
                raise EmulatorFailed("the program does not start", "check that the image was built for this board")
            time.sleep(POLL_SECONDS)

    def stop(self) -> None:
        """Ends the emulation, if it still runs, and waits for it and all that it started. May be called again."""
        atexit.unregister(self.stop)
        if self._released:
            return
        server, self._server = self._server, None
        if server is not None and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException, xmlrpc.client.Error):
                server.run_keyword("StopRemoteServer", [])
                self._process.wait(STOP_SECONDS)
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(OSError):
                self._process.stdin.close()  # the guard ends the group
        # Nobody guards a process that was to outlive us.
        for number in (0 if self._process.stdin is not None else signal.SIGTERM, signal.SIGKILL):
            if number:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
            if _group_gone(self.pid, STOP_SECONDS):
                break
        self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def release(self) -> None:
        """Lets the emulation live on after this process; its directory stays."""
        self._released = True
        super().release()


def _members(group: int) -> Iterator[int]:
    """Processes of a group that still do something; a dead one may wait long for somebody to ask for its end."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[-1].split()
        except OSError:
            continue
        if fields[2] == str(group) and fields[0] not in "ZX":
            yield int(path.parent.name)


def _group_gone(group: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(_members(group)):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0] if lines else ""


# ---- what Renode is told ----


def _description(spec: Mapping[str, Any]) -> str:
    """``board.repl``: Renode's own description of the platform, and what our firmware sets otherwise."""
    return "\n".join([f'using "{spec["platform"]}"', *map(str, spec.get("description", [])), ""])


def _machine(spec: Mapping[str, Any], directory: Path, number: int, terminal: str, seed: int) -> list[str]:
    """The monitor's lines that make one machine."""
    lines = [
        f'mach create "board{number}"',
        f"machine LoadPlatformDescription @{directory}/board.repl",
        terminal,
        f"connector Connect sysbus.{spec['uart']} term{number}",
        # Also run when the program resets itself. Loading sets the vector table and where the CPU begins.
        f'macro reset "sysbus LoadELF @{directory}/firmware.elf"',
        "runMacro $reset",
    ]
    if "seed_address" in spec:
        lines.append(f"sysbus WriteDoubleWord {int(spec['seed_address']):#x} {seed & 0xFFFFFFFF:#x}")
    return lines


RESC = """\
# SPDX-License-Identifier: Apache-2.0
# Boots this project's firmware in Renode: build it (pio run), then in Renode's monitor `include @renode/board.resc`, from
# the project's directory. The UART is on TCP port 3456 of this machine, on every interface.
$name?="{board}"
$elf?=$ORIGIN/../.pio/build/{board}/firmware.elf

mach create $name
machine LoadPlatformDescription $ORIGIN/board.repl
emulation CreateServerSocketTerminal 3456 "term" false
connector Connect sysbus.{uart} term
macro reset
\"\"\"
    sysbus LoadELF $elf
\"\"\"
runMacro $reset
start
"""

ROBOT = """\
# SPDX-License-Identifier: Apache-2.0
# For renode-test: build the project (pio run), then `renode-test renode/board.robot` in the project's directory. It boots the
# firmware, sees it start, and listens for a fault. What it computes is held to its twin by `tlc hil`.
*** Settings ***
Suite Setup       Setup
Suite Teardown    Teardown
Test Teardown     Test Teardown
Resource          ${{RENODEKEYWORDS}}

*** Variables ***
${{ELF}}     ${{CURDIR}}/../.pio/build/{board}/firmware.elf
${{UART}}    sysbus.{uart}

*** Keywords ***
Boot The Firmware
    Execute Command    mach create "{board}"
    Execute Command    machine LoadPlatformDescription @${{CURDIR}}/board.repl
    Execute Command    sysbus LoadELF @${{ELF}}
    Create Terminal Tester    ${{UART}}
    Start Emulation

*** Test Cases ***
It Starts And Does Not Fault
    Boot The Firmware
    Should Not Be On Uart    tlc fault    timeout=2
    ${{starts}}=    Execute Command    sysbus ReadDoubleWord {starts:#x}
    Should Be Equal As Integers    ${{starts.strip()}}    1
    ${{instructions}}=    Execute Command    sysbus.cpu ExecutedInstructions
    Should Be True    ${{instructions.strip()}} > 1000
"""


def project_files(board: str, spec: Mapping[str, Any]) -> dict[str, str]:
    """What a project for a board in Renode has for people who use Renode themselves: relative path -> text.

    Args:
        board: its id.
        spec: the board file's ``[emulator]`` table.
    """
    values = {"board": board, "uart": spec["uart"], "starts": int(spec["seed_address"]) + 4}
    return {
        "renode/board.repl": _description(spec),
        "renode/board.resc": RESC.format(**values),
        "renode/board.robot": ROBOT.format(**values),
    }


# ---- booting ----


def boot(
    spec: Mapping[str, Any],
    image: Path,
    *,
    port: int = 0,
    seed: int | None = None,
    detach: bool = False,
    log: str | os.PathLike[str] | None = None,
    machines: int = 1,
) -> RenodeProcess:
    """Starts an image in one machine or several; for the arguments see :func:`tlc.emulator.boot`.

    Raises:
        EmulatorFailed: Renode is missing, too old, refuses something, or ended.
    """
    program = renode()
    directory = Path(tempfile.mkdtemp(prefix="tlc-renode-"))
    (directory / "firmware.elf").symlink_to(image)
    (directory / "board.repl").write_text(_description(spec), encoding="utf-8")
    command = [program, "--disable-gui", "--plain", "--hide-log", "--robot-server-port", "0"]
    command += ["--config", str(directory / "config")]
    if not detach:
        command = ["sh", "-c", GUARD, str(directory), *command]
    log_file: IO[bytes] = open(log if log is not None else directory / "log", "wb")  # noqa: SIM115
    try:
        process = spawn(
            command, [], log_file, detach=detach, feed=not detach, environment={**os.environ, "TMPDIR": str(directory)}
        )
    except BaseException:
        log_file.close()
        shutil.rmtree(directory, ignore_errors=True)
        raise
    starts = int(spec["seed_address"]) + 4 if "seed_address" in spec else None
    emulator = RenodeProcess(process, log_file, directory, starts)
    atexit.register(emulator.stop)
    first = secrets.randbits(32) if seed is None else seed
    try:
        emulator.connect()
        emulator.start(spec, [first + number for number in range(machines)], port)
    except EmulatorTooOld:
        emulator.stop()
        raise
    except (OSError, EmulatorFailed) as error:
        said = emulator.output().splitlines()
        code = emulator.returncode
        emulator.stop()
        what = error.rule if isinstance(error, EmulatorFailed) else str(error)
        remedy = error.remedy if isinstance(error, EmulatorFailed) else ""
        if code is not None:
            what = f"the emulator ended with code {code}: {said[-1] if said else what}"
        raise EmulatorFailed(what, remedy) from error
    except BaseException:
        emulator.stop()
        raise
    return emulator
