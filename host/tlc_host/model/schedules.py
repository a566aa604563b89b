# SPDX-License-Identifier: Apache-2.0
"""How the learning rate moves from step to step."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tlc.errors import ConfigError, nearest

__all__ = ["SCHEDULES", "Schedule"]


@dataclass(frozen=True)
class Schedule:
    """A factor on the learning rate, from the number of optimizer steps done before.

    Args:
        kind: ``constant``; ``step``: times ``factor`` after every ``every`` steps; ``cosine``: half a cosine from 1 down to
            ``floor`` at step ``total``, then ``floor`` (Loshchilov and Hutter, arXiv 1608.03983, eq. 5, without restarts).
        warmup: steps in which the rate first climbs linearly from 1 / warmup (Goyal et al., arXiv 1706.02677); the rest
            counts from there.

    Raises:
        ConfigError: a setting breaks a rule.
    """

    kind: str = "constant"
    warmup: int = 0
    every: int = 1000
    factor: float = 0.1
    total: int = 10_000
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ConfigError(f"no schedule '{self.kind}'", where="schedule", remedy=nearest(self.kind, SCHEDULES))
        for name, low in (("warmup", 0), ("every", 1), ("total", 1)):
            if getattr(self, name) < low:
                raise ConfigError(f"{name} must be at least {low}, but is {getattr(self, name)}", where="schedule")
        for name in ("factor", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be between 0 and 1, but is {getattr(self, name)}", where="schedule")

    def __call__(self, step: int) -> float:
        """The factor at a step, counted from 0."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return SCHEDULES[self.kind](self, step - self.warmup)


def _cosine(schedule: Schedule, step: int) -> float:
    part = min(1.0, step / schedule.total)
    return schedule.floor + (1 - schedule.floor) * 0.5 * (1 + math.cos(math.pi * part))


SCHEDULES: dict[str, Callable[[Schedule, int], float]] = {
    "constant": lambda schedule, step: 1.0,
    "step": lambda schedule, step: schedule.factor ** (step // schedule.every),
    "cosine": _cosine,
}
