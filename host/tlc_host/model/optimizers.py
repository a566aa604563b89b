# SPDX-License-Identifier: Apache-2.0
"""The optimizers of the host segment, and their settings. Imports without TensorFlow.

g is the mean gradient over the samples since the last step, clipped; η the learning rate of the step; t counts from 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tlc.errors import ConfigError, nearest
from tlc_host.model.schedules import Schedule

__all__ = ["BATCH_NORM", "OPTIMIZERS", "Optimizer", "Settings"]

BATCH_NORM = ("frozen", "training")


@dataclass(frozen=True)
class Settings:
    """How the host segment learns.

    Args:
        optimizer: a key of ``OPTIMIZERS``.
        learning_rate: before the schedule's factor.
        momentum: of ``momentum``.
        beta1, beta2, epsilon: of ``adam`` and ``adamw``.
        weight_decay: of ``adamw``.
        clip_norm: all gradients together are scaled down to this Euclidean norm; 0: never. Pascanu et al., arXiv 1211.5063.
        schedule: of the learning rate.
        batch_norm: ``frozen``: running statistics, which stay; scale and shift learn. ``training``: those of the batch, and
            the running ones follow. With it dropout drops in both.
        seed: of dropout.

    Raises:
        ConfigError: a setting breaks a rule.
    """

    optimizer: str = "sgd"
    learning_rate: float = 0.05
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.01
    clip_norm: float = 0.0
    schedule: Schedule = field(default_factory=Schedule)
    batch_norm: str = "frozen"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"no optimizer '{self.optimizer}'", where="optimizer", remedy=nearest(self.optimizer, OPTIMIZERS)
            )
        if self.batch_norm not in BATCH_NORM:
            raise ConfigError(
                f"must be frozen or training, but is '{self.batch_norm}'",
                where="batch_norm",
                remedy=nearest(self.batch_norm, BATCH_NORM),
            )
        if not 0 < self.learning_rate < math.inf:
            raise ConfigError(f"must be positive, but is {self.learning_rate}", where="learning_rate")
        for name in ("momentum", "beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"must be at least 0 and below 1, but is {getattr(self, name)}", where=name)
        for name in ("epsilon", "weight_decay", "clip_norm"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"must be 0 or positive, but is {getattr(self, name)}", where=name)


Update = Callable[[Settings, Any, Any, Sequence[Any], Any, Any], None]
"""(settings, variable, g, slots, η, t): in TensorFlow, assigns."""


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer keeps beside each variable, and what it does to it."""

    slots: tuple[str, ...]
    update: Update


def _sgd(s: Settings, w: Any, g: Any, slots: Sequence[Any], rate: Any, t: Any) -> None:
    """w ← w − η g. Robbins and Monro, 1951."""
    w.assign_sub(rate * g)


def _momentum(s: Settings, w: Any, g: Any, slots: Sequence[Any], rate: Any, t: Any) -> None:
    """v ← μ v + g; w ← w − η v. Polyak, 1964, in the form of Sutskever et al., 2013, with η outside of v."""
    (v,) = slots
    w.assign_sub(rate * v.assign(s.momentum * v + g))


def _adam(s: Settings, w: Any, g: Any, slots: Sequence[Any], rate: Any, t: Any) -> None:
    """m ← β₁ m + (1 − β₁) g; v ← β₂ v + (1 − β₂) g²; w ← w − η m̂ / (√v̂ + ε), m̂ and v̂ corrected for their start at zero.
    Kingma and Ba, arXiv 1412.6980, algorithm 1."""
    import tensorflow as tf

    m, v = slots
    new_m = m.assign(s.beta1 * m + (1 - s.beta1) * g)
    new_v = v.assign(s.beta2 * v + (1 - s.beta2) * tf.square(g))
    steps = tf.cast(t, g.dtype)
    m_hat = new_m / (1 - tf.pow(tf.cast(s.beta1, g.dtype), steps))
    v_hat = new_v / (1 - tf.pow(tf.cast(s.beta2, g.dtype), steps))
    w.assign_sub(rate * m_hat / (tf.sqrt(v_hat) + s.epsilon))


def _adamw(s: Settings, w: Any, g: Any, slots: Sequence[Any], rate: Any, t: Any) -> None:
    """Adam, and w ← w − η λ w apart from it. Loshchilov and Hutter, arXiv 1711.05101, algorithm 2."""
    w.assign_sub(rate * s.weight_decay * w)
    _adam(s, w, g, slots, rate, t)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(("m", "v"), _adam),
    "adamw": Optimizer(("m", "v"), _adamw),
    "momentum": Optimizer(("v",), _momentum),
    "sgd": Optimizer((), _sgd),
}
