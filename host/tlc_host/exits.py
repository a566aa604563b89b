# SPDX-License-Identifier: Apache-2.0
"""How sure a head at the cut must be for its answer to be enough: the device's rule (PROTOCOL.md, section 9), in Python."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import Bundle, EdgeTensor
from tlc.errors import ConfigError

__all__ = ["NEVER", "bound_of", "head_of", "is_sure"]

NEVER = 256
"""The bound that no probability is above."""


def bound_of(threshold: float) -> int:
    """A threshold from 0 (every answer is enough) to 1 (none is) as the device has it: in 1/256.

    Raises:
        ConfigError: it is outside.
    """
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(
            f"{threshold:g} is no probability",
            where="exit threshold",
            remedy="give a number from 0 (the device answers all) to 1 (none)",
        )
    return int(threshold * NEVER)


def is_sure(q: NDArray[np.int8], threshold: float) -> NDArray[np.bool_]:
    """(samples,) whether the largest of (samples, classes) probabilities, in 1/256 - 128, is above the threshold."""
    bound = bound_of(threshold)
    most = q.reshape(len(q), -1).max(axis=1).astype(int) + 128
    sure: NDArray[np.bool_] = (most > bound) | (bound == 0)
    return sure


def head_of(bundle: Bundle, where: str) -> EdgeTensor:
    """The head's output.

    Raises:
        ConfigError: the project has no head at the cut.
    """
    if bundle.aux is None:
        raise ConfigError("the device has no head at the cut", where=where, remedy="compile with --aux-head")
    return bundle.aux
