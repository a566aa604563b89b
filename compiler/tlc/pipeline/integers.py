# SPDX-License-Identifier: Apache-2.0
"""From samples to an integer device segment."""

from __future__ import annotations

from tlc.data import InputSpec, Samples, has_labels, samples_for
from tlc.graph import Graph
from tlc.passes.calibrate import calibrate, fallback_samples, through_host
from tlc.passes.quantize import quantize
from tlc.pipeline.edges import file_edge, input_arrays, is_integer
from tlc.pipeline.options import Options, Progress


def read_samples(graph: Graph, options: Options, warnings: list[str]) -> Samples | None:
    """The samples of ``--calib``; None, with a warning where they would matter, where none are given."""
    if options.calib is not None:
        specs = [InputSpec(*file_edge(graph[name])) for name in graph.inputs]
        labelled = options.train == "auto" or options.learning.scales == "static"
        labelled = labelled or (options.aux_head and has_labels(options.calib))
        return samples_for(options.calib, specs, labelled=labelled)
    if not is_integer(graph):
        warnings.append(
            "no --calib: activation ranges come from random inputs uniform on [0, 1), so expect a loss of accuracy; "
            "give a few hundred real samples with --calib FILE.npz"
        )
    return None


def to_integers(
    device: Graph, samples: Samples | None, options: Options, say: Progress, warnings: list[str], host: bytes | None
) -> Graph:
    """The device segment in int8, by ranges from samples, or from random inputs where there are none."""
    if is_integer(device):
        read = options.train == "auto" or options.aux_head or options.learning.scales == "static"
        if options.calib is not None and not read:
            warnings.append("--calib is not used: the model is quantized already")
        return device
    head, tail = device.segments() if device.tail else (device, None)
    arrays = fallback_samples(head, options.seed) if samples is None else input_arrays(head, samples)
    ranges = calibrate(head, arrays, progress=lambda done, total: say("calibrating", done, total))
    if tail is not None:
        assert host is not None
        ranges |= calibrate(tail, {device.tail: through_host(head, tail, arrays, host)})
    say("quantizing", 0, 1)
    return quantize(device, ranges)


def unit_ranges(graph: Graph) -> dict[str, tuple[float, float]]:
    """A range for every tensor, where only bytes are asked for."""
    return dict.fromkeys(graph.tensors, (-1.0, 1.0))
