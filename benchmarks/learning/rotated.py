# SPDX-License-Identifier: Apache-2.0
"""A network of upright digits learns digits turned by 30 or 45 degrees, as a device that was mounted askew would see them.

Needs ``mnist.npz``. The device learns from 1,000 images.
"""

from __future__ import annotations

import numpy as np

from . import networks
from .fashion import digits, split
from .task import Array, Set, Setting, Task, data

__all__ = ["TASKS", "turned"]

ADAPT = 1000


def turned(x: Array, degrees: float) -> Array:
    """Images (samples, rows, columns, 1) turned about their centre, bilinear."""
    angle, size = np.deg2rad(degrees), x.shape[1]
    middle = (size - 1) / 2
    rows, columns = np.mgrid[0:size, 0:size] - middle
    source = (
        np.cos(angle) * rows - np.sin(angle) * columns + middle,
        np.sin(angle) * rows + np.cos(angle) * columns + middle,
    )
    low = [np.floor(at).astype(int) for at in source]
    part = [(at - floor).astype(np.float32) for at, floor in zip(source, low, strict=True)]
    r, c = (np.clip(at + 1, 0, size + 1) for at in low)
    padded = np.pad(x[..., 0], ((0, 0), (1, 2), (1, 2)))
    top = padded[:, r, c] * (1 - part[1]) + padded[:, r, c + 1] * part[1]
    bottom = padded[:, r + 1, c] * (1 - part[1]) + padded[:, r + 1, c + 1] * part[1]
    result: Array = (top * (1 - part[0]) + bottom * part[0])[..., None].astype(np.float32)
    return result


def setting(seed: int, degrees: float) -> Setting:
    """The calibration samples are turned as well."""
    adapt, test = (Set(turned(part.x, degrees), part.y) for part in split(dict(data("mnist.npz")), seed))
    return Setting(digits(seed), adapt[:300], adapt[:ADAPT], {"turned": test})


def task(degrees: int) -> Task:
    """Of one angle."""
    return Task(
        f"rotated{degrees}",
        f"MNIST, turned by {degrees}°",
        lambda seed: setting(seed, degrees),
        networks.lenet,
        epochs=3,
        steps=250,
        pretrained_as="digits",
        tuned_as="rotated45",
    )


TASKS = (task(30), task(45))
