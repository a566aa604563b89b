# SPDX-License-Identifier: Apache-2.0
"""Builds a project's C for this machine: the twin, and the ``native`` device. Once per content, kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tlc.errors import BundleError, ToolchainError

__all__ = ["build", "build_native"]

FLAGS = ["-std=c99", "-O2", "-ffp-contract=off"]
"""No fused multiply-add: floats come out as on every target. No -march=native: a binary may move between machines."""


def build(directory: Path, sources: Sequence[str], flags: Sequence[str], name: str) -> Path:
    """Compiles the runtime, the model and some more sources of a project.

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
    files = [
        *sorted((library / "src").glob("**/*.c")),
        *sorted((model / "src").glob("*.c")),
        *(directory / source for source in sources),
    ]
    for part in (library, model):
        if not (part / "src").is_dir():
            raise BundleError("a part of the project is missing", where=str(part), remedy="compile the model again")
    headers = [*library.glob("**/*.h"), *model.glob("**/*.h"), *(directory / "include").glob("*.h")]
    digest = hashlib.sha256(" ".join([*FLAGS, *flags]).encode())
    try:
        for path in [*files, *sorted(headers)]:
            digest.update(path.relative_to(directory).as_posix().encode() + path.read_bytes())
    except OSError as error:
        raise BundleError(
            f"a file of the project is missing ({error.filename})", where=str(directory), remedy="compile again"
        ) from None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tlc" / digest.hexdigest()[:32]
    target = cache / name
    if target.exists():
        return target
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if not compiler:
        raise ToolchainError("there is no C compiler on this machine", remedy="install gcc")
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ToolchainError(
            f"what is built for this machine cannot be kept ({error.strerror})",
            where=str(cache.parent),
            remedy="set XDG_CACHE_HOME to a directory that can be written",
        ) from None
    includes = [f"-I{library / 'include'}", f"-I{model / 'include'}", f"-I{directory / 'include'}"]
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        built = Path(scratch) / name
        command = [*compiler.split(), *FLAGS, *flags, *includes, "-o", str(built), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
            raise ToolchainError(
                f"the project does not compile here: {first}", where=str(directory), remedy="compile the model again"
            )
        os.replace(built, target)
    return target


def build_native(directory: Path) -> Path:
    """The project's firmware as a program of this machine (the posix port), whatever the board."""
    port = sorted(path.relative_to(directory).as_posix() for path in (directory / "lib/tlc/ports/posix").glob("*.c"))
    main = "src/main.c" if (directory / "src/main.c").exists() else "native/main.c"
    return build(directory, [*port, main, "src/app.c"], [], "native")
