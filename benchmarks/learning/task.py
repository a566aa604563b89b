# SPDX-License-Identifier: Apache-2.0
"""What a task is: a trained network, data that it was not trained for, and how it is measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph

__all__ = ["SEEDS", "TUNING", "Array", "Set", "Setting", "Task", "data", "shuffled"]

Array = NDArray[Any]

SEEDS = (0, 1, 2, 3, 4)
"""What is reported: each draws the data, the network's first weights and the order of the samples."""
TUNING = 5
"""The seed on which learning rates were chosen; it is not reported."""


@dataclass(frozen=True)
class Set:
    """Samples and their labels."""

    x: Array
    """float32, (samples, …)."""
    y: Array
    """int64, (samples,)."""

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: Any) -> Set:
        return Set(self.x[index], self.y[index])

    @staticmethod
    def of(*parts: Set) -> Set:
        """All of them in one."""
        return Set(np.concatenate([part.x for part in parts]), np.concatenate([part.y for part in parts]))


@dataclass(frozen=True)
class Setting:
    """A task with a seed."""

    pretrain: Set
    """What the network learns before it is compiled."""
    calibration: Set
    """What ``tlc compile --calib`` sees."""
    adapt: Set
    """What comes to the device."""
    tests: Mapping[str, Set]
    """What is measured, the first of them above all."""


@dataclass(frozen=True)
class Task:
    """One row of the table."""

    name: str
    title: str
    setting: Callable[[int], Setting]
    """Of a seed."""
    network: Callable[[int], Graph]
    """Float, not trained yet; of a seed. Its output are logits."""
    epochs: int
    """Of pretraining."""
    steps: int
    """Of learning, on batches of 8."""
    pretrained_as: str = ""
    """Tasks of one name here begin with the same network."""
    tuned_as: str = ""
    """The task whose learning rates it takes."""


def data(name: str) -> Mapping[str, Array]:
    """A data set of the directory ``TLC_DATA``.

    Raises:
        FileNotFoundError: it is not there.
    """
    with np.load(Path(os.environ["TLC_DATA"]) / name) as arrays:
        return dict(arrays)


def shuffled(whole: Set, rng: np.random.Generator, count: int | None = None) -> Set:
    """``count`` of the samples, in a random order."""
    return whole[rng.permutation(len(whole))[:count]]
