# SPDX-License-Identifier: Apache-2.0
"""Explores the real host and device over a line on which everything may happen, with resets of either side:
``python tests/explore/explore.py [--most N]``.

Every reachable state up to ``--most`` in each case, breadth first. Of the link's two ends, C and Python: no message of another
session, none twice, none out of order, none damaged; a lone host is never told that it was superseded; and from every state the
fair continuation, without loss and without resets, comes to one common session in which everything was delivered and
acknowledged, once. Of messages, between the session and the device: steps are applied in order, none twice, none left out; device
and host hold at every step what an undisturbed run has there, bit for bit, and know at which step they are; what was said to be
saved is there after a reset; nobody is told of a reset that never was; and the fair continuation ends with all steps applied.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from link_world import LinkWorld, Settings, build
from message_world import DEVICE, Messages, MessageWorld, still
from states import Explored, explore

CASES: dict[str, Settings | Messages] = {
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
    "a step, loss": Messages(loses=True, patient=False),
    "two steps, lost sessions": Messages(steps=2, batch=2, silences=2, breaks=1, amid=True),
    "two steps, resets": Messages(steps=2, batch=2, resets=2, silences=1),
    "two steps, resets, no entropy": Messages(steps=2, batch=2, entropy=False, resets=2, silences=1),
    "two steps, restarts": Messages(steps=2, batch=2, restarts=2, amid=True),
    "two steps, resets, journal": Messages(steps=2, batch=2, journal=True, resets=1, cuts=2),
    "a step, loss, a reset and a restart": Messages(loses=True, resets=1, restarts=1),
    "a step, loss, power that fails, a restart": Messages(loses=True, journal=True, cuts=1, restarts=1),
    "two steps at once with their gradients": Messages(
        steps=2, batch=2, journal=True, together=True, resets=1, cuts=1, silences=1, amid=True
    ),
    "two steps, everything": Messages(
        steps=2, batch=2, journal=True, resets=1, cuts=1, restarts=1, silences=1, amid=True, buffers=True
    ),
}


def run(name: str, directory: Path, most: int) -> Explored:
    """One case."""
    settings = CASES[name]
    if isinstance(settings, Settings):
        return explore(LinkWorld(build(directory, "explored_link", ["src/link/*.c"]), settings), most)
    with still() as tokens:
        return explore(MessageWorld(build(directory, "explored_device", DEVICE), settings, tokens), most)


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
