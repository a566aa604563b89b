# SPDX-License-Identifier: Apache-2.0
"""Builds a project's C for this machine: the twin, and the ``native`` device. Once per content, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tlc.errors import BundleError, ToolchainError

__all__ = ["build", "build_native", "build_sources"]

FLAGS = ["-std=c99", "-O2", "-ffp-contract=off"]
"""No fused multiply-add: floats come out as on every target. No -march=native: a binary may move between machines."""


def build(directory: Path, sources: Sequence[str], flags: Sequence[str], name: str) -> Path:
    """Compiles the runtime, the model and some more sources of a project.

    The runtime, which most projects share, is compiled once by itself.

    Args:
        directory: the project that ``tlc compile`` wrote.
        sources: beside ``lib/tlc/src`` and ``lib/tlc_model/src``, relative to the project.
        flags: for the compiler, beside ``FLAGS``.
        name: of the result in the cache.

    Raises:
        ToolchainError: there is no C compiler, or it refuses the project.
    """
    directory = Path(directory)
    library, model = directory / "lib" / "tlc", directory / "lib" / "tlc_model"
    for part in (library, model):
        if not (part / "src").is_dir():
            raise BundleError("a part of the project is missing", where=str(part), remedy="compile the model again")
    files = [*sorted((model / "src").glob("*.c")), *(directory / source for source in sources)]
    headers = [*library.glob("include/**/*.h"), *model.glob("**/*.h"), *(directory / "include").glob("*.h")]
    headers += [header for source in files for header in source.parent.glob("*.h")]
    includes = [library / "include", model / "include", directory / "include"]
    runtime = _runtime(directory, library, flags)

    def link(scratch: Path) -> None:
        _compile(directory, [*flags, *(f"-I{path}" for path in includes), "-o", scratch / name, *files, runtime])

    digest = _digest(directory, [*files, *headers], [*flags, runtime.parent.name])
    return _cached(digest, name, link)


def build_sources(firmware: Path, sources: Sequence[Path], flags: Sequence[str], name: str) -> Path:
    """Compiles a few of the runtime's own files, without a project.

    Args:
        firmware: the firmware library, whose ``include`` is searched.
        sources: in it.
        flags: for the compiler, beside ``FLAGS``.
        name: of the result in the cache.

    Raises:
        ToolchainError: there is no C compiler, or it refuses them.
    """
    include = firmware / "include"

    def link(scratch: Path) -> None:
        _compile(firmware, [*flags, f"-I{include}", "-o", scratch / name, *sources])

    return _cached(_digest(firmware, [*sources, *include.glob("**/*.h")], flags), name, link)


def _runtime(directory: Path, library: Path, flags: Sequence[str]) -> Path:
    """``lib/tlc/src`` as a static library."""
    sources = sorted((library / "src").glob("**/*.c"))
    headers = [*library.glob("include/**/*.h"), *library.glob("src/**/*.h")]

    def archive(scratch: Path) -> None:
        objects = []
        for source in sources:
            objects.append(scratch / f"{'_'.join(source.relative_to(library / 'src').with_suffix('').parts)}.o")
            _compile(directory, [*flags, f"-I{library / 'include'}", "-c", source, "-o", objects[-1]])
        _run(directory, [shutil.which("ar") or "ar", "rcs", scratch / "runtime.a", *objects])

    return _cached(_digest(library, [*sources, *headers], flags), "runtime.a", archive)


def _digest(root: Path, files: Sequence[Path], flags: Sequence[str]) -> str:
    digest = hashlib.sha256("\0".join([_compiler(), *FLAGS, *flags]).encode())
    try:
        for path in sorted(set(files)):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"a file of the project is missing ({error.filename})", where=str(root), remedy="compile again"
        ) from None
    return digest.hexdigest()[:32]


def _cached(digest: str, name: str, make: Callable[[Path], None]) -> Path:
    """A file of the cache, made in a scratch directory where it is not there, so that it appears whole."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tlc" / digest
    target = cache / name
    if target.exists():
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"what is built for this machine cannot be kept ({error.strerror})",
            where=str(cache.parent),
            remedy="set XDG_CACHE_HOME to a directory that can be written",
        ) from None
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        make(Path(scratch))
        os.replace(Path(scratch) / name, target)
    return target


def _compiler() -> str:
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise ToolchainError("there is no C compiler on this machine", remedy="install gcc")
    return compiler


def _compile(directory: Path, arguments: Sequence[str | Path]) -> None:
    _run(directory, [*_compiler().split(), *FLAGS, *arguments])


def _run(directory: Path, command: Sequence[str | Path]) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise ToolchainError(
            f"the project does not compile here: {first}", where=str(directory), remedy="compile the model again"
        )


def build_native(directory: Path) -> Path:
    """The project's firmware as a program of this machine (the posix port), whatever the board."""
    port = sorted(path.relative_to(directory).as_posix() for path in (directory / "lib/tlc/ports/posix").glob("*.c"))
    main = "src/main.c" if (directory / "src/main.c").exists() else "native/main.c"
    return build(directory, [*port, main, "src/app.c"], [], "native")
