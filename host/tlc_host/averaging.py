# SPDX-License-Identifier: Apache-2.0
"""Averages of learned tensors that are integers.

All devices of a bundle hold a tensor with the same scales, fixed at compile time; so the average of the integers is the
average of the dequantized values, in units of an integer's step. It lies between integers, and what is sent must be one:

``feedback``
    The host keeps a float shadow W and sends Q = round(W). What rounding took away, W - Q, is added to the next
    average, so that changes below one step are not lost: error feedback (Seide et al., Interspeech 2014; Karimireddy et
    al., arXiv 1901.09847).
``stochastic``
    Up or down at random, right in the mean: Gupta et al., arXiv 1502.02551; in federated averaging Reisizadeh et al.,
    FedPAQ, arXiv 1909.13014.
``nearest``
    To compare with: an average that moves less than half a step does not move at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle

__all__ = ["Floats", "Requantize", "Shadow", "Weights", "flat", "mean"]

Weights = Mapping[str, NDArray[Any]]
"""Learned tensors' integers by name, in the shapes that the bundle tells."""
Floats = dict[str, NDArray[np.float64]]
"""The same between integers: in units of an integer's step."""
Requantize = Literal["feedback", "stochastic", "nearest"]

RANGE = {"int8": (-127, 127), "int32": (-(2**30), 2**30)}


def mean(weights: Sequence[Weights], shares: Sequence[float] | None = None) -> Floats:
    """sum_n p_n W_n, p_n = share_n / sum of shares; of one it is that one exactly."""
    parts = np.asarray(shares if shares is not None else [1.0] * len(weights), np.float64)
    parts = parts / parts.sum()
    return {
        name: np.add.reduce([part * one[name].astype(np.float64) for part, one in zip(parts, weights, strict=True)])
        for name in weights[0]
    }


def flat(weights: Weights, scales: Mapping[str, NDArray[np.float64]] | None = None) -> NDArray[np.float64]:
    """One vector; with ``scales`` of the real values."""
    return np.concatenate(
        [(value * scales[name] if scales else np.asarray(value, np.float64)).ravel() for name, value in weights.items()]
    )


class Shadow:
    """Turns averages into integers that a device takes.

    Args:
        bundle: tells the tensors' types.
        how: see above.
        seed: of the stochastic rounding.
    """

    def __init__(self, bundle: Bundle, how: Requantize = "feedback", seed: int = 0) -> None:
        self._types = {entry.name: entry.dtype for entry in bundle.learned}
        self._how = how
        self._rng = np.random.default_rng([seed & 0xFFFFFFFF, 0x5AD0])
        self._residual: Floats = {}

    def integers(self, average: Floats) -> dict[str, NDArray[Any]]:
        """What to send for an average."""
        sent = {}
        for name, value in average.items():
            dtype = self._types[name]
            wanted = value + self._residual.get(name, 0.0) if self._how == "feedback" else value
            drawn = self._rng.random(wanted.shape) if self._how == "stochastic" else None
            whole = np.rint(wanted) if drawn is None else np.floor(wanted + drawn)
            whole = np.clip(whole, *RANGE[dtype])
            if self._how == "feedback":
                self._residual[name] = np.clip(wanted - whole, -1, 1)  # at the end of the range nothing piles up
            sent[name] = whole.astype(dtype)
        return sent

    def state(self) -> dict[str, Any]:
        """What the next rounding depends on."""
        return {"rng": self._rng.bit_generator.state, "residual": {k: v.tolist() for k, v in self._residual.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Back to a :meth:`state`."""
        self._rng.bit_generator.state = state["rng"]
        self._residual = {name: np.array(value, np.float64) for name, value in state["residual"].items()}
