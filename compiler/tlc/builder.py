# SPDX-License-Identifier: Apache-2.0
"""Builds a float graph by hand, layer by layer: for examples, tests and experiments without a framework.

>>> net = Builder("tiny", (1, 28, 28, 1), seed=0)
>>> net.conv2d(8, 3, stride=2, activation=Activation.RELU)
>>> net.flatten()
>>> net.dense(10)
>>> net.softmax()
>>> graph = net.graph()
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation

__all__ = ["Builder"]


class Builder:
    """A chain of layers; ``last`` is the tensor that the next layer reads. Weights are He-initialised, biases zero."""

    def __init__(self, name: str, input_shape: Shape, seed: int = 0) -> None:
        self._graph = Graph(name)
        self._rng = np.random.default_rng(seed)
        self._graph.add(Tensor("input", input_shape))
        self._graph.inputs = ["input"]
        self.last = "input"

    def node(self, op: str, inputs: list[str], attrs: Any, name: str = "") -> str:
        """Adds any operator and returns the name of its output."""
        graph = self._graph
        node = Node(graph.fresh(name or op), op, inputs, [""], attrs)
        node.outputs = [graph.fresh(f"{node.name}_out")]
        graph.add(Tensor(node.output, ()))
        graph.nodes.append(node)
        graph[node.output].shape = REGISTRY[op].infer(graph, node)
        self.last = node.output
        return self.last

    def conv2d(
        self,
        channels: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        same: bool = True,
        groups: int = 1,
        activation: Activation = Activation.NONE,
    ) -> str:
        """A convolution; ``same`` pads so that the output is the input's size over the stride, rounded up."""
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        inner = self._graph[self.last].shape[-1] // groups
        weight = self._constant("conv2d_weight", (channels, height, width, inner), height * width * inner)
        bias = self._zeros("conv2d_bias", channels)
        attrs = REGISTRY["conv2d"].Attrs(
            strides=(stride, stride), pads=self._pads(height, width, stride, same), groups=groups, activation=activation
        )
        return self.node("conv2d", [self.last, weight, bias], attrs)

    def depthwise_conv2d(
        self, kernel: int, *, stride: int = 1, same: bool = True, activation: Activation = Activation.NONE
    ) -> str:
        """A depthwise convolution with one filter a channel."""
        channels = self._graph[self.last].shape[-1]
        weight = self._constant("depthwise_weight", (1, kernel, kernel, channels), kernel * kernel)
        bias = self._zeros("depthwise_bias", channels)
        pads = self._pads(kernel, kernel, stride, same)
        attrs = REGISTRY["depthwise_conv2d"].Attrs(strides=(stride, stride), pads=pads, activation=activation)
        return self.node("depthwise_conv2d", [self.last, weight, bias], attrs)

    def dense(self, units: int, *, activation: Activation = Activation.NONE) -> str:
        """A fully connected layer on the last axis."""
        inner = self._graph[self.last].shape[-1]
        weight = self._constant("dense_weight", (units, inner), inner)
        bias = self._zeros("dense_bias", units)
        return self.node("dense", [self.last, weight, bias], REGISTRY["dense"].Attrs(activation=activation))

    def max_pool2d(self, kernel: int, *, stride: int | None = None) -> str:
        """A max-pool without padding."""
        step = stride or kernel
        attrs = REGISTRY["max_pool2d"].Attrs(kernel=(kernel, kernel), strides=(step, step))
        return self.node("max_pool2d", [self.last], attrs)

    def mean(self) -> str:
        """The mean over height and width."""
        return self.node("mean", [self.last], REGISTRY["mean"].Attrs(axes=(1, 2), keep_dims=False))

    def flatten(self) -> str:
        """(1, everything)."""
        elements = self._graph[self.last].elements
        return self.node("reshape", [self.last], REGISTRY["reshape"].Attrs(shape=(1, elements)))

    def softmax(self) -> str:
        """Probabilities over the last axis."""
        return self.node("softmax", [self.last], REGISTRY["softmax"].Attrs())

    def graph(self) -> Graph:
        """What was built; the last layer is the output."""
        self._graph.outputs = [self.last]
        return self._graph

    def _pads(self, height: int, width: int, stride: int, same: bool) -> tuple[int, int, int, int]:
        if not same:
            return (0, 0, 0, 0)
        _, rows, columns, _ = self._graph[self.last].shape
        total_h = max((-(-rows // stride) - 1) * stride + height - rows, 0)
        total_w = max((-(-columns // stride) - 1) * stride + width - columns, 0)
        return (total_h // 2, total_w // 2, total_h - total_h // 2, total_w - total_w // 2)

    def _constant(self, name: str, shape: Shape, fan_in: int) -> str:
        values: NDArray[np.float32] = (self._rng.standard_normal(shape) * np.sqrt(2.0 / fan_in)).astype(np.float32)
        return self._graph.constant(name, values).name

    def _zeros(self, name: str, count: int) -> str:
        return self._graph.constant(name, np.zeros(count, np.float32)).name
