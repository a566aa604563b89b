# SPDX-License-Identifier: Apache-2.0
"""``tlc run``: a file of inputs through device and host to a file of outputs."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.data import InputSpec, count_samples, has_labels, load_arrays, samples_for
from tlc.errors import DataError, OutputError
from tlc_host.capture import is_capturing
from tlc_host.exits import bound_of, head_of, is_sure
from tlc_host.server_model import ServerModel

if TYPE_CHECKING:
    from tlc.twin import Twin
    from tlc_host.session import Session

__all__ = ["RunResult", "device_inputs", "infer_around", "infer_on_device", "run_file"]

Int8 = NDArray[np.int8]


@dataclass(frozen=True)
class RunResult:
    """What ``tlc run`` tells."""

    samples: int
    output: Path
    ticks: int
    """Instructions of one inference on an emulator, cycles on silicon; 0 where nothing counts them."""
    exits: int | None = None
    """Samples that the device answered itself; None: it was not asked to."""
    accuracy: float | None = None
    """Where the file has labels."""

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        told = {"samples": self.samples, "output": str(self.output), "ticks": self.ticks}
        return {**told, "exits": self.exits, "accuracy": self.accuracy}


async def run_file(
    directory: Path,
    device: str,
    source: Path,
    target: Path,
    *,
    raw: bool = False,
    trained: bool = False,
    exit: float | None = None,
    cut: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> RunResult:
    """Runs every sample of a file.

    Args:
        directory: the project that ``tlc compile`` wrote.
        device: a name that :func:`tlc_host.devices.open_device` knows.
        source: ``.npy`` or ``.npz``, leading axis = samples, in the model's own input layout.
        target: ``.npy`` (the first output) or ``.npz`` (all, by name).
        raw: int8 in, and int8 out: the device's outputs as they are, without the host segment.
        trained: with the host segment as ``tlc train`` left it.
        exit: where the head at the cut is surer than that, 0 to 1, the answer is the device's own; None: the host answers all.
        cut: of several cuts the one at which the device's part ends; None: the bundle's own.

    Raises:
        UsageError: the project has no such cut.
        ConfigError: ``exit``, but there is no such head, or it is no probability.
        DataError: the file does not fit, or there is no trained host segment.
        OutputError: the target cannot be written.
    """
    bundle = bundles.load(directory, cut)
    if exit is not None:
        head_of(bundle, "--exit")
        bound_of(exit)
        if raw:
            raise DataError(
                "--raw gives what the cut has, --exit what the answer is", where="--raw", remedy="leave one out"
            )
    inputs = _raw_inputs(source, bundle) if raw else device_inputs(source, bundle)
    _check_writable(target)
    server = ServerModel(directory, trained=trained, cut=cut)
    behind: NDArray[Any] | None = None
    exits: int | None = None
    smashed: list[Int8] = []
    if bundle.tail is not None and raw:
        raise DataError("--raw is for devices that end where the host begins", where="--raw", remedy="leave it out")
    if device == "twin" and not is_capturing():  # without the link: the same C, many times faster
        from tlc.twin import kept_twin

        with kept_twin(directory, cut=cut) as twin:
            if exit is not None:
                answers = [_asked_of_twin(twin, [x[i : i + 1] for x in inputs], exit) for i in range(len(inputs[0]))]
                behind, exits = _answers(bundle, server, answers)
                ticks = 0
            elif bundle.tail is not None:
                behind, ticks = _through_twin(twin, bundle, server, inputs), 0
            else:
                smashed, ticks = twin.forward(*inputs), 0
    else:
        from tlc_host.devices import open_device

        async with open_device(directory, device, cut=cut) as session:
            if exit is not None:
                answers, ticks = await _asked(session, inputs, exit, progress)
                behind, exits = _answers(bundle, server, answers)
            elif bundle.tail is not None:
                behind, ticks = await infer_around(session, bundle, server, inputs, progress)
            else:
                smashed, ticks = await infer_on_device(session, bundle, inputs, progress)
    if raw:
        names = [edge.file_name for edge in bundle.outputs]
        results: list[NDArray[Any]] = [
            edge.origin.to_file(out) for edge, out in zip(bundle.outputs, smashed, strict=True)
        ]
    elif behind is not None:
        names, results = list(bundle.model_outputs), [behind]
    elif bundle.split:
        names, results = list(bundle.model_outputs), list(server.infer(smashed[0]))
    else:
        names = list(bundle.model_outputs)
        results = [edge.to_file(out) for edge, out in zip(bundle.outputs, smashed, strict=True)]
    _write(target, names, results)
    labels = None if raw else labels_of(source, bundle)
    accuracy = None
    if labels is not None and results[0][0].size > 1 and results[0].size == len(labels) * results[0][0].size:
        accuracy = float(np.mean(results[0].reshape(len(labels), -1).argmax(1) == labels))
    return RunResult(len(inputs[0]), target, ticks, exits, accuracy)


def labels_of(source: Path, bundle: Bundle, part: str = "test") -> NDArray[np.int64] | None:
    """The classes of a file's samples; None: it does not say."""
    if not has_labels(source):
        return None
    specs = [InputSpec(edge.file_name, edge.file_shape) for edge in bundle.inputs]
    try:
        return samples_for(source, specs, part=part, labelled=True).labels
    except DataError:  # values to be predicted, say: not for us to judge
        return None


def _asked_of_twin(twin: Twin, sample: Sequence[Int8], exit: float) -> tuple[bool, Int8]:
    """Whether the head's answer is enough, and it or the smashed data of one sample."""
    (z,) = twin.forward(*sample)
    p = twin.head()
    sure = bool(is_sure(p, exit)[0])
    return sure, p if sure else z


async def _asked(
    session: Session,
    inputs: Sequence[Int8],
    exit: float,
    progress: Callable[[str, int, int], None] | None,
) -> tuple[list[tuple[bool, Int8]], int]:
    """The same of every sample over the link; and the ticks of the last pass."""
    answers, ticks, count = [], 0, len(inputs[0])
    for index in range(count):
        reply = await session.infer([x[index] for x in inputs], exit=exit)
        ticks = reply.ticks
        answers.append((reply.exited, reply.outputs[0]))
        if progress:
            progress("inferring", index + 1, count)
    return answers, ticks


def _answers(
    bundle: Bundle, server: ServerModel, answers: Sequence[tuple[bool, Int8]]
) -> tuple[NDArray[np.float32], int]:
    """The network's output for every sample, whoever gave it; and how many the device did."""
    edge, own = head_of(bundle, "--exit"), np.array([exited for exited, _ in answers])
    z = [tensor.reshape(bundle.outputs[0].shape[1:]) for exited, tensor in answers if not exited]
    p = [tensor.reshape(edge.shape[1:]) for exited, tensor in answers if exited]
    result = np.empty((len(answers), *edge.file_shape[1:]), np.float32)
    if p:
        result[own] = edge.to_file(np.stack(p))
    if z:
        result[~own] = server.infer(np.stack(z))[0].reshape(len(z), *edge.file_shape[1:])
    return result, int(own.sum())


def device_inputs(source: Path, bundle: Bundle, part: str = "test") -> list[Int8]:
    """The device's integers for the samples of a file."""
    samples = samples_for(source, [InputSpec(edge.file_name, edge.file_shape) for edge in bundle.inputs], part=part)
    return [edge.to_device(samples.inputs[edge.file_name]) for edge in bundle.inputs]


async def infer_on_device(
    session: Session,
    bundle: Bundle,
    inputs: Sequence[Int8],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[list[Int8], int]:
    """The device segment on every sample: outputs (samples, ...), and the ticks of the last pass."""
    count, ticks = len(inputs[0]), 0
    outputs = [np.empty((count, *edge.shape[1:]), np.int8) for edge in bundle.outputs]
    for index in range(count):
        reply = await session.infer([x[index] for x in inputs])
        ticks = reply.ticks
        for out, values in zip(outputs, reply.outputs, strict=True):
            out[index] = values.reshape(out.shape[1:])
        if progress:
            progress("inferring", index + 1, count)
    return outputs, ticks


def _through_twin(twin: Twin, bundle: Bundle, server: ServerModel, inputs: Sequence[Int8]) -> NDArray[np.float32]:
    """The network's output for every sample, where the device goes on behind the host's part."""
    assert bundle.tail is not None
    results = []
    for index in range(len(inputs[0])):
        (z,) = twin.forward(*(x[index : index + 1] for x in inputs))
        out, *_ = twin.tail(bundle.tail.input.to_device(server.infer(z)[0]))
        results.append(bundle.tail.output.to_file(out))
    return np.concatenate(results)


async def infer_around(
    session: Session,
    bundle: Bundle,
    server: ServerModel,
    inputs: Sequence[Int8],
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[NDArray[np.float32], int]:
    """The same over the link; and the ticks of the last pass."""
    ends = bundle.tail
    assert ends is not None
    results, ticks, count = [], 0, len(inputs[0])
    for index in range(count):
        reply = await session.infer([x[index] for x in inputs])
        ticks = reply.ticks
        z = reply.outputs[0].reshape(1, *bundle.outputs[0].shape[1:])
        u = ends.input.to_device((await asyncio.to_thread(server.infer, z))[0])
        results.append(ends.output.to_file((await session.tail(reply, u)).reshape(ends.output.shape)))
        if progress:
            progress("inferring", index + 1, count)
    return np.concatenate(results), ticks


def _raw_inputs(source: Path, bundle: Bundle) -> list[Int8]:
    arrays = load_arrays(source)
    found: dict[str, Int8] = {}
    for edge in bundle.inputs:
        key = edge.file_name if edge.file_name in arrays else "x" if len(bundle.inputs) == 1 and "x" in arrays else None
        if key is None:
            raise DataError(
                f"has keys {', '.join(arrays)}, but the model's inputs are "
                f"{', '.join(e.file_name for e in bundle.inputs)}",
                where=str(source),
                remedy="name one array after each input",
            )
        array = arrays[key]
        if array.dtype != np.int8 or array.shape[1:] != edge.file_shape[1:]:
            raise DataError(
                f"is {array.dtype} {array.shape}, but --raw takes int8 (samples, "
                f"{', '.join(map(str, edge.file_shape[1:]))}) for input '{edge.file_name}'",
                where=f"{source}: array '{key}'",
                remedy="quantize it with the bundle's scale and zero point, or leave --raw out",
            )
        found[edge.file_name] = edge.origin.from_file(array, edge.shape)
    count_samples(source, found)
    return list(found.values())


def _check_writable(target: Path) -> None:
    """Before any work is done."""
    if target.suffix not in (".npy", ".npz"):
        raise OutputError("an output file ends in .npy or .npz", where=str(target), remedy="name it so")
    if not target.parent.is_dir():
        raise OutputError("its directory does not exist", where=str(target), remedy="create it first")
    if target.is_dir():
        raise OutputError("is a directory", where=str(target), remedy="name a file")
    try:
        with tempfile.TemporaryFile(dir=target.parent):
            pass
    except OSError as error:
        raise _unwritable(target, error) from None


def _write(target: Path, names: Sequence[str], results: Sequence[NDArray[Any]]) -> None:
    """The file appears whole, or not at all."""
    scratch = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        with open(scratch, "xb") as file:
            if target.suffix == ".npy":
                np.save(file, results[0])
            else:
                arrays: dict[str, Any] = dict(zip(names, results, strict=True))
                np.savez(file, **arrays)
        os.replace(scratch, target)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise _unwritable(target, error) from None
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def _unwritable(target: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot be written ({error.strerror})", where=str(target), remedy="choose another --output")
