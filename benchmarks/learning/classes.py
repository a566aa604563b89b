# SPDX-License-Identifier: Apache-2.0
"""A residual network of the classes 0 to 6 learns 7, 8 and 9, and keeps the others as well as it can.

Needs ``mnist.npz`` and ``fashion_mnist.npz``. To the device come 900 images of the new classes, and 140 of the old, which a device would
keep beside the model (20 of each class); half of every batch is of either.
"""

from __future__ import annotations

import numpy as np

from . import networks
from .fashion import pictures, split
from .task import Set, Setting, Task, data, shuffled

__all__ = ["TASKS"]

KNOWN = 7
NEW, KEPT = 900, 20


def setting(seed: int, file: str) -> Setting:
    """What comes to the device stands by turns: a new class, an old one."""
    rng = np.random.default_rng(seed)
    arrays = dict(data(file))
    first = pictures(arrays["x_train"][:7000], arrays["y_train"][:7000])
    pretrain = first[first.y < KNOWN]
    adapt, test = split(arrays, seed)
    new = adapt[adapt.y >= KNOWN]
    old = Set.of(*(shuffled(pretrain[pretrain.y == label], rng, KEPT) for label in range(KNOWN)))
    count = 2 * min(len(new), NEW)
    both = Set.of(*(pair for i in range(count // 2) for pair in (new[i : i + 1], old[[rng.integers(len(old))]])))
    tests = {"all classes": test, "new classes": test[test.y >= KNOWN], "old classes": test[test.y < KNOWN]}
    return Setting(pretrain, both[:300], both, tests)


def task(name: str, title: str, file: str) -> Task:
    """Of one data set."""
    return Task(
        name, title, lambda seed: setting(seed, file), networks.residual, epochs=3, steps=200, tuned_as="clothes7-9"
    )


TASKS = (
    task("digits7-9", "MNIST 0–6, then 7–9", "mnist.npz"),
    task("clothes7-9", "Fashion-MNIST 0–6, then 7–9", "fashion_mnist.npz"),
)
