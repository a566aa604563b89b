# SPDX-License-Identifier: Apache-2.0
"""The float network, run by ONNX Runtime: the oracle for calibration and for comparing layers."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DataError
from tlc.frontends.onnx_writer import write_onnx
from tlc.graph import Graph

__all__ = ["run_float", "session"]

BATCH = 64

_sessions: weakref.WeakKeyDictionary[Graph, tuple[Any, Any]] = weakref.WeakKeyDictionary()


def session(model: bytes) -> Any:
    """An ONNX Runtime session on the CPU, quiet, and with one order of summation whatever the machine's core count.

    Its fusion of Pad is left out: it takes zeros before a MaxPool for padding, which a MaxPool ignores, and so gives
    other values than ONNX says where all of a window is negative (seen in 1.31).
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model, options, providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
    )


def run_float(
    graph: Graph, inputs: Mapping[str, NDArray[Any]], tensors: Sequence[str] | None = None
) -> dict[str, NDArray[np.float32]]:
    """The reals of a graph's tensors; of an integer graph, those of the network that it approximates.

    Args:
        graph: without opaque nodes.
        inputs: per graph input, reals of shape (samples, ...) in the graph's layout.
        tensors: which ones to return; None: the graph's outputs.

    Returns:
        Per tensor, float32 of shape (samples, ...).

    Raises:
        DataError: an input is missing, or has another shape than the graph's.
        UnsupportedOperator: the graph holds an opaque node.
    """
    wanted = list(graph.outputs if tensors is None else tensors)
    counts = {_samples(graph, name, inputs) for name in graph.inputs}
    if len(counts) != 1:
        raise DataError(f"all inputs must hold equally many samples, but they hold {sorted(counts)}")
    (count,) = counts
    computed = [name for name in dict.fromkeys(wanted) if name not in graph.inputs]
    parts: dict[str, list[NDArray[np.float32]]] = {name: [] for name in computed}
    runner = _session_of(graph, computed)
    for start in range(0, count, BATCH):
        feed = {n: np.ascontiguousarray(inputs[n][start : start + BATCH], np.float32) for n in graph.inputs}
        for name, value in zip(computed, runner.run(computed, feed) if computed else [], strict=True):
            parts[name].append(value)
    empty = {name: np.zeros((0, *graph[name].shape[1:]), np.float32) for name in computed}
    result = {name: np.concatenate(some) if some else empty[name] for name, some in parts.items()}
    result.update({name: np.asarray(inputs[name], np.float32) for name in wanted if name in graph.inputs})
    return result


def _samples(graph: Graph, name: str, inputs: Mapping[str, NDArray[Any]]) -> int:
    where = f"input '{name}'"
    if name not in inputs:
        raise DataError("has no data", where=where, remedy=f"given: {', '.join(sorted(inputs)) or 'nothing'}")
    shape, expected = tuple(inputs[name].shape), graph[name].shape[1:]
    if shape[1:] != expected:
        text = "x".join(map(str, ("samples", *expected)))
        raise DataError(f"must be {text}, but is {'x'.join(map(str, shape))}", where=where)
    return int(shape[0])


def _session_of(graph: Graph, tensors: Sequence[str]) -> Any:
    """Made once per graph, because calibration runs it batch by batch; made anew when the graph has changed."""
    nodes = tuple((n.name, n.op, tuple(n.inputs), tuple(n.outputs), n.attrs) for n in graph.nodes)
    constants = tuple((name, id(t.data)) for name, t in graph.tensors.items() if t.is_constant)
    key = (nodes, constants, tuple(graph.inputs), tuple(graph.outputs), not set(tensors) <= set(graph.outputs))
    cached = _sessions.get(graph)
    if cached is None or cached[0] != key:
        cached = (key, session(write_onnx(graph, all_tensors=key[-1]).SerializeToString()))
        _sessions[graph] = cached
    return cached[1]
