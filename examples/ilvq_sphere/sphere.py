# SPDX-License-Identifier: Apache-2.0
"""Inside or outside of a sphere: a head of at most 50 prototypes learns it from points as they come.

    python examples/ilvq_sphere/sphere.py [--seeds N]

Points of the cube [-1.5, 1.5]^3, half of them inside of the unit sphere, half outside. One device sees 3,000 points once; then five
devices see 600 each, and are merged after every 100: all of them by a server, or each with its two neighbours on a ring.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from numpy.typing import NDArray

from tlc.ilvq import DeviceIlvq, IlvqSettings, merged

SETTINGS = IlvqSettings(dim=3, capacity=50)
POINTS, TEST, HALF = 3000, 4000, 1.5
DEVICES, EVERY = 5, 100
Array = NDArray[np.float32]
Labels = NDArray[np.int64]


def points(count: int, rng: np.random.Generator) -> tuple[Array, Labels]:
    """(count, 3) points in random order, and (count) 1 for outside; as many of each, by rejection."""
    found: list[Array] = []
    for outside in (False, True):
        cube = rng.uniform(-HALF, HALF, (20 * count, 3)).astype(np.float32)
        found.append(cube[((cube**2).sum(1) > 1) == outside][: count // 2])
    x, y = np.concatenate(found), np.repeat(np.arange(2), count // 2)
    order = rng.permutation(count)
    return x[order], y[order]


def learn(head: DeviceIlvq, x: Array, y: Labels) -> None:
    """Sample by sample, each seen once."""
    for value, label in zip(x, y, strict=True):
        head.learn(value, int(label))


def alone(seed: int, count: int = POINTS) -> tuple[float, float]:
    """Accuracy and prototypes of one device."""
    rng = np.random.default_rng(seed)
    head = DeviceIlvq(SETTINGS)
    learn(head, *points(count, rng))
    x, y = points(TEST, rng)
    return float((head.classify(x) == y).mean()), head.prototypes


def together(seed: int, topology: str, count: int = POINTS) -> tuple[float, float]:
    """Mean accuracy and prototypes of devices that share the points; ``topology``: "none", "centre" or "ring"."""
    rng = np.random.default_rng(seed)
    x, y = points(count, rng)
    heads = [DeviceIlvq(SETTINGS) for _ in range(DEVICES)]
    for begin in range(0, count, DEVICES * EVERY):
        for n, head in enumerate(heads):
            part = slice(begin + n, begin + DEVICES * EVERY, DEVICES)
            learn(head, x[part], y[part])
        states = [head.to_bytes() for head in heads]
        if topology == "centre":
            whole = merged(states, SETTINGS)
            heads = [DeviceIlvq(SETTINGS, whole) for _ in range(DEVICES)]
        elif topology == "ring":
            near = [[states[(n + step) % DEVICES] for step in (0, -1, 1)] for n in range(DEVICES)]
            heads = [DeviceIlvq(SETTINGS, merged(known, SETTINGS)) for known in near]
    x, y = points(TEST, rng)
    accuracy = [float((head.classify(x) == y).mean()) for head in heads]
    return float(np.mean(accuracy)), float(np.mean([head.prototypes for head in heads]))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    began = time.monotonic()
    rows = {
        "one device, 3,000 points": alone,
        "five devices, 600 points each, alone": lambda seed: together(seed, "none"),
        "five devices, merged by a server": lambda seed: together(seed, "centre"),
        "five devices, merged with neighbours on a ring": lambda seed: together(seed, "ring"),
    }
    print("| | accuracy, % | lowest seed, % | prototypes, mean | most |\n| --- | ---: | ---: | ---: | ---: |")
    for name, run in rows.items():
        found = np.array([run(seed) for seed in range(options.seeds)])
        accuracy, kept = 100 * found[:, 0], found[:, 1]
        print(f"| {name} | {accuracy.mean():.1f} | {accuracy.min():.1f} | {kept.mean():.0f} | {kept.max():.0f} |")
    print(f"\n{options.seeds} seeds, {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
