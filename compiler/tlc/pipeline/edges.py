# SPDX-License-Identifier: Apache-2.0
"""Tensors that cross an edge of the device segment, as the model file has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import EdgeTensor
from tlc.data import Samples
from tlc.errors import ModelError
from tlc.graph import Graph, Tensor


def input_arrays(graph: Graph, samples: Samples) -> dict[str, NDArray[Any]]:
    """Samples in the graph's layout, by its inputs' names."""
    arrays: dict[str, NDArray[Any]] = {}
    for name in graph.inputs:
        tensor = graph[name]
        given = samples.inputs[file_name(tensor)]
        arrays[name] = tensor.origin.from_file(given, tensor.shape) if tensor.origin else given
    return arrays


def quantized(device: Graph, name: str, values: NDArray[Any]) -> NDArray[np.int8]:
    """Float values in the integers of an input."""
    quant = device[name].quant
    assert quant is not None
    return quant.quantize(values)


def is_integer(graph: Graph) -> bool:
    """Whether the model's inputs are int8 already."""
    kinds = {graph[name].dtype for name in graph.inputs}
    return kinds == {"int8"}


def file_name(tensor: Tensor) -> str:
    """A tensor's name in the model file."""
    return tensor.origin.name if tensor.origin else tensor.name


def file_edge(tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """A tensor's name and shape in the model file."""
    return (tensor.origin.name, tensor.origin.shape) if tensor.origin else (tensor.name, tensor.shape)


def edge_tensor(tensor: Tensor) -> EdgeTensor:
    """A tensor that crosses the edge of the device segment, as the bundle has it."""
    if tensor.quant is None:
        raise ModelError("has no quantization", where=f"tensor '{tensor.name}'")
    name, shape = file_edge(tensor)
    perm = tensor.origin.perm if tensor.origin else tuple(range(len(shape)))
    return EdgeTensor(
        name=tensor.name,
        file_name=name,
        shape=tensor.shape,
        file_shape=shape,
        perm=perm,
        scale=tensor.quant.s,
        zero_point=tensor.quant.zero_point,
    )
