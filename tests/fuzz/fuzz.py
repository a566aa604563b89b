# SPDX-License-Identifier: Apache-2.0
"""Fuzzes the C that reads what others wrote: ``python tests/fuzz/fuzz.py [--runs N] [--harness NAME] [--keep]``.

Each ``fuzz_*.c`` is a libFuzzer harness, built by clang with AddressSanitizer and UndefinedBehaviorSanitizer. It starts
from ``corpus/NAME.bin`` (inputs, each after its length as u16) and runs a share of the executions that its speed allows.
An input that breaks a rule is left in ``build/fuzz``, named in the error. ``--keep`` writes the smallest inputs that
reach all that was reached back into ``corpus``.
"""

from __future__ import annotations

import argparse
import re
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
FIRMWARE = ROOT / "firmware"
MOST_KEPT = 6000  # bytes of a corpus


@dataclass(frozen=True)
class Harness:
    """A program: the sources that it fuzzes, and its share of the executions in percent."""

    sources: tuple[str, ...]
    share: int
    longest: int


HARNESSES = {
    "cobs": Harness(("src/link/*.c",), 28, 700),
    "link": Harness(("src/link/*.c",), 8, 600),
    "delta": Harness(("src/journal/*.c", "src/train/schedule.c", "src/link/crc32.c"), 26, 300),
    "journal": Harness(("src/journal/*.c", "src/train/schedule.c", "src/link/crc32.c"), 18, 460),
    "rows": Harness(("src/pack/*.c",), 19, 420),
    "device": Harness(
        (
            "src/device/*.c",
            "src/ctx.c",
            "src/link/*.c",
            "src/journal/*.c",
            "src/train/schedule.c",
            "src/train/take_grad.c",
        ),
        1,
        500,
    ),
}


def build(name: str, directory: Path) -> Path:
    """Compiles a harness."""
    program = directory / f"fuzz_{name}"
    sources = [path for pattern in HARNESSES[name].sources for path in sorted(FIRMWARE.glob(pattern))]
    flags = "-std=c99 -g -O2 -ffunction-sections -Wl,--gc-sections -Wall -Wextra -Werror -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all"
    command = ["clang", *flags.split(), "-I", str(FIRMWARE / "include"), "-o", str(program)]
    subprocess.run([*command, str(HERE / f"fuzz_{name}.c"), *map(str, sources)], check=True)
    return program


def unpack(name: str, directory: Path) -> None:
    """The corpus's inputs as files, as libFuzzer wants them."""
    directory.mkdir(parents=True, exist_ok=True)
    path = HERE / "corpus" / f"{name}.bin"
    data = path.read_bytes() if path.exists() else b""
    at = 0
    while at < len(data):
        (count,) = struct.unpack_from("<H", data, at)
        (directory / f"kept-{at:05}").write_bytes(data[at + 2 : at + 2 + count])
        at += 2 + count


def keep(name: str, program: Path, reached: Path, scratch: Path) -> int:
    """Writes the inputs back that together reach all that was reached, the shortest first; returns their bytes."""
    merged = scratch / f"{name}-merged"
    merged.mkdir(exist_ok=True)
    command = [str(program), "-merge=1", str(merged), str(reached)]
    subprocess.run(command, check=True, capture_output=True, cwd=scratch)
    out = b""
    for data in sorted((path.read_bytes() for path in merged.iterdir()), key=lambda data: (len(data), data)):
        if len(out) + 2 + len(data) <= MOST_KEPT:
            out += struct.pack("<H", len(data)) + data
    (HERE / "corpus" / f"{name}.bin").write_bytes(out)
    return len(out)


def run(name: str, runs: int, seed: int, directory: Path, *, write_back: bool = False) -> tuple[int, int, float]:
    """Builds and runs a harness.

    Returns:
        Executions, edges of the program that they covered, seconds.

    Raises:
        SystemExit: an input broke a rule, or a sanitizer spoke.
    """
    directory.mkdir(parents=True, exist_ok=True)
    program = build(name, directory)
    reached = directory / f"{name}-corpus"
    unpack(name, reached)
    begun = time.monotonic()
    longest = HARNESSES[name].longest
    command = [str(program), f"-runs={runs}", f"-seed={seed}", f"-max_len={longest}", "-timeout=60", str(reached)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", cwd=directory, check=False)
    found = re.search(r"Done (\d+) runs", done.stderr)
    if done.returncode or not found:
        where = re.findall(r"Test unit written to (\S+)", done.stderr)
        raise SystemExit(f"{name}: {done.stderr[-4000:]}\n{name}: an input broke a rule: {directory}/{where}")
    covered = re.findall(r"cov: (\d+)", done.stderr)
    seconds = time.monotonic() - begun
    if write_back:
        keep(name, program, reached, directory)
    return int(found[1]), int(covered[-1]), seconds


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--runs", type=int, default=10_000_000, help="executions in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--harness", action="append", choices=HARNESSES, help="only this one")
    parser.add_argument("--keep", action="store_true", help="write what was reached back into the corpora")
    given = parser.parse_args()
    names = given.harness or list(HARNESSES)
    shares = sum(HARNESSES[name].share for name in names)
    total = 0
    print(f"{'harness':8} {'executions':>11} {'edges':>6} {'seconds':>8}")
    for name in names:
        runs = -(-given.runs * HARNESSES[name].share // shares)
        done, edges, seconds = run(name, runs, given.seed, ROOT / "build" / "fuzz", write_back=given.keep)
        total += done
        print(f"{name:8} {done:11,} {edges:6,} {seconds:8.0f}", flush=True)
    print(f"{'all':8} {total:11,}   nothing found")
    return 0


if __name__ == "__main__":
    sys.exit(main())
