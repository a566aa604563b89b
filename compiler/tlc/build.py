# SPDX-License-Identifier: Apache-2.0
"""Adding nodes to a graph: what frontends and passes share."""

from __future__ import annotations

from typing import Any

from tlc.graph import DType, Graph, Node, Origin, Quant, Tensor
from tlc.ops import REGISTRY

__all__ = ["attributes", "emit", "set_output"]


def attributes(op: str, **values: Any) -> Any:
    """The ``Attrs`` of an operator."""
    return REGISTRY[op].Attrs(**values)


def emit(
    graph: Graph,
    op: str,
    inputs: list[str],
    attrs: Any = None,
    *,
    name: str,
    node_name: str = "",
    origin: Origin | None = None,
    at: int | None = None,
    dtype: DType = "float32",
    quant: Quant | None = None,
) -> Tensor:
    """Adds a node with one output, whose shape follows from the operator, at index ``at`` (None: last).

    ``name`` (of the tensor) and ``node_name`` are made unique.
    """
    node = Node(graph.fresh(node_name or f"{name}/{op}"), op, list(inputs), [], attrs or attributes(op))
    shape = REGISTRY[op].infer(graph, node)
    tensor = graph.add(Tensor(graph.fresh(name), shape, dtype, quant, None, origin))
    node.outputs = [tensor.name]
    graph.nodes.insert(len(graph.nodes) if at is None else at, node)
    return tensor


def set_output(graph: Graph, node: Node, name: str) -> None:
    """Makes a node compute an existing tensor; its former output, which nobody may read any more, is forgotten."""
    former = node.outputs[0]
    node.outputs = [name]
    if former != name:
        del graph.tensors[former]
