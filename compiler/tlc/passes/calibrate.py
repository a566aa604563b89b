# SPDX-License-Identifier: Apache-2.0
"""Which range of reals each activation needs, from the float graph on sample inputs.

The range is the one with the least expected squared error of an 8-bit quantization of the observed histogram: clipping
rare extremes buys resolution for the rest (the estimator of, among others, arXiv 1810.05723).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph
from tlc.reference_float import run_float, session

__all__ = ["Ranges", "calibrate", "fallback_samples", "through_host"]

Ranges = dict[str, tuple[float, float]]
"""Lowest and highest real per activation; zero is always inside."""

BINS = 2048
BATCH = 64
MAX_SAMPLES = 1024


def calibrate(
    graph: Graph, samples: Mapping[str, NDArray[Any]], *, progress: Callable[[int, int], None] | None = None
) -> Ranges:
    """The range of every activation of a float graph.

    Args:
        graph: float, canonical.
        samples: per graph input, (samples, ...) in the graph's layout; at most ``MAX_SAMPLES`` are used, evenly spread.
        progress: called with (batches done, batches).
    """
    names = list(graph.inputs) + [node.output for node in graph.nodes]
    count = len(next(iter(samples.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SAMPLES)).astype(int))
    batches = [chosen[start : start + BATCH] for start in range(0, len(chosen), BATCH)]
    low = dict.fromkeys(names, 0.0)
    high = dict.fromkeys(names, 0.0)
    histograms: dict[str, NDArray[np.int64]] = {}
    # Two passes over the samples: the extremes first, then a histogram between them. Memory stays one batch.
    for number, picked in enumerate(batches):
        for name, value in _run(graph, samples, picked, names).items():
            low[name] = min(low[name], float(value.min()))
            high[name] = max(high[name], float(value.max()))
        if progress:
            progress(number + 1, 2 * len(batches))
    for number, picked in enumerate(batches):
        for name, value in _run(graph, samples, picked, names).items():
            if high[name] > low[name]:
                counts, _ = np.histogram(value, BINS, (low[name], high[name]))
                histograms[name] = histograms.get(name, np.zeros(BINS, np.int64)) + counts
        if progress:
            progress(len(batches) + number + 1, 2 * len(batches))
    return {
        name: _best_range(histograms[name], low[name], high[name]) if name in histograms else (0.0, 1.0)
        for name in names
    }


def _run(
    graph: Graph, samples: Mapping[str, NDArray[Any]], picked: NDArray[np.intp], names: list[str]
) -> dict[str, NDArray[np.float32]]:
    batch = {name: np.asarray(samples[name][picked], np.float32) for name in graph.inputs}
    return run_float(graph, batch, names)


def _best_range(counts: NDArray[np.int64], low: float, high: float) -> tuple[float, float]:
    """The sub-range of [low, high] with the least squared error; each end is searched in turn."""
    edges = np.linspace(low, high, BINS + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    weights = counts.astype(np.float64)

    def error(bottom: float, top: float) -> float:
        step = (top - bottom) / 255
        clipped = np.clip(centres, bottom, top)
        # A value inside falls anywhere in its step: variance step^2/12; one outside is moved to the edge. Values of
        # exactly zero (after a ReLU, most) are representable and cost nothing.
        inside = np.where((centres >= bottom) & (centres <= top) & (np.abs(centres) > step / 4), step**2 / 12, 0.0)
        return float(weights @ (inside + (centres - clipped) ** 2))

    best = (error(low, high), low, high)
    for top in high * np.linspace(1.0, 0.3, 71) if high > 0 else [0.0]:
        best = min(best, (error(best[1], top), best[1], float(top)))
    for bottom in low * np.linspace(1.0, 0.3, 71) if low < 0 else [0.0]:
        best = min(best, (error(float(bottom), best[2]), float(bottom), best[2]))
    return best[1], best[2]


def through_host(head: Graph, tail: Graph, samples: Mapping[str, NDArray[Any]], host: bytes) -> NDArray[np.float32]:
    """What the second part of a U-shaped segment is given: samples through the first part and the host's.

    Args:
        host: the ``host.onnx`` between them.

    Returns:
        (samples, ...) in the tail's layout, of at most ``MAX_SAMPLES``, evenly spread.
    """
    cut, back = head[head.outputs[0]].origin, tail[tail.inputs[0]]
    assert cut is not None and back.origin is not None
    count = len(next(iter(samples.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(count, MAX_SAMPLES)).astype(int))
    middle = session(host)
    name = middle.get_inputs()[0].name
    parts: list[NDArray[np.float32]] = []
    for start in range(0, len(chosen), BATCH):
        smashed = _run(head, samples, chosen[start : start + BATCH], head.outputs)[head.outputs[0]]
        real = cut.to_file(smashed)
        parts += [back.origin.from_file(middle.run(None, {name: row[np.newaxis]})[0], back.shape) for row in real]
    return np.concatenate(parts)


def fallback_samples(graph: Graph, seed: int, count: int = 128) -> dict[str, NDArray[np.float32]]:
    """Stand-ins for calibration data: uniform on [0, 1), as normalised images are. Stated to the user as a warning."""
    rng = np.random.default_rng(seed)
    return {name: rng.random((count, *graph[name].shape[1:]), dtype=np.float32) for name in graph.inputs}
