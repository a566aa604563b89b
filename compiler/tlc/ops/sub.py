# SPDX-License-Identifier: Apache-2.0
"""Elementwise subtraction with broadcast."""

from __future__ import annotations

import numpy as np

from tlc.graph import Quant
from tlc.ops.add import LEFT_SHIFT, Add, Multipliers
from tlc.ops.base import quantize_multiplier


class Sub(Add):
    """a − b by NumPy's broadcast."""

    name = "sub"
    sign = -1

    def multipliers(self, a: Quant, b: Quant, out: Quant) -> Multipliers:
        """As those of addition, but TFLM's ``CalculateOpDataSub`` computes them in float32."""
        first, second, last = (np.float32(quant.s) for quant in (a, b, out))
        twice = np.float32(2.0) * max(first, second)
        return (
            quantize_multiplier(float(first / twice)),
            quantize_multiplier(float(second / twice)),
            quantize_multiplier(float(twice / (np.float32(1 << LEFT_SHIFT) * last))),
        )
