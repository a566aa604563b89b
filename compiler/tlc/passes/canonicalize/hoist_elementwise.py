# SPDX-License-Identifier: Apache-2.0
"""Moves sink below what they commute with, so that arithmetic stands beside arithmetic (and can be fused) and transposes
meet each other (and can cancel)."""

from __future__ import annotations

import math

import numpy as np

from tlc.build import attributes, emit, set_output
from tlc.graph import Graph, Node, Origin, Shape, Tensor
from tlc.layout import Move, apply, inverse, origin_after, shape_after, shortest
from tlc.passes.base import Rewrite
from tlc.passes.canonicalize.edges import is_move, move_of, smallest, write_chain


class HoistElementwise(Rewrite):
    """op(move(x)) → move(op(x))."""

    name = "hoist_elementwise"

    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Moves one operator above the move that it reads."""
        if node.op == "clamp":
            return self._first_input(graph, node, node.attrs)
        if node.op in ("add", "sub", "mul"):
            return any(self._binary(graph, node, index) for index in (0, 1))
        if node.op in ("softmax", "dense", "pad", "mean"):
            return self._through_transpose(graph, node)
        return False

    def _first_input(self, graph: Graph, node: Node, attrs: object) -> bool:
        mover = graph.producer(node.inputs[0])
        if mover is None or not is_move(mover):
            return False
        self._swap(graph, node, mover, [mover.inputs[0], *node.inputs[1:]], attrs, move_of(mover))
        return True

    def _through_transpose(self, graph: Graph, node: Node) -> bool:
        mover = graph.producer(node.inputs[0])
        if mover is None or mover.op != "transpose":
            return False
        perm = mover.attrs.perm
        if node.op in ("softmax", "dense"):
            return perm[-1] == len(perm) - 1 and self._first_input(graph, node, node.attrs)
        if node.op == "pad":
            pads = [(0, 0)] * len(perm)
            for axis, pair in zip(perm, node.attrs.pads, strict=True):
                pads[axis] = pair
            return self._first_input(graph, node, node.with_attrs(pads=tuple(pads)))
        axes = tuple(sorted(perm[axis] for axis in node.attrs.axes))
        if node.attrs.keep_dims:
            return self._first_input(graph, node, node.with_attrs(axes=axes))
        left = [axis for axis in perm if axis not in axes]
        inner = sorted(left)
        after = Move("transpose", tuple(inner.index(axis) for axis in left))
        self._swap(graph, node, mover, [mover.inputs[0]], node.with_attrs(axes=axes), after)
        return True

    def _binary(self, graph: Graph, node: Node, index: int) -> bool:
        mover = graph.producer(node.inputs[index])
        if mover is None or not is_move(mover):
            return False
        move, source = move_of(mover), graph[mover.inputs[0]]
        moved = graph[mover.output]
        other = graph[node.inputs[1 - index]]
        shape = graph[node.output].shape
        if other.name == moved.name:
            self._swap(graph, node, mover, [source.name, source.name], node.attrs, move)
            return True
        if other.is_constant:
            name = self._constant(graph, other, move, source, shape, moved.shape)
        else:
            name = self._activation(graph, node, other, move, source, moved.shape)
        if name is None:
            return False
        inputs = [source.name, name] if index == 0 else [name, source.name]
        self._swap(graph, node, mover, inputs, node.attrs, move)
        return True

    @staticmethod
    def _constant(graph: Graph, other: Tensor, move: Move, source: Tensor, shape: Shape, moved: Shape) -> str | None:
        """The constant before the move, if it does not grow by that."""
        data = graph.data(other.name)
        if shape != moved:  # the constant makes the output larger
            if move.kind == "reshape":
                return None
            aligned = data.reshape((1,) * (len(shape) - data.ndim) + data.shape)
            return graph.constant(f"{other.name}/before", aligned.transpose(np.argsort(move.value)), other.quant).name
        full = np.broadcast_to(data, moved)
        before = smallest(apply(inverse(source.shape, [move]), full), source.shape)
        if before.size > smallest(full, moved).size:
            return None
        return graph.constant(f"{other.name}/before", before, other.quant).name

    @staticmethod
    def _activation(graph: Graph, node: Node, other: Tensor, move: Move, source: Tensor, moved: Shape) -> str | None:
        """The other side before the move, where that is free: it comes from the same move, or a reshape does it."""
        partner = graph.producer(other.name)
        if partner is not None and is_move(partner) and move_of(partner) == move:
            before = graph[partner.inputs[0]]
            if move.kind == "transpose" or (before.shape == source.shape and other.shape == moved):
                return before.name
        if move.kind == "reshape":
            return None
        back = inverse(source.shape, [move])
        free = shortest(other.shape, back)
        if any(one.kind == "transpose" for one in free):
            return None
        name, _ = write_chain(graph, other.name, free, name=f"{other.name}/before", at=graph.nodes.index(node))
        return name

    @staticmethod
    def _swap(graph: Graph, node: Node, mover: Node, inputs: list[str], attrs: object, after: Move) -> None:
        output = graph[node.output]
        at = graph.nodes.index(node)
        graph.nodes.remove(node)
        made = emit(graph, node.op, inputs, attrs, name=f"{output.name}/before", node_name=node.name, at=at)
        made.dtype, made.quant = output.dtype, output.quant
        if after.kind == "reshape" and math.prod(after.value) != made.elements:
            raise AssertionError("a move keeps every element")
        back = inverse(made.shape, [after])
        made.origin = _origin_before(output, back)
        end = shape_after(made.shape, [after])
        kind = after.kind
        value = attributes("reshape", shape=end) if kind == "reshape" else attributes("transpose", perm=after.value)
        emit(graph, kind, [made.name], value, name=f"{output.name}/after", node_name=mover.name, at=at + 1)
        set_output(graph, graph.nodes[at + 1], output.name)


def _origin_before(output: Tensor, back: list[Move]) -> Origin | None:
    return origin_after(output.origin, output.shape, back)
