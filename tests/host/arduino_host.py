# SPDX-License-Identifier: Apache-2.0
"""Builds a generated Arduino project for this machine: its own sources against the shim of an Arduino core.

The project's ``platformio.ini`` says which core it is for and which flags it takes, so that a wrong one is found here.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Flags", "build", "compile_program", "platform_flags", "settings"]

ROOT = Path(__file__).resolve().parents[2]
SHIM = ROOT / "tests" / "firmware" / "arduino_shim"
FIRMWARE = ROOT / "firmware"
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
CORES = {
    "espressif32": ["-DARDUINO=10819", "-DARDUINO_ARCH_ESP32", "-DESP32"],
    "ststm32": ["-DARDUINO=10819", "-DARDUINO_ARCH_STM32"],
}
"""What the real cores' builders define."""

Flags = Sequence[str]


def settings(project: Path) -> configparser.SectionProxy:
    """The default environment of a project's ``platformio.ini``."""
    parser = configparser.ConfigParser(inline_comment_prefixes=(";",), interpolation=None)
    parser.read_string((project / "platformio.ini").read_text(encoding="utf-8"))
    return parser[f"env:{parser['platformio']['default_envs'].strip()}"]


def platform_flags(project: Path) -> list[str]:
    """Compiler flags of a project's ``platformio.ini``: its own, and those of the core of its platform.

    Raises:
        KeyError: a platform for which there is no shim.
    """
    environment = settings(project)
    core = CORES[environment["platform"].split("@")[0].strip()]
    return [*core, *environment.get("build_flags", "").split()]


def build(project: Path, *, out: Path, include: Path | None = None) -> Path:
    """A project generated for an Arduino board, as a program of this machine.

    Args:
        project: the directory that ``tlc compile`` wrote. Without ``lib/tlc`` (a project written by hand) the firmware
            library is taken from the source tree.
        out: where objects and the program go.
        include: a directory with ``tlc_secrets.h``.

    Returns:
        The program; ``tests/firmware/arduino_shim/README.md`` lists the environment variables that it listens to.

    Raises:
        AssertionError: a compiler has something to say; its words.
    """
    library = project / "lib" / "tlc" if (project / "lib" / "tlc").is_dir() else FIRMWARE
    environment = settings(project)
    assert environment["custom_tlc_port"] == "arduino"
    port = [library / "ports" / "arduino" / name for name in environment["custom_tlc_sources"].split()]
    extra = re.findall(r"\+<\.\./lib/tlc/(.+?)>", environment.get("build_src_filter", ""))
    port += [library / name for name in extra]
    includes = [library / "include", project / "lib" / "tlc_model" / "include"]
    flags = [
        f"-I{library / flag[10:]}" if flag.startswith("-Ilib/tlc/") else f"-I{project / flag[2:]}" if flag.startswith("-I") else flag
        for flag in platform_flags(project)
    ]
    c_sources = [
        *sorted((library / "src").rglob("*.c")),
        *sorted((project / "lib" / "tlc_model" / "src").glob("*.c")),
        *sorted((project / "src").glob("*.c")),
    ]
    return compile_program(
        [*c_sources, *port, *sorted((project / "src").glob("*.cpp"))],
        flags=[*flags, *(f"-I{path}" for path in [*([include] if include else []), *includes])],
        out=out / "firmware",
    )


def compile_program(sources: Sequence[Path], *, flags: Flags, out: Path, shim: bool = True) -> Path:
    """C as C99 and C++ as gnu++11, warnings as errors; objects are kept beside the program and reused."""
    objects = out.parent / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for source in [*sources, *(sorted(SHIM.glob("*.cpp")) if shim else [])]:
        c_source = source.suffix == ".c"
        command = ["gcc", "-std=gnu99"] if c_source else ["g++", "-std=gnu++11"]
        command += [*WARNINGS, "-g", f"-I{SHIM}", *flags, "-c", str(source)]
        key = hashlib.sha256(f"{command} {source.stat().st_mtime_ns}".encode()).hexdigest()[:16]
        target = objects / f"{source.stem}-{key}.o"
        if not target.exists():
            _run([*command, "-o", str(target)])
        made.append(target)
    _run(["g++", "-o", str(out), *map(str, made), "-lpthread", "-lm"])
    return out


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    assert done.returncode == 0, f"{' '.join(command[:3])} … {command[-1]}:\n{done.stderr}"
