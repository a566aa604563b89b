# SPDX-License-Identifier: Apache-2.0
"""Explores the link's two real ends, C and Python, over a line on which everything may happen, with resets of either side:
``python tests/explore/explore.py [--most N]``.

Every reachable state up to ``--most`` in each case, breadth first: no message of another session, none twice, none out of order,
none damaged; a lone host is never told that it was superseded; and from every state the fair continuation, without loss and
without resets, comes to one common session in which everything was delivered and acknowledged, once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from link_world import LinkWorld, Settings, build
from states import Explored, explore

CASES = {
    "one message, loss": Settings(room=1, resets=0, restarts=0, duplicates=False, host_says=((1, 20),), device_says=()),
    "one message, loss and copies": Settings(room=1, resets=0, restarts=0, host_says=((1, 20),), device_says=()),
    "a reset": Settings(room=1, resets=1, restarts=0, duplicates=False, host_says=((1, 20),), device_says=()),
    "a restart": Settings(room=1, resets=0, restarts=1, duplicates=False, host_says=((1, 20),), device_says=()),
    "a reset and a restart": Settings(room=1, duplicates=False, host_says=((1, 20),), device_says=()),
    "a reset and a restart, copies": Settings(room=1, host_says=((1, 20),), device_says=()),
    "both deaf for long": Settings(room=1, resets=0, restarts=0, silences=1, host_says=((1, 20),), device_says=()),
    "fragments, both ways": Settings(room=1, resets=0, restarts=0, host_says=((1, 150),), device_says=((1, 150),)),
    "two streams, frames overtake": Settings(room=2, resets=0, restarts=0, duplicates=False),
    "everything": Settings(room=2, resets=1, restarts=1, silences=1),
}


def run(name: str, directory: Path, most: int) -> Explored:
    """One case."""
    return explore(LinkWorld(build(directory, "explored_link", ["src/link/*.c"]), CASES[name]), most)


def main() -> int:
    """The command; 1: a rule is broken."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--most", type=int, default=100_000, help="states in each case, about (%(default)s)")
    parser.add_argument("--case", action="append", choices=CASES, help="only this one")
    given = parser.parse_args()
    broken = 0
    print("| case | states | transitions | depth | longest way to the goal | all states |")
    print("| --- | ---: | ---: | ---: | ---: | --- |")
    for name in given.case or CASES:
        with tempfile.TemporaryDirectory() as directory:
            found = run(name, Path(directory), given.most)
        print(
            f"| {name} | {found.states:,} | {found.transitions:,} | {found.depth} | {found.longest_way} | "
            f"{'yes' if found.complete else 'no'} |",
            flush=True,
        )
        if found.broken:
            broken += 1
            print(f"{name}: {found.broken}, after: {' > '.join(found.trace)}", file=sys.stderr)
    return int(broken > 0)


if __name__ == "__main__":
    sys.exit(main())
