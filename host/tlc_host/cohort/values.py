# SPDX-License-Identifier: Apache-2.0
"""What devices are handed and hand out, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRADIENTS", "Float", "Int8", "quantize_gradient", "rows_of"]

Int8 = NDArray[np.int8]
Float = NDArray[np.float32]

GRADIENTS = Literal["int8", "float32"]
"""How they travel."""


def rows_of(parts: Sequence[Int8], shape: tuple[int, ...]) -> Int8:
    """Samples' tensors as one, (samples, ...)."""
    joined: Int8 = np.array([part.reshape(shape) for part in parts], np.int8).reshape(-1, *shape)
    return joined


def quantize_gradient(gradient: Float) -> tuple[Int8, float]:
    """A gradient as int8 with one scale: a quarter of its bytes on the link."""
    scale = np.float32(np.abs(gradient).max() / 127.0)
    if not scale > 0:
        return np.zeros(gradient.size, np.int8), 1.0
    return np.rint(gradient.ravel() / scale).astype(np.int8), float(scale)
