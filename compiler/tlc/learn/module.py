# SPDX-License-Identifier: Apache-2.0
"""A float graph as a ``tf.Module``: its weights and biases are variables, its operators are ``Operator.tf``."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from tlc.errors import UnsupportedOperator
from tlc.graph import Graph
from tlc.ops import REGISTRY

__all__ = ["GraphModule"]


class GraphModule(tf.Module):  # type: ignore[misc]
    """Runs a float graph on any number of samples, differentiably.

    Args:
        graph: float; every operator must have a TensorFlow form.

    Raises:
        UnsupportedOperator: an operator has none.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__(name="graph")
        self.graph = graph
        for node in graph.nodes:
            if node.op not in REGISTRY or node.op == "opaque":
                kind = getattr(node.attrs, "op_type", node.op)
                raise UnsupportedOperator(
                    f"{kind} cannot be trained",
                    where=f"node '{node.name}'",
                    remedy="cut after it, or run inference only",
                )
        self.weights: dict[str, tf.Variable] = {}
        for node in graph.nodes:
            for name in node.inputs:
                tensor = graph[name]
                if tensor.data is not None and name not in self.weights:
                    trainable = tensor.dtype == "float32"
                    self.weights[name] = tf.Variable(tensor.data, trainable=trainable, name=f"w{len(self.weights)}")

    def __call__(self, inputs: dict[str, Any], wanted: list[str] | None = None) -> dict[str, Any]:
        """Tensors by name: the graph's outputs, or the ``wanted`` ones. Inputs are (samples, ...) in our layout."""
        values: dict[str, Any] = {**self.weights, **inputs}
        for node in self.graph.nodes:
            values[node.output] = REGISTRY[node.op].tf(node, [values[name] for name in node.inputs])
        return {name: values[name] for name in (wanted or self.graph.outputs)}

    @property
    def logits(self) -> str:
        """The tensor that a classification loss starts from: the (first) output, before its softmax if it has one."""
        producer = self.graph.producer(self.graph.outputs[0])
        return producer.inputs[0] if producer is not None and producer.op == "softmax" else self.graph.outputs[0]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The weights as they are now."""
        return {name: variable.numpy() for name, variable in self.weights.items()}

    def load(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Sets the weights."""
        for name, value in arrays.items():
            self.weights[name].assign(np.asarray(value))

    def trained(self) -> Graph:
        """The graph with the weights as they are now."""
        graph = self.graph.copy()
        for name, value in self.arrays().items():
            graph[name].data = value
        return graph
