# SPDX-License-Identifier: Apache-2.0
"""The host segment's operators: importing this imports TensorFlow and fills the table."""

from __future__ import annotations

from tlc_host.model.ops import (
    conv,
    conv_transpose,
    elementwise,
    linear,
    normalization,
    pool,
    recurrent,
    reduce,
    resize,
    shape,
    softmax,
)
from tlc_host.model.ops.base import OPERATORS

__all__ = [
    "OPERATORS",
    "conv",
    "conv_transpose",
    "elementwise",
    "linear",
    "normalization",
    "pool",
    "recurrent",
    "reduce",
    "resize",
    "shape",
    "softmax",
]
