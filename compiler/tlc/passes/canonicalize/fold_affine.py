# SPDX-License-Identifier: Apache-2.0
"""Multiplications and additions by constants go into the weights and the bias of the layer before or after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Tensor
from tlc.ops.base import Activation
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import constant_operand, only_reader, replace_constant, smallest

__all__ = ["LAYERS", "Affine", "FoldAffineAfter", "FoldAffineBefore", "affine_ending_at"]

LAYERS = ("conv2d", "depthwise_conv2d", "dense")
MAX_SPREAD = 16.0
"""How much the scales of a layer's inputs may differ when they go into its weights. Weights have one int8 scale per
*output* channel: an input channel whose weights shrink by 16 keeps 4 bits less than the largest."""


@dataclass(frozen=True)
class Affine:
    """y = scale · x + offset by one or more adds, subs and muls in a row; both broadcast against x (float64)."""

    source: str
    nodes: tuple[Node, ...]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


def affine_ending_at(graph: Graph, name: str, *, clamped: bool = False) -> Affine | None:
    """The longest run of such nodes that leads to a tensor; the shape must stay the same throughout.

    With ``clamped`` the last node may have an activation, which is then not part of what is returned.
    """
    nodes: list[Node] = []
    start = name
    node = graph.producer(start)
    while node is not None and (index := constant_operand(graph, node)) is not None:
        source = node.inputs[1 - index]
        if node.attrs.activation is not Activation.NONE and not (clamped and not nodes):
            break
        if graph[source].shape != graph[node.output].shape:
            break
        if nodes and only_reader(graph, node.output) is None:
            break
        nodes.insert(0, node)
        start = source
        node = graph.producer(start)
    if not nodes:
        return None
    scale, offset = np.array(1.0), np.array(0.0)
    for node in nodes:
        index = constant_operand(graph, node)
        assert index is not None
        constant = graph.data(node.inputs[index]).astype(np.float64)
        if node.op == "mul":
            scale, offset = scale * constant, offset * constant
        elif node.op == "add":
            offset = offset + constant
        elif index == 1:
            offset = offset - constant
        else:
            scale, offset = -scale, constant - offset
    shape = graph[start].shape
    return Affine(start, tuple(nodes), smallest(scale, shape), smallest(offset, shape))


class FoldAffineAfter(Rewrite):
    """affine(layer(x)) → layer(x), where the constants vary along the output channel alone. Exact."""

    name = "fold_affine_after"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Folds the one that follows a layer."""
        if node.op not in LAYERS or node.attrs.activation is not Activation.NONE:
            return False
        weight = graph[node.inputs[1]]
        following = only_reader(graph, node.output)
        index = constant_operand(graph, following)
        if following is None or index is None or weight.dtype != "float32" or not weight.is_constant:
            return False
        shape = graph[following.output].shape
        constant = smallest(graph.data(following.inputs[index]), shape).astype(np.float64)
        if shape != graph[node.output].shape or constant.size != constant.shape[-1]:
            return False
        channels = np.broadcast_to(constant.ravel(), (shape[-1],))
        data = graph.data(weight.name).astype(np.float64)
        bias = graph.data(node.inputs[2]).astype(np.float64) if len(node.inputs) > 2 else np.zeros(shape[-1])
        if following.op == "mul":
            data, bias = data * _along(channels, node.op, data.ndim), bias * channels
        elif following.op == "add":
            bias = bias + channels
        elif index == 1:
            bias = bias - channels
        else:
            data, bias = -data, channels - bias
        _set_weights(graph, node, data, bias)
        node.attrs = node.with_attrs(activation=following.attrs.activation)
        graph.nodes.remove(following)
        node.outputs = [following.output]
        return True


class FoldAffineBefore(Rewrite):
    """layer(affine(x)) → layer(x).

    Only where it is exact: an offset cannot go into a layer that pads, because the padding does not have it. And only
    where the scales do not differ by more than ``MAX_SPREAD``.
    """

    name = "fold_affine_before"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Folds those that precede a layer."""
        if node.op not in LAYERS or not graph[node.inputs[1]].is_constant:
            return False
        x = graph[node.inputs[0]]
        flatten = graph.producer(x.name)
        through = flatten is not None and flatten.op == "reshape" and node.op == "dense"
        name = flatten.inputs[0] if through and flatten is not None else x.name
        if only_reader(graph, x.name) is None or only_reader(graph, name) is None:
            return False
        affine = affine_ending_at(graph, name)
        if affine is None or graph[affine.source].dtype != "float32":
            return False
        factors = _per_column(affine.scale, graph[name], x)
        terms = _per_column(affine.offset, graph[name], x)
        if factors is None or terms is None or _spread(factors) > MAX_SPREAD:
            return False
        if terms.any() and node.op != "dense" and any(node.attrs.pads):
            return False
        data = graph.data(node.inputs[1]).astype(np.float64)
        bias = graph.data(node.inputs[2]).astype(np.float64) if len(node.inputs) > 2 else None
        scale, offset = _columns(graph, node, factors), _columns(graph, node, terms)
        if terms.any():
            sums = (data * offset).sum(
                axis=tuple(a for a in range(data.ndim) if a != _channel_axis(node.op, data.ndim))
            )
            bias = sums if bias is None else bias + sums
        _set_weights(graph, node, data * scale, bias)
        if through and flatten is not None:
            flatten.inputs[0] = affine.source
        else:
            node.inputs[0] = affine.source
        return True


def _spread(factors: NDArray[np.float64]) -> float:
    size = np.abs(factors[factors != 0])
    return float(size.max() / size.min()) if size.size else 1.0


def _per_column(constant: NDArray[np.float64], before: Tensor, x: Tensor) -> NDArray[np.float64] | None:
    """The constant as one value per element of the layer's last axis; None where it varies along another one."""
    if before.name == x.name:
        if constant.size != (constant.shape[-1] if constant.ndim else 1):
            return None
        return np.broadcast_to(constant.ravel(), (x.shape[-1],)).copy()
    if constant.size > 1 and x.elements != x.shape[-1]:
        return None
    full = (
        np.broadcast_to(constant, before.shape)
        if constant.size > 1
        else np.broadcast_to(constant.ravel(), before.shape)
    )
    return np.ascontiguousarray(full.ravel()[: x.shape[-1]])


def _columns(graph: Graph, node: Node, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per input channel → broadcastable to the weights."""
    weight = graph[node.inputs[1]]
    if node.op == "dense":
        return values
    if node.op == "depthwise_conv2d":
        return np.repeat(values, weight.shape[3] // len(values))
    groups = node.attrs.groups
    grouped = values.reshape(groups, -1)  # (groups, C / groups)
    per_output = np.repeat(grouped, weight.shape[0] // groups, axis=0)
    return per_output[:, np.newaxis, np.newaxis, :]


def _channel_axis(op: str, rank: int) -> int:
    return rank - 1 if op == "depthwise_conv2d" else 0


def _along(channels: NDArray[np.float64], op: str, rank: int) -> NDArray[np.float64]:
    axis = _channel_axis(op, rank)
    return channels.reshape([-1 if a == axis else 1 for a in range(rank)])


def _set_weights(graph: Graph, node: Node, weight: NDArray[Any], bias: NDArray[Any] | None) -> None:
    replace_constant(graph, node, 1, weight.astype(np.float32))
    if bias is None:
        return
    if len(node.inputs) > 2:
        replace_constant(graph, node, 2, bias.astype(np.float32))
    else:
        name = node.inputs[1].removesuffix("/weight") + "/bias"
        node.inputs.append(graph.constant(name, bias.astype(np.float32)).name)
