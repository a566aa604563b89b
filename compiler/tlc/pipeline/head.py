# SPDX-License-Identifier: Apache-2.0
"""The head at the cut: from labelled samples to its weights."""

from __future__ import annotations

import numpy as np

from tlc.data import Samples
from tlc.errors import DataError, UsageError
from tlc.graph import Graph, Quant, Tensor
from tlc.passes.aux_head import with_aux_head
from tlc.passes.calibrate import fallback_samples
from tlc.pipeline.edges import file_edge, input_arrays, is_integer
from tlc.pipeline.options import Options, Progress
from tlc.reference import run_int8
from tlc.reference_float import run_float

MAX_SAMPLES = 4096
"""Of those that the head at the cut is fitted to."""


def fit_aux_head(
    device: Graph,
    device_float: Graph,
    graph: Graph,
    samples: Samples | None,
    options: Options,
    say: Progress,
    warnings: list[str],
) -> Graph:
    """The device segment with its head, fitted to labelled samples."""
    say("fitting the head", 0, 1)
    output = graph[graph.outputs[0]]
    if len(graph.outputs) != 1 or output.elements < 2 or output.elements != output.shape[-1]:
        raise UsageError(
            f"the head classifies as the network does, but the network's outputs are {', '.join(graph.outputs)} and the first "
            f"has shape {output.shape}",
            where="--aux-head",
            remedy="take a model with one output, a value for each class",
        )
    classes = output.elements
    arrays = fallback_samples(device, options.seed) if samples is None else input_arrays(device, samples)
    arrays = {name: values[:MAX_SAMPLES] for name, values in arrays.items()}
    if is_integer(device_float):
        q = {name: _quant(device[name]).quantize(np.asarray(values)) for name, values in arrays.items()}
        z = _quant(device[device.outputs[0]]).dequantize(run_int8(device, q)[device.outputs[0]])
    else:
        z = run_float(device_float, arrays)[device.outputs[0]]
    labels = None if samples is None or samples.labels is None else samples.labels[:MAX_SAMPLES]
    if labels is None:
        warnings.append(
            "no labels: the head at the cut begins with random weights; give labelled samples with --calib FILE.npz (x and y)"
        )
    elif labels.min() < 0 or labels.max() >= classes:
        raise DataError(
            f"holds labels from {labels.min()} to {labels.max()}, but the network has {classes} classes",
            where=str(options.calib),
            remedy="number the classes from 0",
        )
    return with_aux_head(device, z, labels, classes, file_edge(output)[1], options.seed)


def _quant(tensor: Tensor) -> Quant:
    assert tensor.quant is not None
    return tensor.quant
