# SPDX-License-Identifier: Apache-2.0
"""What options are parsed as."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import click


class Shape(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``NAME=1x49x10``."""

    name = "NAME=AxBxC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name and the shape."""
        name, _, dims = str(value).rpartition("=")
        try:
            shape = tuple(int(n) for n in dims.split("x"))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            self.fail(f"'{value}' is not of the form NAME=1x49x10", param, ctx)
        return name, shape


class Bytes(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``24000``, or ``24K`` for the same; ``1.5M``."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """A whole number of at least 0."""
        text = str(value).strip().upper()
        unit = {"K": 1000, "M": 1_000_000}.get(text[-1:], 1)
        try:
            number = Decimal(text[:-1] if unit > 1 else text) * unit
        except ArithmeticError:
            number = Decimal(-1)
        if not number.is_finite() or number < 0 or number != int(number):
            self.fail(f"'{value}' is not a number such as 24000, 24K or 1.5M", param, ctx)
        return int(number)


class Patches(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``auto``, ``none``, or a number of strips."""

    name = "auto|none|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word, or a whole number of at least 2."""
        text = str(value)
        if text not in ("auto", "none") and not (text.isascii() and text.isdigit() and int(text) >= 2):
            self.fail(f"'{value}' is not auto, none, or a number of strips from 2 on", param, ctx)
        return text
