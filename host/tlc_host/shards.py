# SPDX-License-Identifier: Apache-2.0
"""Who has which samples: a labelled file as shards of devices, and a device's draws from its own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle
from tlc.data import InputSpec, samples_for
from tlc.errors import DataError

__all__ = ["Deal", "Order", "Shard", "deal", "load_shard"]

Deal = Literal["turns", "iid", "dirichlet"]


@dataclass(frozen=True)
class Shard:
    """The samples of one device: inputs as its integers (samples, ...), labels (samples,)."""

    inputs: NDArray[np.int8]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, places: NDArray[Any]) -> Shard:
        """Some of them."""
        return Shard(self.inputs[places], self.labels[places])


def load_shard(path: Path, bundle: Bundle, part: str = "train") -> Shard:
    """A labelled file as one shard.

    Raises:
        DataError: it has no labels, or does not fit.
    """
    if len(bundle.inputs) != 1:
        raise DataError("training takes a model with one input", where=str(path))
    edge = bundle.inputs[0]
    samples = samples_for(path, [InputSpec(edge.file_name, edge.file_shape)], part=part, labelled=True)
    assert samples.labels is not None
    return Shard(edge.to_device(samples.inputs[edge.file_name]), samples.labels)


def deal(whole: Shard, count: int, how: Deal = "turns", *, alpha: float = 0.3, seed: int = 0) -> list[Shard]:
    """Shares of ``count`` devices.

    Args:
        how: ``turns``: every device the next sample; ``iid``: random parts of one size; ``dirichlet``: of each class the
            devices get parts by Dirichlet(alpha) (Hsu et al., arXiv 1909.06335), each at least one sample.
    """
    if how == "turns":
        return [whole.take(np.arange(number, len(whole), count)) for number in range(count)]
    rng = np.random.default_rng(seed)
    if how == "iid":
        return [whole.take(np.sort(part)) for part in np.array_split(rng.permutation(len(whole)), count)]
    parts: list[list[NDArray[Any]]] = [[] for _ in range(count)]
    for label in np.unique(whole.labels):
        places = rng.permutation(np.flatnonzero(whole.labels == label))
        ends = (np.cumsum(rng.dirichlet([alpha] * count))[:-1] * len(places)).astype(int)
        for part, share in zip(parts, np.split(places, ends), strict=True):
            part.append(share)
    shares = [np.sort(np.concatenate(part)) for part in parts]
    for number, share in enumerate(shares):
        if not len(share):  # from the richest
            richest = max(range(count), key=lambda other: len(shares[other]))
            shares[number], shares[richest] = shares[richest][:1], shares[richest][1:]
    return [whole.take(share) for share in shares]


class Order:
    """Samples of one device in a fresh random order, pass after pass; a device's draws depend on nobody else's."""

    def __init__(self, count: int, seed: int, device: int) -> None:
        self._count = count
        self._rng = np.random.default_rng([seed & 0xFFFFFFFF, device])
        self._left: NDArray[np.int64] = np.empty(0, np.int64)

    def take(self, wanted: int) -> NDArray[np.int64]:
        """(wanted,) places in the shard."""
        while len(self._left) < wanted:
            self._left = np.concatenate([self._left, self._rng.permutation(self._count)])
        taken, self._left = self._left[:wanted], self._left[wanted:]
        return taken

    def state(self) -> dict[str, Any]:
        """What the next draw depends on, for JSON."""
        return {"left": self._left.tolist(), "rng": self._rng.bit_generator.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Back to a :meth:`state`."""
        self._left = np.array(state["left"], np.int64)
        self._rng.bit_generator.state = state["rng"]
