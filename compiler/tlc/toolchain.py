# SPDX-License-Identifier: Apache-2.0
"""Compilers, PlatformIO and emulators: found, prepared, run. Every failure is one line that says what to install.

PlatformIO builds here without its registry: the one tool that it always asks for, SCons, is on PyPI too and is put
where it looks, and our own platform for emulated boards is installed beside it. A core directory in which PlatformIO
has installed these by itself is left as it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from tlc import boards, emulator, emulator_renode, resources
from tlc.boards import Board
from tlc.emulator import EmulatorFailed, EmulatorProcess
from tlc.errors import ToolchainError

__all__ = [
    "Emulator",
    "EmulatorProcess",
    "core_dir",
    "find_tool",
    "firmware_elf",
    "pio_run",
    "platformio_environment",
    "prepare_platformio",
    "start",
]

APT_PACKAGES = {
    "arm-none-eabi-": "gcc-arm-none-eabi libnewlib-arm-none-eabi",
    "riscv64-unknown-elf-": "gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf",
    "xtensa-lx106-elf-": "gcc-xtensa-lx106 picolibc-xtensa-lx106-elf",
    "qemu-system-arm": "qemu-system-arm",
    "qemu-system-": "qemu-system-misc",
    "gcc": "gcc",
    "cmake": "cmake",
    "ninja": "ninja-build",
}

PIO_SECONDS = 900.0


def find_tool(name: str) -> Path:
    """A program on the PATH.

    Raises:
        ToolchainError: it is not there; the message names Debian's package.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    package = next((apt for start, apt in APT_PACKAGES.items() if name.startswith(start)), None)
    remedy = f"apt-get install {package}" if package else "install it and put it on the PATH"
    raise ToolchainError(f"{name} is not installed", remedy=remedy)


def core_dir() -> Path:
    """PlatformIO's directory for this user: ``PLATFORMIO_CORE_DIR``, or ``~/.platformio``."""
    return Path(os.environ.get("PLATFORMIO_CORE_DIR") or Path.home() / ".platformio").expanduser().absolute()


def prepare_platformio(directory: Path | None = None) -> Path:
    """Makes ``pio run`` work in a core directory (default: this user's), with or without a registry.

    Installs our platform under the name that generated projects use, and SCons where PlatformIO has none of its own.
    Safe to call from many processes, and quick when there is nothing to do.

    Returns:
        The core directory.

    Raises:
        ToolchainError: the directory cannot be written.
    """
    directory = (directory or core_dir()).expanduser().absolute()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / ".tlc.lock"):
            _install_platform(directory)
            _install_scons(directory)
    except OSError as error:
        raise ToolchainError(
            f"PlatformIO's directory {directory} cannot be written ({error.strerror})",
            remedy="set PLATFORMIO_CORE_DIR to another",
        ) from error
    return directory


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _package_meta(kind: str, name: str, version: str, owner: str | None) -> str:
    """``.piopm``: what PlatformIO knows of an installed package."""
    spec = {"owner": owner, "id": None, "name": name, "requirements": None, "uri": None}
    return json.dumps({"type": kind, "name": name, "version": version, "spec": spec})


def _replace_directory(target: Path, fill: Path) -> None:
    """Puts a filled directory in the place of another: whole, or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".old-{target.name}-", dir=target.parent.parent))
        target.rename(old / target.name)
        fill.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    else:
        fill.rename(target)


def _platform_files() -> dict[str, bytes]:
    source = resources.platform_dir()
    files = {
        str(path.relative_to(source)): path.read_bytes()
        for path in sorted(source.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    for module in (emulator, emulator_renode):  # beside each other
        source_file = Path(str(module.__file__))
        files[f"builder/tlc_{source_file.name}"] = source_file.read_bytes()
    for name in boards.names():
        board = boards.load(name)
        if board.platformio.platform == boards.PLATFORM:
            text = json.dumps(board.platformio_manifest(), indent=2) + "\n"
            files[f"boards/{board.platformio.board}.json"] = text.encode()
    version = json.loads(files["platform.json"])["version"]
    files[".piopm"] = _package_meta("platform", boards.PLATFORM, version, None).encode()
    return files


def _install_platform(directory: Path) -> None:
    files = _platform_files()
    digest = hashlib.sha256()
    for name, data in sorted(files.items()):
        digest.update(f"{name}\0{len(data)}\0".encode() + data)
    target = directory / "platforms" / boards.PLATFORM
    stamp = target / ".tlc-digest"
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    fill = Path(tempfile.mkdtemp(prefix=".new-platform-", dir=directory))
    fill.chmod(0o755)
    for name, data in files.items():
        path = fill / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (fill / stamp.name).write_text(digest.hexdigest())
    _replace_directory(target, fill)


def _required_scons() -> tuple[str, str] | None:
    """The version of ``tool-scons`` that the PlatformIO beside us wants, and SCons's own name for it."""
    try:
        from platformio.dependencies import get_core_dependencies
    except ImportError:
        return None
    match = re.search(r"(\d+)\.(\d)(\d\d)(\d\d)\.(\d+)", str(get_core_dependencies().get("tool-scons", "")))
    if match is None:
        return None
    # 4.41101.0 is SCons 4.11.1: the major version, then all three numbers.
    major, _, minor, patch, _ = match.groups()
    return match.group(0), f"{major}.{int(minor)}.{int(patch)}"


def _install_scons(directory: Path) -> None:
    required = _required_scons()
    if required is None:
        return
    tool_version, scons_version = required
    packages = directory / "packages"
    family = tool_version.rsplit(".", 1)[0]
    for meta in packages.glob("tool-scons*/.piopm"):
        with contextlib.suppress(OSError, ValueError, KeyError):
            if str(json.loads(meta.read_text())["version"]).startswith(f"{family}."):
                return
    spec = importlib.util.find_spec("SCons")
    try:
        installed = metadata.version("scons")
    except metadata.PackageNotFoundError:
        return
    if spec is None or spec.origin is None or installed != scons_version:
        return  # PlatformIO takes its own from the registry
    target = packages / "tool-scons"
    if target.exists():
        target = packages / f"tool-scons@{tool_version}"
    fill = Path(tempfile.mkdtemp(prefix=".new-scons-", dir=directory))
    fill.chmod(0o755)
    library = f"scons-local-{scons_version}"
    shutil.copytree(Path(spec.origin).parent, fill / library / "SCons", ignore=shutil.ignore_patterns("__pycache__"))
    (fill / "scons.py").write_text(
        "import os\nimport sys\n\n"
        f'sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "{library}"))\n'
        "import SCons.Script\n\nSCons.Script.main()\n"
    )
    manifest = {"name": "tool-scons", "version": tool_version, "description": "SCons, from PyPI", "system": ["*"]}
    (fill / "package.json").write_text(json.dumps(manifest, indent=2) + "\n")
    (fill / ".piopm").write_text(_package_meta("tool", "tool-scons", tool_version, "platformio"))
    _replace_directory(target, fill)


def platformio_environment(directory: Path | None = None) -> dict[str, str]:
    """This process's environment, with PlatformIO at the given core directory and asking no server for anything."""
    return {
        **os.environ,
        "PLATFORMIO_CORE_DIR": str(directory or core_dir()),
        "PLATFORMIO_SETTING_ENABLE_TELEMETRY": "no",
        "PLATFORMIO_SETTING_CHECK_PLATFORMIO_INTERVAL": "3650",
        "PLATFORMIO_DISABLE_UPGRADE_CHECK": "true",
        "PLATFORMIO_NO_ANSI": "true",
    }


def pio_run(
    project: str | os.PathLike[str],
    *arguments: str,
    directory: Path | None = None,
    timeout: float = PIO_SECONDS,
) -> str:
    """``pio run -d PROJECT ARGUMENTS...`` in a prepared core directory.

    Returns:
        What it printed.

    Raises:
        ToolchainError: PlatformIO is missing, failed (its first error is in the message), or took too long.
    """
    if importlib.util.find_spec("platformio") is None:
        raise ToolchainError("PlatformIO is not installed", remedy="pip install platformio")
    directory = prepare_platformio(directory)
    command = [sys.executable, "-m", "platformio", "run", "-d", os.fspath(project), *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=platformio_environment(directory),
        start_new_session=True,
        text=True,
        errors="replace",
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise ToolchainError(f"pio run took longer than {timeout:.0f} s", where=os.fspath(project)) from error
    finally:
        if process.poll() is None:  # out of time, or interrupted: it and its compilers
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode != 0:
        command_line = f"pio run -d {os.fspath(project)}"
        said = _first_error(output)
        remedy = "" if "; " in said else f"see all that it says: {command_line}"
        raise ToolchainError(said, where=command_line, remedy=remedy)
    return output


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    pattern = re.compile(r"\berror\b|\*\*\* |Error:|undefined reference|overflowed by", re.IGNORECASE)
    for line in lines:
        if pattern.search(line):
            return line
    return lines[-1] if lines else "it failed and said nothing"


def firmware_elf(project: str | os.PathLike[str], board: Board) -> Path:
    """The image that ``pio run`` leaves in a project.

    Raises:
        ToolchainError: it has not been built.
    """
    elf = Path(project) / ".pio" / "build" / board.id / "firmware.elf"
    if not elf.is_file():
        raise ToolchainError(
            f"there is no image {elf}", where=os.fspath(project), remedy=f"build it: pio run -d {project}"
        )
    return elf


def start(
    board: Board,
    elf: str | os.PathLike[str],
    *,
    port: int | None = None,
    seed: int | None = None,
    flash: str | os.PathLike[str] | None = None,
    machines: int = 1,
) -> EmulatorProcess:
    """Boots an image and returns when it runs; it ends with :meth:`EmulatorProcess.stop`, or with this process.

    Args:
        board: a board with an emulator, or ``native``.
        elf: its firmware.
        port: the UART's TCP port on the loopback interface; None is any free one, or in Renode a pseudo-terminal.
        seed: what the firmware's entropy starts from; None is a random one.
        flash: a file in which the native board keeps what it learns; None: it keeps nothing.
        machines: boards in the emulation; only Renode has more than one.

    Raises:
        ToolchainError: the image or the emulator is missing, the port is taken, or it ended at once.
        BoardError: nothing here emulates this board.
    """
    try:
        return emulator.boot(board.emulator_spec(), elf, port=port or 0, seed=seed, flash=flash, machines=machines)
    except EmulatorFailed as error:
        raise ToolchainError(error.rule, where=f"board '{board.id}'", remedy=error.remedy) from error


class Emulator:
    """``with Emulator(board, elf) as running: connect(running.host, running.port)``."""

    def __init__(self, board: Board, elf: str | os.PathLike[str], *, port: int | None = None, seed: int | None = None):
        self._arguments = (board, elf, port, seed)
        self._process: EmulatorProcess | None = None

    def __enter__(self) -> EmulatorProcess:
        board, elf, port, seed = self._arguments
        self._process = start(board, elf, port=port, seed=seed)
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.stop()


def main(arguments: Sequence[str]) -> int:
    """``python -m tlc.toolchain``: prepares PlatformIO's core directory and prints it."""
    print(prepare_platformio(Path(arguments[0]) if arguments else None))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
