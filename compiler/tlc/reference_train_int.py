# SPDX-License-Identifier: Apache-2.0
"""The definition of a training step in integers alone: no float between the gradient handed in and the updated weight.

The generated C equals it bit for bit: every tensor after every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.losses import Target
from tlc.ops.training import integer_steps
from tlc.ops.training_int import Fixed, Site, sgd_step_int, take_gradient
from tlc.passes.backward import Plan
from tlc.reference_train import ReferenceTrainer

__all__ = ["ReferenceTrainerInt", "gradient_exponents", "reference_trainer"]

Float = NDArray[np.float32]


def reference_trainer(graph: Graph, plan: Plan) -> ReferenceTrainer:
    """One device that learns, in the plan's arithmetic."""
    return (ReferenceTrainerInt if plan.learning.arithmetic == "int" else ReferenceTrainer)(graph, plan)


class ReferenceTrainerInt(ReferenceTrainer):
    """One device that learns in integers; its interface is that of the other."""

    def __init__(self, graph: Graph, plan: Plan) -> None:
        super().__init__(graph, plan)
        self._totals: dict[str, Fixed] = {}
        self.sites: dict[tuple[str, str, int], Site] = {key: Site(*shifts) for key, shifts in plan.shifts.items()}
        """What writes a gradient with a scale of its own: by node, tensor, and the how manieth time."""
        self.top_scale = 0
        """Of the last gradient handed in."""
        self._clear()

    def _backward(self, gradient: Float, own: Float | None = None) -> None:
        """As of :class:`ReferenceTrainer`, from the float32 values' bits."""
        values, graph = self._values, self.graph
        assert values, "backward comes after forward"
        tops = self._tops(self.plan, gradient, own)
        gradients: dict[str, Fixed] = {name: take_gradient(value) for name, value in tops.items()}
        self.top_scale = gradients[self.plan.top].scale
        for node, wanted in self.plan.order:
            dy = replace(gradients.pop(node.output), scaled_at=self._sites(node.name, node.output))
            sums: dict[int, Fixed] = {}
            for index in sorted(wanted):
                name = node.inputs[index]
                if name in self._totals:
                    sums[index] = self._totals[name]
                else:
                    sums[index] = gradients.setdefault(name, Fixed.zeros(graph[name].shape))
                sums[index].sites = self._sites(node.name, name)
            inputs = [values[name] for name in node.inputs]
            REGISTRY[node.op].gradient_int(graph, node, inputs, values[node.output], dy, sums)
        self._values = {}
        self.samples += 1

    def update(
        self,
        learning_rate: float,
        step: int,
        seed: int,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> None:
        """One step of SGD on the gradients accumulated so far, which are cleared."""
        assert self.samples, "update comes after backward"
        assert weight_decay == clip == 0, "neither weight decay nor clipping"
        for salt, name in enumerate(self.plan.learned):
            tensor = self.graph[name]
            assert tensor.quant is not None
            values, at = self._rows(name).copy(), self._part(name)
            scale = tensor.quant.scale if len(tensor.quant.scale) == 1 else tensor.quant.scale[at[0]]
            values[at] = sgd_step_int(
                values[at],
                self._totals[name],
                integer_steps(scale, self.plan.learning.qas),
                input_scale=self._input_scale(name),
                learning_rate=learning_rate,
                samples=self.samples,
                step=step,
                seed=seed,
                salt=salt,
                momentum=momentum,
                velocity=self._velocities[name][at] if name in self._velocities else None,
                residual=self._residuals[name][at] if name in self._residuals else None,
            )
            tensor.data = np.ascontiguousarray(np.moveaxis(values, 0, self._axes[name]))
        self._clear()
        self.samples = 0
        self._values = {}

    def _velocity_type(self, name: str) -> type[np.generic]:
        return np.int16 if self.graph[name].dtype == "int8" else np.int32

    def _sites(self, node: str, tensor: str) -> Iterator[Site]:
        for number in count():
            yield self.sites.setdefault((node, tensor, number), Site())

    def gradients(self) -> dict[str, Float]:
        """What the accumulators stand for, with respect to reals, laid out like :meth:`params`."""
        totals = self._totals.items()
        return {name: (total.reals * self._input_scale(name)).astype(np.float32) for name, total in totals}

    def abandon(self) -> None:
        """Forgets the gradients accumulated so far."""
        self._clear()
        self.samples = 0

    def _clear(self) -> None:
        self._totals = {name: Fixed.zeros(self._rows(name).shape, self._part(name)) for name in self.plan.learned}

    def _input_scale(self, name: str) -> float:
        """What a weight's gradient in integers leaves to the optimizer."""
        if self.graph[name].dtype != "int8":
            return 1.0
        node: Any = next(node for node in self.graph.nodes if name in node.inputs[1:])
        quant = self.graph[node.inputs[0]].quant
        assert quant is not None
        return quant.s


def gradient_exponents(
    graph: Graph, plan: Plan, samples: Iterable[tuple[tuple[NDArray[np.int8], ...], Float | Target]]
) -> dict[tuple[str, str, int], int]:
    """The largest exponents that gradients come to on samples, relative to that of the gradient handed in.

    Args:
        plan: with dynamic scales.
        samples: inputs, and the gradient at the plan's top; where the plan has a loss, the target.

    Returns:
        By node, tensor, and the how manieth time the node writes that tensor's gradient; of those that are not always 0.
    """
    trainer = ReferenceTrainerInt(graph, plan)
    most: dict[tuple[str, str, int], int] = {}
    for inputs, told in samples:
        trainer.forward(*inputs)
        if plan.learning.loss != "none":
            trainer.learn(told)
        else:
            trainer.backward(np.asarray(told, np.float32))
        for key, site in trainer.sites.items():
            if site.scale and trainer.top_scale:
                exponent = site.scale - trainer.top_scale
                most[key] = max(most.get(key, exponent), exponent)
            site.scale = 0
        trainer.abandon()
    return most
