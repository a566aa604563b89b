# SPDX-License-Identifier: Apache-2.0
"""Shoulder exercises by a person whom the network never saw, from a watch's accelerometer and gyroscope: one of ten is left out.

Needs the package ``seglearn``, whose wheel carries the data (arXiv 1802.01489). Each person did seven exercises with either arm; windows
of two seconds. The device learns from the first third of each recording; the last half measures it.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from . import networks
from .task import Array, Set, Setting, Task

__all__ = ["TASK"]

WINDOW, STRIDE = 100, 50


@cache
def recordings() -> list[tuple[int, int, Array]]:
    """Person, exercise, (time, 6) at 50 Hz, the same scale for all."""
    from seglearn.datasets import load_watch

    found = load_watch()
    scale = np.array([1.0, 1.0, 1.0, 4.0, 4.0, 4.0])
    return [
        (int(person) - 1, int(label), np.asarray(series) / scale)
        for person, label, series in zip(found["subject"], found["y"], found["X"], strict=True)
    ]


def windows(series: Array, start: float, stop: float) -> list[Array]:
    """Of a part of a recording, at 25 Hz."""
    first, last = int(start * len(series)), int(stop * len(series)) - WINDOW
    halved = (series[:-1] + series[1:]) / 2
    return [halved[at : at + WINDOW : 2] for at in range(first, last, STRIDE)]


def collect(parts: list[tuple[int, Array]], start: float, stop: float) -> Set:
    """The windows of some recordings."""
    x = [(window, label) for label, series in parts for window in windows(series, start, stop)]
    stacked = np.stack([window for window, _ in x]).astype(np.float32)
    return Set(stacked[:, :, None, :], np.array([label for _, label in x], np.int64))


def setting(seed: int) -> Setting:
    """Seed s leaves person s out."""
    rng = np.random.default_rng(seed)
    mine = [(label, series) for person, label, series in recordings() if person == seed]
    known = collect([(label, series) for person, label, series in recordings() if person != seed], 0.0, 1.0)
    calibration = known[rng.permutation(len(known))[:300]]
    return Setting(known, calibration, collect(mine, 0.0, 1 / 3), {"person": collect(mine, 0.5, 1.0)})


TASK = Task("exercises", "exercises, unseen person", setting, networks.watch, epochs=3, steps=250)
