# SPDX-License-Identifier: Apache-2.0
"""Elementwise subtraction with broadcast."""

from __future__ import annotations

from tlc.ops.add import Add


class Sub(Add):
    """a − b by NumPy's broadcast."""

    name = "sub"
    sign = -1
