# SPDX-License-Identifier: Apache-2.0
"""The runtime compiles for every kind of target, and needs no heap, no mutable globals, no libm, no printf."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).parents[2] / "firmware"
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off", "-Os"]
XTENSA_SPECS = Path("/usr/lib/xtensa-lx106-elf/picolibc.specs")
TARGETS = {
    "cortex-m0": ["arm-none-eabi-gcc", "-mcpu=cortex-m0", "-mthumb"],
    "cortex-m4f": ["arm-none-eabi-gcc", "-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"],
    "rv32imc": ["riscv64-unknown-elf-gcc", "-march=rv32imc", "-mabi=ilp32", "--specs=picolibc.specs"],
    "lx106": ["xtensa-lx106-elf-gcc", f"--specs={XTENSA_SPECS}"],
    "x86 gcc": ["gcc", "-Wconversion", "-pedantic"],
    "x86 clang": ["clang", "-pedantic"],
}
ALLOWED_LIBC = {"memcpy", "memset", "memmove", "memcmp", "strlen"}


def require(target: str) -> list[str]:
    compiler = TARGETS[target]
    if not shutil.which(compiler[0]):
        pytest.skip(f"{compiler[0]} is not installed")
    if target == "lx106" and not XTENSA_SPECS.exists():
        pytest.skip(f"{XTENSA_SPECS} is not installed (picolibc-xtensa-lx106-elf)")
    return compiler


@pytest.mark.parametrize("target", list(TARGETS))
def test_compiles_without_a_warning(target: str, tmp_path: Path) -> None:
    compiler = require(target)
    sources = sorted(map(str, (FIRMWARE / "src").rglob("*.c")))
    assert sources
    done = subprocess.run(
        [*compiler, *WARNINGS, f"-I{FIRMWARE / 'include'}", "-c", *sources],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_needs_nothing_and_owns_nothing(tmp_path: Path) -> None:
    """On Cortex-M0, where libgcc does the most: only libgcc, our own names and a little of string.h are called."""
    compiler = require("cortex-m0")
    sources = sorted(map(str, (FIRMWARE / "src").rglob("*.c")))
    flags = [*compiler, *WARNINGS, f"-I{FIRMWARE / 'include'}"]
    subprocess.run([*flags, "-r", "-nostdlib", "-o", "all.o", *sources], cwd=tmp_path, check=True)
    nm = subprocess.run(["arm-none-eabi-nm", "all.o"], cwd=tmp_path, capture_output=True, text=True, check=True)
    symbols = [line.split()[-2:] for line in nm.stdout.splitlines()]
    needed = {name for kind, name in symbols if kind == "U"}
    assert {name for name in needed if not name.startswith("__")} <= ALLOWED_LIBC
    assert [name for kind, name in symbols if kind in "dDbBC"] == []


@pytest.mark.parametrize("header", sorted(path.name for path in (FIRMWARE / "include" / "tlc").glob("*.h")))
def test_headers_stand_alone(header: str, tmp_path: Path) -> None:
    """Each in C99, and (ports are C++ on Arduino) in C++."""
    if not shutil.which("gcc") or not shutil.which("g++"):
        pytest.skip("gcc or g++ is not installed")
    for compiler, name in (["gcc", "-std=c99"], "a.c"), (["g++", "-std=c++11"], "a.cpp"):
        source = tmp_path / name
        include = f'#include "tlc/{header}"\n'
        source.write_text(f'extern "C" {{\n{include}}}\n' if name == "a.cpp" else include + "typedef int unused;\n")
        done = subprocess.run(
            [*compiler, "-Wall", "-Wextra", "-fsyntax-only", f"-I{FIRMWARE / 'include'}", str(source)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
