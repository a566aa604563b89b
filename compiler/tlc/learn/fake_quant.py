# SPDX-License-Identifier: Apache-2.0
"""An integer graph as a differentiable TensorFlow function: fake quantization with straight-through gradients.

Every activation is a real that int8 can stand for, rounded where the int8 graph rounds; weights and biases are the reals of
their integers. ``tf.GradientTape`` through it is what the device's gradients are held to. Source of the straight-through
estimator: arXiv 1308.3432; of the scheme, arXiv 1712.05877.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Activation, activation_range

__all__ = ["FakeQuantModule"]


class FakeQuantModule(tf.Module):  # type: ignore[misc]
    """Runs an integer graph in the reals of its integers, differentiably.

    Its values are those of the int8 graph, but for single steps where fixed-point arithmetic rounds otherwise.

    Args:
        graph: integer, without opaque operators.
        dtype: what it computes in.
    """

    def __init__(self, graph: Graph, dtype: Any = tf.float64) -> None:
        super().__init__(name="fake_quant")
        self.graph = graph
        self.dtype = dtype
        self.constants: dict[str, tf.Variable] = {}
        """Weights, biases and constant operands, as reals."""
        for name, tensor in graph.tensors.items():
            if tensor.data is not None and tensor.quant is not None:
                real = tensor.quant.dequantize(tensor.data)
                self.constants[name] = tf.Variable(real, dtype=dtype, name=f"c{len(self.constants)}")

    def __call__(self, inputs: dict[str, Any], wanted: list[str] | None = None) -> dict[str, Any]:
        """Reals by name: the graph's outputs, or the ``wanted`` activations.

        Args:
            inputs: int8 integers, (samples, …), of each graph input.
        """
        values: dict[str, Any] = dict(self.constants)
        for name in self.graph.inputs:
            quant = self.graph[name].quant
            assert quant is not None
            values[name] = quant.s * (tf.cast(inputs[name], self.dtype) - quant.zero_point)
        for node in self.graph.nodes:
            values[node.output] = self._run(node, [values[name] for name in node.inputs])
        return {name: values[name] for name in (wanted or self.graph.outputs)}

    def integers(self, name: str, real: Any) -> NDArray[np.int8]:
        """The int8 values that reals of an activation stand for."""
        quant = self.graph[name].quant
        assert quant is not None
        return np.rint(np.asarray(real) / quant.s + quant.zero_point).astype(np.int8)

    def _run(self, node: Node, inputs: list[Any]) -> Any:
        activation = getattr(node.attrs, "activation", Activation.NONE)
        bare = node
        if activation is not Activation.NONE:
            bare = Node(node.name, node.op, node.inputs, node.outputs, node.with_attrs(activation=Activation.NONE))
        real = REGISTRY[node.op].tf(bare, inputs)
        if REGISTRY[node.op].alias:
            return real
        quant = self.graph[node.output].quant
        assert quant is not None
        # The average of integers is rounded with their zero point in it, everything else before it is added.
        inner, outer = (quant.zero_point, 0) if node.op == "average_pool2d" else (0, quant.zero_point)
        q = real / quant.s + inner
        q = q + tf.stop_gradient(tf.sign(q) * tf.floor(tf.abs(q) + 0.5) - q) + outer
        least, most = activation_range(activation, quant)
        low, high = activation.bounds
        if np.isfinite(low):  # as tf.nn.relu: no gradient at zero
            q = least + tf.nn.relu(q - least)
        if np.isfinite(high):  # as tf.nn.relu6: none at six
            q = most - tf.nn.relu(most - q)
        q = tf.clip_by_value(q, tf.cast(-128, self.dtype), tf.cast(127, self.dtype))
        return quant.s * (q - quant.zero_point)
