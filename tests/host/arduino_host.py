# SPDX-License-Identifier: Apache-2.0
"""Builds a generated Arduino project for this machine: its own sources against the shim of an Arduino core.

The project's ``platformio.ini`` says which core it is for and which flags it takes, so that a wrong one is found here.
"""

from __future__ import annotations

import configparser
import filecmp
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
    "espressif8266": ["-DARDUINO=10819", "-DARDUINO_ARCH_ESP8266", "-DESP8266", "-fno-pie"],
    "nordicnrf52": ["-DARDUINO=10810", "-DARDUINO_ARCH_MBED", "-DARDUINO_ARCH_NRF52840", "-DTARGET_NRF52840"],
    "raspberrypi": ["-DARDUINO=10810", "-DARDUINO_ARCH_MBED", "-DARDUINO_ARCH_RP2040", "-DTARGET_RP2040"],
    "ststm32": ["-DARDUINO=10819", "-DARDUINO_ARCH_STM32", "-DSTM32F4xx"],
    "ststm32/disco_f746ng": ["-DARDUINO=10819", "-DARDUINO_ARCH_STM32", "-DSTM32F7xx"],
}
"""What the real cores' builders define. (ESP8266's linker script says where flash ends: a symbol of a fixed address.)"""

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
    platform = environment["platform"].split("@")[0].strip()
    core = CORES.get(f"{platform}/{environment['board']}") or CORES[platform]
    return [*core, *environment.get("build_flags", "").split()]


def build(project: Path, *, out: Path, include: Path | None = None, flags: Flags = ()) -> Path:
    """A project generated for an Arduino board, as a program of this machine.

    Args:
        project: the directory that ``tlc compile`` wrote. Without ``lib/tlc`` (a project written by hand) the firmware
            library is taken from the source tree.
        out: where the program goes, and its objects, which later builds there use again.
        include: a directory with ``tlc_secrets.h``.
        flags: more of them, for the project's own files and the port.

    Returns:
        The program; ``tests/firmware/arduino_shim/README.md`` lists the environment variables that it listens to.

    Raises:
        AssertionError: a compiler has something to say; its words.
    """
    library = _library(project)
    environment = settings(project)
    assert environment["custom_tlc_port"] == "arduino"
    port = [library / "ports" / "arduino" / name for name in environment["custom_tlc_sources"].split()]
    extra = re.findall(r"\+<\.\./lib/tlc/(.+?)>", environment.get("build_src_filter", ""))
    port += [library / name for name in extra]
    own = platform_flags(project)
    core = [flag for flag in own if flag.startswith(("-DARDUINO", "-DSTM32", "-DTARGET"))]
    common = [flag for flag in own if flag.startswith(("-O", "-f")) and flag != "-fno-pie"]
    places = [
        library / flag[10:] if flag.startswith("-Ilib/tlc/") else project / flag[2:]
        for flag in own
        if flag.startswith("-I")
    ]
    places += [*([include] if include else []), library / "include", project / "lib" / "tlc_model" / "include"]
    every = [*(flag for flag in own if not flag.startswith("-I")), *(f"-I{path}" for path in places), *flags]
    runtime = sorted((library / "src").rglob("*.c"))
    sources = [
        *sorted((project / "lib" / "tlc_model" / "src").glob("*.c")),
        *sorted((project / "src").glob("*.c")),
        *sorted((project / "src").glob("*.cpp")),
    ]
    # The runtime, the port and the shim know nothing of the project, so their objects serve every build in `out`.
    objects = _compile(runtime, [*common, f"-I{library / 'include'}"], out / "objects")
    buffers = [flag for flag in own if flag.startswith("-DSERIAL_")]
    objects += _compile(sorted(SHIM.glob("*.cpp")), [*core, *buffers], out / "objects")
    objects += _compile(port, [flag for flag in every if f"-I{project}" not in flag], out / "objects")
    objects += _compile(sources, every, out / "objects")
    return _link(objects, out, own)


def _library(project: Path) -> Path:
    """The project's copy of the firmware library, or the source tree's where they are the same or there is none."""
    copy = project / "lib" / "tlc"
    files = [path for path in copy.rglob("*") if path.is_file()]
    names = [path.relative_to(copy) for path in files]
    same = all((FIRMWARE / name).is_file() and filecmp.cmp(copy / name, FIRMWARE / name, False) for name in names)
    return FIRMWARE if same else copy


def compile_program(sources: Sequence[Path], *, flags: Flags, out: Path) -> Path:
    """Any sources together with the shim."""
    objects = _compile([*sources, *sorted(SHIM.glob("*.cpp"))], flags, out / "objects")
    return _link(objects, out, flags)


def _compile(sources: Sequence[Path], flags: Flags, objects: Path) -> list[Path]:
    """C as gnu99 and C++ as gnu++11, as ESP32's core does; warnings are errors."""
    objects.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for source in sources:
        command = ["gcc", "-std=gnu99"] if source.suffix == ".c" else ["g++", "-std=gnu++11"]
        command += [*WARNINGS, "-g", f"-I{SHIM}", *flags, "-c", str(source)]
        key = hashlib.sha256(" ".join(command).encode()).hexdigest()[:16]
        target = objects / f"{source.stem}-{key}.o"
        if not target.exists():
            _run([*command, "-o", str(target)])
        made.append(target)
    return made


def _link(objects: Sequence[Path], out: Path, flags: Flags) -> Path:
    key = hashlib.sha256(" ".join(map(str, objects)).encode()).hexdigest()[:16]
    program = out / f"firmware-{key}"
    if not program.exists():
        pie = ["-no-pie"] if "-fno-pie" in flags else []
        _run(["g++", *pie, "-o", str(program), *map(str, objects), "-lpthread", "-lm"])
    return program


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"}, check=False)
    assert done.returncode == 0, f"{' '.join(command[:3])} … {command[-1]}:\n{done.stderr}"
