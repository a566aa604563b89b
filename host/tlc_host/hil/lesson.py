# SPDX-License-Identifier: Apache-2.0
"""The same training on a device and on its twin, in whatever way the project learns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tlc.twin import OptimizerStep
from tlc_host.hil.target import NotHere, Target
from tlc_host.session import Session

__all__ = ["Lesson"]

RATE, SEED = 0.02, 11


class Lesson:
    """Seeded samples with seeded gradients or labels, one a step.

    Args:
        target: the device.
        steps: how many.

    Raises:
        NotHere: nothing learns on the device.
    """

    def __init__(self, target: Target, steps: int) -> None:
        learning = target.bundle.learning
        if not target.bundle.learned or learning is None:
            raise NotHere("nothing learns on the device")
        self.target = target
        self.twin = target.twin()
        self.learning = learning
        self.steps = steps
        self.inputs = target.inputs(steps, 6)
        rng = np.random.default_rng(5)
        elements = int(np.prod(target.bundle.outputs[0].shape))
        self.labels = rng.integers(0, elements, steps)
        self.values = rng.uniform(0, 1, (steps, elements)).astype(np.float32)
        self.gradients = rng.integers(-127, 128, (steps, elements), np.int8)
        self.scales = rng.uniform(1e-4, 1e-3, steps).astype(np.float32)

    def params(self) -> bytes:
        """The twin's learned tensors as they lie in a message."""
        return self.target.as_message(self.twin.params())

    def _target(self, at: int) -> int | NDArray[np.float32]:
        return int(self.labels[at]) if self.learning.loss == "softmax-ce" else self.values[at]

    async def step(self, session: Session, number: int) -> None:
        """Step ``number`` (from 1) on the device."""
        at = number - 1
        reply = await session.forward(self.inputs[at], step=number)
        now = number if self.learning.interleaved else None
        if self.learning.loss != "none":
            values = self.learning.loss == "mse"
            await session.train(reply, self._target(at), now, RATE, SEED, values=values)
        elif self.learning.interleaved:
            await session.train(reply, self.gradients[at], now, RATE, SEED, scale=float(self.scales[at]))
        else:
            await session.backward(reply, self.gradients[at], scale=float(self.scales[at]), step=number)
        if not self.learning.interleaved:
            await session.step(number, RATE, SEED)

    def step_twin(self, number: int) -> None:
        """The same on the twin."""
        at = number - 1
        told = OptimizerStep(RATE, number, SEED, 0.0, 0.0, 0.0, 0.0) if self.learning.interleaved else None
        self.twin.forward(*(x[None] for x in self.inputs[at]))
        if self.learning.loss != "none":
            self.twin.learn(self._target(at), told)
        else:
            self.twin.backward(self.scales[at] * self.gradients[at].astype(np.float32), told)
        if not self.learning.interleaved:
            self.twin.update(RATE, number, SEED)
