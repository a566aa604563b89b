# SPDX-License-Identifier: Apache-2.0
"""A float graph and the ranges of its activations → the integer graph, by LiteRT's 8-bit quantization specification.

Activations: int8, one scale and zero point a tensor. Weights: int8 in [−127, 127], symmetric, one scale an output
channel. Biases: int32 with scale s_in · s_w.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import ModelError
from tlc.graph import Graph, Node, Quant, Tensor
from tlc.ops import REGISTRY
from tlc.passes.calibrate import Ranges

__all__ = ["quantize", "range_to_quant"]

# A bias must leave room in int32 for the products: |bias| stays below 2^30 of its own units.
BIAS_LIMIT = float(1 << 30)
SMALLEST_SCALE = 1e-9


def range_to_quant(low: float, high: float) -> Quant:
    """The int8 quantization that covers [low, high] and represents zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max((high - low) / 255.0, SMALLEST_SCALE))
    zero_point = int(np.clip(np.rint(-128 - low / float(scale)), -128, 127))
    return Quant.per_tensor(float(scale), zero_point)


def quantize(graph: Graph, ranges: Ranges) -> Graph:
    """The integer graph of a float one, or of one whose first nodes are integer already.

    A range that is given for weights is what their scales reach to at least.
    """
    result = graph.copy()
    for name in result.inputs:
        if result[name].quant is None:
            _set(result[name], range_to_quant(*ranges[name]))
    for node in result.nodes:
        if result[node.output].quant is not None:
            continue
        operator = REGISTRY[node.op]
        for name in result.activations(node):
            assert result[name].quant is not None, name
        if operator.weight_axis(node) is not None:
            _quantize_weights(result, node, ranges.get(node.inputs[1], (0.0, 0.0))[1])
        else:
            for name in node.inputs:
                tensor = result[name]
                if tensor.is_constant and tensor.dtype == "float32":
                    data = result.data(name)
                    _set(tensor, range_to_quant(float(data.min()), float(data.max())))
        inputs = [quant for name in node.inputs if (quant := result[name].quant)]
        if operator.same_quant:
            quant = inputs[0]
        else:
            quant = operator.output_quant(inputs) or range_to_quant(*ranges[node.output])
        _set(result[node.output], quant)
    return result


def _set(tensor: Tensor, quant: Quant) -> None:
    tensor.quant = quant
    tensor.dtype = "int8"
    if tensor.data is not None:
        tensor.data = quant.quantize(tensor.data)


def _quantize_weights(graph: Graph, node: Node, reach: float) -> None:
    """Weights per output channel, then the bias in units of s_in · s_w.

    Constants that several nodes read are copied, because a bias's unit depends on its node's input.
    """
    axis = REGISTRY[node.op].weight_axis(node)
    assert axis is not None
    quant_in = graph[node.inputs[0]].quant
    assert quant_in is not None
    weights = _float_constant(graph, node, 1)
    bias = _float_constant(graph, node, 2) if len(node.inputs) > 2 else None
    others = tuple(i for i in range(weights.ndim) if i != axis)
    scale = np.maximum(np.abs(weights).max(axis=others), reach) / 127.0
    # A dead channel (all weights about zero) would make a bias unit so fine that the bias overflows.
    if bias is not None:
        scale = np.maximum(scale, np.abs(bias) / (quant_in.s * BIAS_LIMIT))
    quant = Quant(np.maximum(scale, SMALLEST_SCALE).astype(np.float32), 0, axis)
    node.inputs[1] = _add(graph, node.inputs[1], np.clip(quant.quantize(weights), -127, 127), quant)
    if bias is not None:
        unit = Quant((quant_in.scale * quant.scale).astype(np.float32), 0, 0)
        exact = bias.astype(np.float64) / (quant_in.s * quant.scale.astype(np.float64))
        node.inputs[2] = _add(graph, node.inputs[2], np.rint(exact).astype(np.int32), unit)


def _float_constant(graph: Graph, node: Node, index: int) -> NDArray[Any]:
    tensor = graph[node.inputs[index]]
    if tensor.data is None or tensor.dtype != "float32":
        raise ModelError(
            f"weights and biases must be float constants, but '{tensor.name}' is not",
            where=f"{node.op} '{node.name}'",
        )
    return tensor.data


def _add(graph: Graph, name: str, data: NDArray[Any], quant: Quant) -> str:
    """Replaces a constant by its quantized form, under the same name where this is its only use."""
    if len(graph.consumers(name)) == 1:
        tensor = graph[name]
        tensor.data, tensor.quant = data, quant
        tensor.dtype = "int8" if data.dtype == np.int8 else "int32"
        return name
    return graph.constant(name, data, quant).name
