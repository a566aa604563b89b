# SPDX-License-Identifier: Apache-2.0
"""An operator of the model file that tlc does not know: never on the device, never computed by tlc."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tlc.errors import UnsupportedOperator
from tlc.graph import Graph, Node, Shape
from tlc.ops.base import Array, Call, Operator


@dataclass(frozen=True)
class Attrs:
    """``op_type``: the file's name of the operator; ``reason``: what of it is not supported."""

    op_type: str
    reason: str


class Opaque(Operator):
    """Any inputs, any outputs; shapes are those of the file, 0 where unknown."""

    name = "opaque"
    Attrs = Attrs

    def infer(self, graph: Graph, node: Node) -> Shape:
        return graph[node.output].shape

    def check(self, graph: Graph, node: Node) -> None:
        raise _unsupported(node)

    def tf(self, node: Node, inputs: Sequence[Any]) -> Any:
        raise _unsupported(node)

    def int8(self, graph: Graph, node: Node, inputs: Sequence[Array]) -> Array:
        raise _unsupported(node)

    def call(self, graph: Graph, node: Node) -> Call:
        raise _unsupported(node)


def _unsupported(node: Node) -> UnsupportedOperator:
    attrs: Attrs = node.attrs
    return UnsupportedOperator(
        f"cannot run on the device: {attrs.reason}",
        where=f"{attrs.op_type} '{node.name}'",
    )
