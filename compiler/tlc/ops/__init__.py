# SPDX-License-Identifier: Apache-2.0
"""The operators, by name."""

from __future__ import annotations

from tlc.ops.base import Operator
from tlc.ops.dense import Dense

REGISTRY: dict[str, Operator] = {op.name: op for op in (Dense(),)}
