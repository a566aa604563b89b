# SPDX-License-Identifier: Apache-2.0
"""The arithmetic contract, executed: an integer graph on NumPy arrays, operator by operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DataError
from tlc.graph import Graph
from tlc.ops import REGISTRY

__all__ = ["run_int8"]

_CHUNK_BYTES = 1 << 24  # of the largest activation at once: what keeps a run in the cache and the memory small


def run_int8(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], tensors: Sequence[str] | None = None
) -> dict[str, NDArray[np.int8]]:
    """Runs any number of samples.

    Args:
        graph: an integer graph without opaque operators.
        inputs: for each graph input, int8 of shape (samples, ...): the tensor's shape with the samples on its leading
            axis.
        tensors: the activations to return; None: the graph's outputs.

    Returns:
        For each of them, int8 of shape (samples, ...).

    Raises:
        DataError: an input is missing, or of another type or shape.
        UnsupportedOperator: the graph holds an opaque operator.
    """
    wanted = list(graph.outputs if tensors is None else tensors)
    samples = _check(graph, inputs)
    largest = max(tensor.elements for tensor in graph.tensors.values() if not tensor.is_constant)
    step = max(1, _CHUNK_BYTES // max(1, largest))
    constants = {name: tensor.data for name, tensor in graph.tensors.items() if tensor.data is not None}
    last_use = {name: at for at, node in enumerate(graph.nodes) for name in node.inputs}
    chunks: list[dict[str, NDArray[Any]]] = []
    for start in range(0, samples, step):
        values: dict[str, NDArray[Any]] = dict(constants)
        values.update({name: inputs[name][start : start + step] for name in graph.inputs})
        for at, node in enumerate(graph.nodes):
            values[node.output] = REGISTRY[node.op].int8(graph, node, [values[name] for name in node.inputs])
            for name in node.inputs:
                if last_use[name] == at and name not in wanted:
                    values.pop(name, None)
        chunks.append({name: values[name] for name in wanted})
    if not chunks:
        return {name: np.zeros((0, *graph[name].shape[1:]), np.int8) for name in wanted}
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in wanted}


def _check(graph: Graph, inputs: Mapping[str, NDArray[Any]]) -> int:
    """How many samples there are."""
    counts = set()
    for name in graph.inputs:
        if name not in inputs:
            raise DataError("every input must have an array, but this one has none", where=f"input '{name}'")
        array, shape = inputs[name], graph[name].shape
        if array.dtype != np.int8 or array.shape[1:] != shape[1:] or array.ndim != len(shape):
            found = f"{array.dtype} of shape {list(array.shape)}"
            expected = f"int8 of shape {['samples', *shape[1:]]}".replace("'", "")
            raise DataError(f"an input must be {expected}, but it is {found}", where=f"input '{name}'")
        counts.add(len(array))
    if len(counts) != 1:
        raise DataError(f"all inputs must have as many samples, but they have {sorted(counts)}", where="inputs")
    return counts.pop()
