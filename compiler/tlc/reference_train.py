# SPDX-License-Identifier: Apache-2.0
"""The definition of a training step: forward in int8, backward and update in float32, on NumPy arrays.

The generated C equals it bit for bit: every tensor after every step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.losses import Target, Verdict, loss_gradient
from tlc.ops.training import sgd_step
from tlc.passes.backward import Plan

__all__ = ["ReferenceTrainer"]

Float = NDArray[np.float32]


class ReferenceTrainer:
    """One device that learns.

    Args:
        graph: integer, device side only; it is not changed.
        plan: what learns, from :func:`tlc.passes.backward.differentiate`.
    """

    def __init__(self, graph: Graph, plan: Plan) -> None:
        self.graph = graph.copy()
        self.plan = plan
        self.samples = 0
        self._tail_graph = graph.segments()[1] if graph.tail else graph
        self._values: dict[str, NDArray[Any]] = {}
        self._axes = dict.fromkeys(plan.learned, 0)
        for node in graph.nodes:
            axis = REGISTRY[node.op].weight_axis(node)
            if axis is not None and node.inputs[1] in self._axes:
                self._axes[node.inputs[1]] = axis
        self._sums = {name: np.zeros(self._rows(name).shape, np.float32) for name in plan.learned}
        self._velocities: dict[str, NDArray[Any]] = {}
        self._residuals: dict[str, NDArray[np.int8]] = {}
        self.forget()

    def forward(self, *inputs: NDArray[np.int8]) -> list[NDArray[np.int8]]:
        """The outputs of one sample: inputs and outputs int8 of (1, …)."""
        names = [name for name in self.graph.inputs if name != self.graph.tail]
        values: dict[str, NDArray[Any]] = dict(zip(names, inputs, strict=True))
        values.update({name: tensor.data for name, tensor in self.graph.tensors.items() if tensor.data is not None})
        self._values = values
        self._run(self.graph.outputs[:1] if self.graph.tail else self.graph.outputs)
        return [values[name] for name in self.graph.outputs if name in values]

    def _run(self, outputs: list[str]) -> None:
        """The nodes that lead to some outputs, from the values that are there."""
        values = self._values
        needed = set(outputs)
        for node in reversed(self.graph.nodes):
            if node.output in needed and node.output not in values:
                needed.update(node.inputs)
        for node in self.graph.nodes:
            if node.output in needed and node.output not in values:
                values[node.output] = REGISTRY[node.op].int8(self.graph, node, [values[name] for name in node.inputs])

    def learn_tail(self, x: NDArray[np.int8], target: Target) -> tuple[NDArray[np.int8], Float, Verdict]:
        """The second part of a U-shaped segment after :meth:`forward`, with its loss and backward pass; then
        :meth:`backward` is to follow.

        Args:
            x: what the host's part made of the sample.

        Returns:
            The output, and float32 d loss / d the reals of ``x``, and the loss.
        """
        last, name = self.plan.tail, self.graph.tail
        assert last is not None and self._values, "the tail comes after forward"
        self._values[name] = x.reshape(self.graph[name].shape)
        self._run(self.graph.outputs[-1:])
        gradient, verdict = loss_gradient(self._tail_graph, last.learning.loss, self._values[last.top], target)
        left = self._go_back(last, gradient)
        return self._values[self.graph.outputs[-1]], left[name], verdict

    def forget(self) -> None:
        """Clears the optimizer's memory, as a device does when its learned tensors are replaced."""
        learning, names = self.plan.learning, self.plan.learned
        shapes = {name: self._rows(name).shape for name in names}
        if learning.momentum:
            self._velocities = {name: np.zeros(shapes[name], self._velocity_type(name)) for name in names}
        if learning.feedback:
            self._residuals = {
                name: np.zeros(shapes[name], np.int8) for name in names if self.graph[name].dtype == "int8"
            }

    def _velocity_type(self, name: str) -> type[np.generic]:
        return np.float32

    def backward(self, gradient: Float) -> None:
        """Adds the gradient of the sample of the last :meth:`forward` to the accumulators.

        Where updates are interleaved on the device it does the same, and :meth:`update` follows each call: a weight's update
        comes after all that reads its old value, so nothing else tells the two apart.

        Args:
            gradient: float32, d loss / d the reals of the plan's top, of its shape.
        """
        self._backward(gradient)

    def _backward(self, gradient: Float, own: Float | None = None) -> None:
        """The same; of a segment with a head at the cut also from the gradient that the head's loss gives, None: zeros."""
        plan = self.plan
        assert self._values, "backward comes after forward"
        if plan.tail:
            plan = replace(plan, order=plan.order[len(plan.tail.order) :])
        self._go_back(plan, gradient, own)
        self._values = {}
        self.samples += 1

    def _go_back(self, plan: Plan, gradient: Float, own: Float | None = None) -> dict[str, Float]:
        """Through a plan's nodes; the gradients of activations that are left."""
        values, graph = self._values, self.graph
        gradients = self._tops(plan, gradient, own)
        for node, wanted in plan.order:
            dy = gradients.pop(node.output)
            sums: dict[int, Float] = {}
            for index in sorted(wanted):
                name = node.inputs[index]
                if name in self._sums:
                    sums[index] = self._sums[name]
                else:
                    sums[index] = gradients.setdefault(name, np.zeros(graph[name].shape, np.float32))
            inputs = [values[name] for name in node.inputs]
            REGISTRY[node.op].gradient(graph, node, inputs, values[node.output], dy, sums)
        return gradients

    def _tops(self, plan: Plan, gradient: Float, own: Float | None) -> dict[str, Float]:
        """The gradients that a backward pass begins with."""
        given = {plan.top: gradient}
        if plan.aux_top:
            given[plan.aux_top] = np.zeros(self.graph[plan.aux_top].shape, np.float32) if own is None else own
        return {name: np.array(value, np.float32).reshape(self.graph[name].shape) for name, value in given.items()}

    def learn(self, target: Target, gradient: Float | None = None) -> Verdict:
        """:meth:`backward` with the gradient of the plan's loss.

        Args:
            target: a class; or, of a mean squared error, values of the output's shape.
            gradient: of a segment with a head at the cut: what is handed in there beside; None: zeros.

        Raises:
            DataError: no such class.
        """
        top = self.plan.aux_top or self.plan.top
        own, verdict = loss_gradient(self.graph, self.plan.learning.loss, self._values[top], target)
        if not self.plan.aux_top:
            self.backward(own)
        else:
            self._backward(np.zeros(self.graph[self.plan.top].shape, np.float32) if gradient is None else gradient, own)
        return verdict

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
        """One optimizer step on the gradients accumulated so far, which are cleared (:func:`tlc.ops.training.sgd_step`)."""
        assert self.samples, "update comes after backward"
        for salt, name in enumerate(self.plan.learned):
            tensor = self.graph[name]
            assert tensor.quant is not None
            values, at = self._rows(name).copy(), self._part(name)
            values[at] = sgd_step(
                values[at],
                self._sums[name][at],
                tensor.quant.scale if len(tensor.quant.scale) == 1 else tensor.quant.scale[at[0]],
                learning_rate=learning_rate,
                samples=self.samples,
                step=step,
                seed=seed,
                salt=salt,
                momentum=momentum,
                weight_decay=weight_decay,
                clip=clip,
                velocity=self._velocities[name][at] if name in self._velocities else None,
                residual=self._residuals[name][at] if name in self._residuals else None,
                qas=self.plan.learning.qas,
            )
            tensor.data = np.ascontiguousarray(np.moveaxis(values, 0, self._axes[name]))
            self._sums[name][...] = 0
        self.samples = 0
        self._values = {}

    def params(self) -> dict[str, NDArray[Any]]:
        """The learned tensors' integers as they lie in the state: weights as rows, one an output channel."""
        return {name: np.ascontiguousarray(self._rows(name)[self._part(name)]) for name in self.plan.learned}

    def gradients(self) -> dict[str, Float]:
        """The accumulators, laid out like :meth:`params`."""
        return {name: total[self._part(name)].copy() for name, total in self._sums.items()}

    def _part(self, name: str) -> tuple[Any, ...]:
        """What learns of a tensor, as an index of its rows."""
        part = self.plan.slices.get(name)
        if part is None:
            return (slice(None),)
        return (slice(*part.outs),) if part.ins is None else (slice(*part.outs), ..., slice(*part.ins))

    def _rows(self, name: str) -> NDArray[Any]:
        return np.moveaxis(self.graph.data(name), self._axes[name], 0)
