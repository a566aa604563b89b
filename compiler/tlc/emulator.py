# SPDX-License-Identifier: Apache-2.0
"""Boots a firmware image: an emulated board in QEMU, or the native board's own process, its UART on a TCP port. Renode
has a file of its own, :mod:`tlc.emulator_renode`.

This file needs nothing but the standard library, because a copy of it is installed into the PlatformIO platform, which
runs in whatever Python PlatformIO runs in. The compiler and the tests use it through :mod:`tlc.toolchain`.

The UART's socket is bound and listening before the emulator starts and is handed over to it, so a free port stays free
and a client may connect at once. A process that belongs to this one dies with it, however this one ends.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import importlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

try:
    from tlc.errors import ToolchainError
except ImportError:  # the copy in the PlatformIO platform

    class ToolchainError(Exception):  # type: ignore[no-redef]
        """Stands in for tlc's own."""

        def __init__(self, rule: str, *, where: str = "", remedy: str = "") -> None:
            self.rule = rule
            self.where = where
            self.remedy = remedy
            super().__init__(f"{rule}; {remedy}" if remedy else rule)


__all__ = [
    "EmulatorFailed",
    "EmulatorProcess",
    "EmulatorTooOld",
    "boot",
    "listen",
    "parse_port",
    "read_state",
    "spawn",
    "stop_state",
    "write_state",
]

HOST = "127.0.0.1"
START_SECONDS = 10.0
STOP_SECONDS = 3.0
UART_SECONDS = 1.0
OLDEST = (7, 0)
"""QEMU's version, major and minor."""

APT_PACKAGES = {
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-riscv32": "qemu-system-misc",
    "qemu-system-xtensa": "qemu-system-misc",
}


ELF_MACHINES = {"qemu-system-arm": 40, "qemu-system-riscv32": 243, "qemu-system-xtensa": 94}


class EmulatorFailed(ToolchainError):
    """The emulator cannot be started, or ended at once: *what*, and *what to do* about it."""

    def __init__(self, rule: str, remedy: str = "") -> None:
        super().__init__(rule, remedy=remedy)


class EmulatorTooOld(EmulatorFailed):
    """It runs, but lacks what our boards need."""


def parse_port(text: str) -> int:
    """``"5000"``, ``"127.0.0.1:5000"`` or ``"socket://127.0.0.1:5000"`` as a port number; empty gives 0 (any)."""
    if not text:
        return 0
    number = text.rsplit(":", 1)[-1].rstrip("/")
    if not number.isdigit() or int(number) > 65535:
        raise EmulatorFailed(
            f"the upload port of an emulated board is a TCP port, not '{text}'", "use 0 for any free one"
        )
    return int(number)


def listen(port: int = 0) -> socket.socket:
    """A socket that listens on the loopback interface; 0 is any free port."""
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind((HOST, port))
        server.listen(1)
    except OSError as error:
        server.close()
        raise EmulatorFailed(
            f"port {port} of {HOST} is taken ({error.strerror})", "choose another, or 0 for any"
        ) from error
    return server


class EmulatorProcess:
    """A board that runs. Use it as a context manager, or call :meth:`stop`.

    Attributes:
        host, port: where its UART listens. One client at a time; another may come when it has gone.
        pid: the process.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        port: int,
        log: IO[bytes],
        monitor: socket.socket | None,
        starts_address: int | None,
    ) -> None:
        self._process = process
        self._log = log
        self._monitor = monitor
        self._starts_address = starts_address
        self.host = HOST
        self.port = port
        self.pid = process.pid

    @property
    def addresses(self) -> list[str]:
        """Where each board's UART is, as ``open_transport`` of the host takes it. QEMU and a process have one board."""
        return [f"tcp://{self.host}:{self.port}"]

    @property
    def address(self) -> str:
        """Where the (first) board's UART is."""
        return self.addresses[0]

    def instructions(self, machine: int = 0) -> int | None:
        """Instructions that a board's CPU has run; None: the emulator does not tell."""
        return None

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What the emulator itself has said so far (not the UART)."""
        self._log.flush()
        with open(self._log.name, "rb") as log:
            return log.read().decode(errors="replace").strip()

    def wait(self, timeout: float) -> int:
        """Waits for the program to end by itself; its exit code.

        Raises:
            EmulatorFailed: it still runs after ``timeout`` seconds.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise EmulatorFailed(f"the program still runs after {timeout} s") from error

    def listen_for_debugger(self, path: str) -> None:
        """Lets a debugger connect to a Unix socket at ``path`` (GDB's remote serial protocol).

        Raises:
            EmulatorFailed: a native process has no such thing.
        """
        if self._monitor is None:
            raise EmulatorFailed("a native process has no debugger of its own", "attach gdb to it")
        line = {"command-line": f"gdbserver unix:{path},server=on,wait=off"}
        _monitor_command(self._monitor, "human-monitor-command", line)

    def reset(self, resume: Callable[[], None] | None = None, machine: int = 0) -> None:
        """Presses the reset button: the CPU starts again, RAM keeps what it held, the UART's client stays connected.

        Args:
            resume: called after it, where a debugger holds the CPU: lets it run.
            machine: of several boards in one emulation, which.

        Returns when the program has set up its UART again; what is sent before may be lost.

        Raises:
            EmulatorFailed: the board is the native one, which has no such button, or the emulator is gone.
        """
        if self._monitor is None:
            raise EmulatorFailed("a native process has no reset", "stop it and start another on the same port")
        starts = _word(self._monitor, self._starts_address) if self._starts_address is not None else 0
        _monitor_command(self._monitor, "system_reset")
        if resume is not None:
            resume()
        if self._starts_address is not None:
            _await_start(self._monitor, self._starts_address, starts)

    def stop(self) -> None:
        """Ends the process, if it still runs, and waits for it. May be called again."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(STOP_SECONDS)
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._log.close()

    def release(self) -> None:
        """Lets the process live on after this one (it must have been booted with ``detach=True``)."""
        atexit.unregister(self.stop)
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
        self._log.close()
        self._process.returncode = 0  # nobody is to wait for it any more

    def __enter__(self) -> EmulatorProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def boot(
    spec: Mapping[str, Any],
    elf: str | os.PathLike[str],
    *,
    port: int = 0,
    seed: int | None = None,
    detach: bool = False,
    log: str | os.PathLike[str] | None = None,
    flash: str | os.PathLike[str] | None = None,
    machines: int = 1,
) -> EmulatorProcess:
    """Starts a firmware image and returns when it runs.

    Args:
        spec: the board file's ``[emulator]`` table: ``kind`` (``"qemu"``, ``"renode"`` or ``"process"``), and what that
            kind needs (docs/boards.md).
        elf: the image.
        port: the UART's TCP port on the loopback interface; 0 is any free one, or in Renode a pseudo-terminal.
        seed: what the program's entropy starts from; None is a random one.
        detach: the process outlives this one (``pio run -t upload``).
        log: where the emulator's own messages go; None is a temporary file.
        flash: a file in which a process keeps what it learns; None: it keeps nothing.
        machines: boards in the emulation; only Renode has more than one.

    Raises:
        EmulatorFailed: the image or the emulator is missing, the port is taken, or it ended at once.
    """
    image = Path(elf).resolve()
    if not image.is_file():
        raise EmulatorFailed(f"no firmware image at {image}", "build it first: pio run")
    kind = str(spec["kind"])
    if machines < 1 or (machines > 1 and kind != "renode"):
        raise EmulatorFailed(f"{machines} boards in one emulation: only Renode has several", "start one for each board")
    if kind == "renode":
        _check_machine(image, kind, "qemu-system-riscv32" if "riscv" in str(spec["platform"]) else "qemu-system-arm")
        return _renode().boot(  # type: ignore[no-any-return]
            spec, image, port=port, seed=seed, detach=detach, log=log, machines=machines
        )
    _check_machine(image, kind, str(spec.get("program", "")))
    server = listen(port)
    theirs: socket.socket | None = None
    ours: socket.socket | None = None
    log_file: IO[bytes] = (
        open(log, "wb") if log is not None else tempfile.NamedTemporaryFile(prefix="tlc-emulator-", suffix=".log")  # noqa: SIM115
    )
    try:
        if kind == "qemu":
            ours, theirs = socket.socketpair()
            command = _qemu_command(spec, image, server.fileno(), theirs.fileno(), seed)
        else:
            command = [str(image), "--fd", str(server.fileno())] + (["--ignore-stdin"] if detach else [])
            if seed is not None:
                command += ["--seed", str(seed)]
            if flash is not None:
                command += ["--flash", str(Path(flash).resolve())]
        inherited = [server.fileno()] + ([theirs.fileno()] if theirs is not None else [])
        process = spawn(command, inherited, log_file, detach=detach, feed=kind == "process" and not detach)
        starts = int(spec["seed_address"]) + 4 if "seed_address" in spec else None
        emulator = EmulatorProcess(process, int(server.getsockname()[1]), log_file, ours, starts)
    except BaseException:
        log_file.close()
        for end in (ours, theirs):
            if end is not None:
                end.close()
        raise
    finally:
        server.close()
    if theirs is not None:
        theirs.close()
    atexit.register(emulator.stop)
    try:
        if ours is not None:
            _monitor_greeting(ours)
            if starts is not None:
                _await_start(ours, starts, 0)
    except EmulatorTooOld:
        emulator.stop()
        raise
    except (OSError, ValueError, KeyError, TypeError, EmulatorFailed) as error:
        said = emulator.output().splitlines()
        emulator.stop()
        raise EmulatorFailed(
            f"the emulator ended with code {process.returncode}: {said[-1] if said else error}",
            "check that the image was built for this board",
        ) from error
    return emulator


def _renode() -> Any:
    """Its file beside this one, which imports this one."""
    if __name__ == "tlc_emulator":  # the copy in the PlatformIO platform
        return importlib.import_module("tlc_emulator_renode")
    return importlib.import_module("tlc.emulator_renode")


def _elf_machine(path: Path) -> int:
    """``e_machine`` of an ELF file; 0 where it is none."""
    with open(path, "rb") as image:
        head = image.read(20)
    return int.from_bytes(head[18:20], "little") if head[:4] == b"\x7fELF" and len(head) == 20 else 0


def _check_machine(image: Path, kind: str, program: str) -> None:
    wanted = _elf_machine(Path(sys.executable).resolve()) if kind == "process" else ELF_MACHINES.get(program, 0)
    found = _elf_machine(image)
    if wanted and found != wanted:
        what = f"an ELF file for machine {found}" if found else "no ELF file"
        raise EmulatorFailed(f"{image} is {what}, the board needs machine {wanted}", "build it for this board")


def _qemu_command(spec: Mapping[str, Any], image: Path, uart: int, monitor: int, seed: int | None) -> list[str]:
    program = str(spec["program"])
    found = shutil.which(program)
    if found is None:
        raise EmulatorFailed(f"{program} is not installed", f"apt-get install {APT_PACKAGES.get(program, program)}")
    command = [found, *map(str, spec["args"])]
    command += ["-nodefaults", "-display", "none"]
    command += ["-semihosting-config", "enable=on,target=native"]  # the program's exit code
    command += ["-icount", f"shift={int(spec.get('icount_shift', 0))}"]
    command += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    socket_of_uart = f"socket,id=uart,fd={uart},server=on,wait=off,nodelay=on"
    if spec.get("uart_queue"):
        # The multiplexer's queue of 32 bytes feeds the UART while the CPU reads it, without a turn of QEMU's main loop
        # and a wake-up for each byte. No byte is 256, so none is its escape character.
        socket_of_uart += ",mux=on"
        command += ["-echr", "256"]
    command += ["-chardev", socket_of_uart, "-serial", "chardev:uart"]
    if "seed_address" in spec:
        value = secrets.randbits(32) if seed is None else seed & 0xFFFFFFFF
        command += ["-device", f"loader,addr={int(spec['seed_address']):#x},data={value:#x},data-len=4"]
    return [*command, "-kernel", str(image)]


# Linux kills a child when the *thread* that started it ends, so one thread starts them all and lives as long as we do.
_SPAWNER: concurrent.futures.ThreadPoolExecutor | None = None
_SPAWNER_LOCK = threading.Lock()


def spawn(
    command: Sequence[str],
    inherited: Sequence[int],
    log: IO[bytes],
    *,
    detach: bool,
    feed: bool,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Starts a program in a process group of its own; it dies with this process, unless it is detached.

    Args:
        inherited: file descriptors that it gets.
        log: where all that it prints goes.
        feed: its standard input is a pipe from this process; else it has none.
        environment: None: this process's.

    Raises:
        EmulatorFailed: it cannot be started.
    """
    global _SPAWNER
    setpriv = shutil.which("setpriv")
    guarded = list(command) if detach or setpriv is None else [setpriv, "--pdeathsig", "KILL", *command]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            guarded,
            stdin=subprocess.PIPE if feed else subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=inherited,
            start_new_session=True,
            env=environment,
        )

    try:
        if detach:
            return start()
        with _SPAWNER_LOCK:
            if _SPAWNER is None:
                _SPAWNER = concurrent.futures.ThreadPoolExecutor(1, "tlc-emulator")
        return _SPAWNER.submit(start).result()
    except OSError as error:
        raise EmulatorFailed(
            f"{command[0]} cannot be started ({error.strerror})", "was it built for this machine?"
        ) from error


def _monitor_line(monitor: socket.socket) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        byte = monitor.recv(1)
        if not byte:
            raise ConnectionError("it closed its monitor")
        line += byte
    message: dict[str, Any] = json.loads(line)
    return message


def _monitor_greeting(monitor: socket.socket) -> None:
    monitor.settimeout(START_SECONDS)
    version = _monitor_line(monitor)["QMP"]["version"]["qemu"]
    if (version["major"], version["minor"]) < OLDEST:
        raise EmulatorTooOld(
            f"the emulator is QEMU {version['major']}.{version['minor']}, and {OLDEST[0]}.{OLDEST[1]} is the oldest that will do",
            "Debian 12 and Ubuntu 22.10 have it, and all that came after",
        )
    _monitor_command(monitor, "qmp_capabilities")


def _word(monitor: socket.socket, address: int) -> int:
    """A word of the board's memory."""
    shown = _monitor_command(monitor, "human-monitor-command", {"command-line": f"xp /1wx {address:#x}"})
    return int(str(shown).split(":")[-1].strip() or "0", 16)


def _await_start(monitor: socket.socket, address: int, before: int) -> None:
    """Waits until the program has set up its UART, where turning on a FIFO drops what came before.

    Our start-up code counts its starts in the word after the seed's. A program that does not is not waited for long.
    """
    deadline = time.monotonic() + UART_SECONDS
    while time.monotonic() < deadline:
        if _word(monitor, address) != before:
            return
        time.sleep(0.001)


def _monitor_command(monitor: socket.socket, command: str, arguments: Mapping[str, Any] | None = None) -> object:
    try:
        message = {"execute": command, "arguments": dict(arguments or {})}
        monitor.sendall(json.dumps(message).encode() + b"\n")
        while "return" not in (answer := _monitor_line(monitor)):  # events come between
            if "error" in answer:
                raise EmulatorFailed(f"the emulator refused '{command}': {answer['error'].get('desc', '')}")
        return answer["return"]
    except OSError as error:
        raise EmulatorFailed(f"the emulator does not take '{command}' ({error})", "it may have ended") from error


# ---- a detached process, remembered in a state file: pio run -t upload, pio run -t stop ------------------------------


def _started(pid: int) -> str:
    """When a process started, so that a recycled number is not mistaken for it; empty where it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    fields = stat.rsplit(")", 1)[-1].split()
    return "" if fields[0] == "Z" else fields[19]


def read_state(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The running process that a state file describes (``pid, host, port, address, elf``); None where none runs."""
    try:
        state: dict[str, Any] = json.loads(Path(path).read_text())
        alive = bool(state["started"]) and _started(int(state["pid"])) == state["started"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return state if alive else None


def stop_state(path: str | os.PathLike[str]) -> bool:
    """Ends the process that a state file describes, and removes the file; False where none ran."""
    state = read_state(path)
    if state is not None:
        pid = int(state["pid"])
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)  # it leads a group of its own
            deadline = time.monotonic() + STOP_SECONDS
            while _started(pid) == state["started"] and time.monotonic() < deadline:
                time.sleep(0.01)
            if _started(pid) != state["started"]:
                break
        if state.get("directory"):
            shutil.rmtree(state["directory"], ignore_errors=True)
    Path(path).unlink(missing_ok=True)
    return state is not None


def write_state(path: str | os.PathLike[str], emulator: EmulatorProcess, elf: str) -> None:
    """Remembers a detached process."""
    state = {
        "pid": emulator.pid,
        "host": emulator.host,
        "port": emulator.port,
        "address": emulator.address,
        "elf": elf,
        "started": _started(emulator.pid),
        "directory": str(getattr(emulator, "directory", "")),
    }
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(state, indent=2) + "\n")
    temporary.replace(target)
