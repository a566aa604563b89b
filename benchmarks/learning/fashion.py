# SPDX-License-Identifier: Apache-2.0
"""A network of digits learns clothes: MNIST → Fashion-MNIST.

Needs ``mnist.npz`` and ``fashion_mnist.npz``. The device learns from 2,000 images.
"""

from __future__ import annotations

import numpy as np

from . import networks
from .task import TUNING, Array, Set, Setting, Task, data, shuffled

__all__ = ["TASK", "digits", "pictures", "split"]

PRETRAIN, ADAPT, TEST = 5000, 2000, 1000


def pictures(x: Array, y: Array) -> Set:
    """Bytes (samples, 28, 28) as reals of [0, 1] with a channel."""
    return Set((x / np.float32(255)).astype(np.float32)[..., None], y.astype(np.int64))


def digits(seed: int) -> Set:
    """The upright digits that the network of a seed learns first."""
    arrays = data("mnist.npz")
    return shuffled(
        pictures(arrays["x_train"][:30000], arrays["y_train"][:30000]), np.random.default_rng(seed), PRETRAIN
    )


def split(arrays: dict[str, Array], seed: int) -> tuple[Set, Set]:
    """Images to learn from and to measure with. The rates were chosen on images of the training set."""
    rng = np.random.default_rng(seed)
    half = len(arrays["x_train"]) // 2
    train = shuffled(pictures(arrays["x_train"][half:], arrays["y_train"][half:]), rng)
    if seed == TUNING:
        return train[TEST : TEST + ADAPT], train[:TEST]
    return train[:ADAPT], shuffled(pictures(arrays["x_test"], arrays["y_test"]), rng, TEST)


def setting(seed: int) -> Setting:
    """The calibration samples are clothes: the device is compiled for them."""
    adapt, test = split(dict(data("fashion_mnist.npz")), seed)
    return Setting(digits(seed), adapt[:300], adapt, {"clothes": test})


TASK = Task(
    "fashion",
    "MNIST → Fashion-MNIST",
    setting,
    networks.lenet,
    epochs=3,
    steps=400,
    pretrained_as="digits",
    tuned_as="rotated45",
)
