# SPDX-License-Identifier: Apache-2.0
"""Array files: ``.npy``, or ``.npz`` with ``x`` (and ``y``), with ``x_train, y_train, x_test, y_test``, or keyed by input."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.errors import DataError

__all__ = ["InputSpec", "Samples", "count_samples", "has_labels", "load_arrays", "samples_for"]


@dataclass(frozen=True)
class InputSpec:
    """A model input as its file has it: name and shape, batch axis first."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Samples:
    """Model inputs by name, (samples, ...), float32; and labels, (samples,), where they were asked for."""

    inputs: dict[str, NDArray[np.float32]]
    labels: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))


def load_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of a file, by key; a ``.npy`` has the key ``x``.

    Raises:
        DataError: the file is missing, no NumPy file, or holds Python objects.
    """
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {"x": loaded}
            with loaded:
                return {key: loaded[key] for key in loaded.files}
    except OSError as error:
        reason = error.strerror or "not a NumPy file"
        raise DataError(f"cannot be read ({reason})", where=str(path), remedy="give a .npy or .npz file") from None
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        # What is neither .npy nor .npz is taken for a pickle, which we do not read.
        reason = "" if "pickle" in str(error) else f" ({error})"
        raise DataError(
            f"is no NumPy file of numbers, or a damaged one{reason}",
            where=str(path),
            remedy="give a .npy or .npz file",
        ) from None


def samples_for(path: Path, specs: Sequence[InputSpec], *, part: str = "train", labelled: bool = False) -> Samples:
    """The samples of a file for a model's inputs.

    Args:
        specs: the model's inputs.
        part: ``train`` or ``test``: which half of a file that has both.
        labelled: the labels are wanted too.

    Raises:
        DataError: no fitting key, a shape that does not fit, NaN, inputs of different lengths, or labels that are missing
            or no class numbers.
    """
    arrays = load_arrays(path)
    found = _pick(path, arrays, specs, part)
    inputs = {spec.name: _fit(path, spec, *found[spec.name]) for spec in specs}
    count = count_samples(path, inputs)
    return Samples(inputs, _labels(path, arrays, found[specs[0].name][0], part, count) if labelled else None)


def has_labels(path: Path) -> bool:
    """Whether a file holds labels, for whichever of its parts."""
    return bool({"y", "y_train", "y_test"} & load_arrays(path).keys())


def count_samples(path: Path, inputs: Mapping[str, NDArray[Any]]) -> int:
    """The length of every input's leading axis.

    Raises:
        DataError: they differ, or there is none.
    """
    lengths = {name: len(array) for name, array in inputs.items()}
    if len(set(lengths.values())) != 1:
        raise DataError(
            f"inputs have different numbers of samples: {lengths}", where=str(path), remedy="give as many of each"
        )
    count = next(iter(lengths.values()))
    if count == 0:
        raise DataError("holds no sample", where=str(path), remedy="give at least one")
    return count


def _pick(
    path: Path, arrays: Mapping[str, NDArray[Any]], specs: Sequence[InputSpec], part: str
) -> dict[str, tuple[str, NDArray[Any]]]:
    if all(spec.name in arrays for spec in specs):
        return {spec.name: (spec.name, arrays[spec.name]) for spec in specs}
    if len(specs) == 1:
        for key in ("x", f"x_{part}", "x_test", "x_train"):
            if key in arrays:
                return {specs[0].name: (key, arrays[key])}
    wanted = ", ".join(spec.name for spec in specs)
    raise DataError(
        f"has keys {', '.join(arrays) or 'none'}, but the model's inputs are {wanted}",
        where=str(path),
        remedy="name an array 'x' (one input), or one array after each input",
    )


def _labels(path: Path, arrays: Mapping[str, NDArray[Any]], picked: str, part: str, count: int) -> NDArray[np.int64]:
    """``y`` beside ``x``, ``y_train`` beside ``x_train``; either of them beside inputs by name."""
    wanted = [picked.replace("x", "y", 1)] if picked in ("x", "x_train", "x_test") else ["y", f"y_{part}"]
    key = next((key for key in wanted if key in arrays), None)
    if key is None:
        raise DataError(
            "holds no labels", where=str(path), remedy=f"add an array '{wanted[0]}' with one class a sample"
        )
    where = f"{path}: array '{key}'"
    labels = arrays[key]
    if labels.shape not in ((count,), (count, 1)):
        raise DataError(
            f"has shape {labels.shape}, but {count} samples need {count} labels",
            where=where,
            remedy="give one class number a sample",
        )
    if labels.dtype.kind not in "fiub" or not np.array_equal(labels, np.floor(labels)):
        raise DataError("labels must be class numbers", where=where, remedy="number the classes from 0")
    return labels.reshape(count).astype(np.int64)


def _fit(path: Path, spec: InputSpec, key: str, array: NDArray[Any]) -> NDArray[np.float32]:
    where = f"{path}: array '{key}'"
    if array.dtype.kind not in "fiub":
        raise DataError(f"has type {array.dtype}, but numbers are needed", where=where, remedy="save it as float32")
    sample = spec.shape[1:]
    if array.ndim == 0 or array.shape[1:] != sample:
        # A trailing or missing axis of one (28x28 for 28x28x1) is the same data.
        if (
            array.ndim == 0
            or int(np.prod(array.shape[1:])) != int(np.prod(sample))
            or _squeezed(array.shape[1:]) != _squeezed(sample)
        ):
            raise DataError(
                f"has shape {array.shape}, but input '{spec.name}' takes (samples, {', '.join(map(str, sample))})",
                where=where,
                remedy="reshape it; the leading axis is the samples",
            )
        array = array.reshape(len(array), *sample)
    result = array.astype(np.float32)
    if not np.isfinite(result).all():
        raise DataError("holds NaN or infinity", where=where, remedy="remove those samples")
    return result


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)
