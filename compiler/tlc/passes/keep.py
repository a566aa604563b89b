# SPDX-License-Identifier: Apache-2.0
"""What the backward pass needs of activations, kept small.

A mask is one bit an element; the gradient of a slice of the weights needs the slice's input channels. Where nothing else of an
activation is wanted, these are kept when it has been computed, and the activation itself may be overwritten.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence, Set

from tlc.graph import Graph, Node
from tlc.ops import REGISTRY
from tlc.ops.base import Address, Call, Kept, Table

__all__ = ["keep_little"]

Calls = list[tuple[Node, Call]]

MASKS = {"tlc_mask_grad_f32": "tlc_masked_grad_f32", "tlc_mask_grad_s16": "tlc_masked_grad_s16"}
"""Calls that read an activation for its mask, and those that read the bits."""
CHANNELS = {
    "tlc_conv2d_weight_grad_f32": "in_c",
    "tlc_dense_weight_grad_f32": "in",
    "tlc_conv2d_weight_grad_s16": "in_c",
    "tlc_conv2d_weight_static_grad_s16": "in_c",
}
"""Weights' gradients, and the field that tells the channels of what they read."""


def keep_little(
    graph: Graph, calls: Sequence[tuple[Node, Call]], there: Set[str]
) -> tuple[Calls, dict[str, list[Call]]]:
    """The backward calls, reading what is kept, and by the activation that a step computes the calls that keep it.

    Args:
        there: activations that are there anyway when the backward pass begins.
    """
    result = list(calls)
    readers: dict[str, list[int]] = {}
    for index, (_, call) in enumerate(calls):
        for arg in call.args:
            if isinstance(arg, Address) and graph[arg.tensor].data is None:
                readers.setdefault(arg.tensor, []).append(index)
    keeping: dict[str, list[Call]] = {}
    for tensor, indices in readers.items():
        source = _computed(graph, tensor)
        if source in graph.inputs or there & {source, tensor}:  # no step computes it, or nothing would be gained
            continue
        forms = [_kept(tensor, calls[index][1]) for index in indices]
        whole = [form for form in forms if form is not None]
        if len(whole) < len(forms):
            continue
        kept = {arg.name: arg.bytes for keep, _ in whole for arg in keep.args if isinstance(arg, Kept)}
        if sum(kept.values()) >= graph[tensor].bytes:
            continue
        made: dict[str, Call] = {}
        for index, (keep, read) in zip(indices, whole, strict=True):
            result[index] = (calls[index][0], read)
            made[next(arg.name for arg in keep.args if isinstance(arg, Kept))] = keep
        keeping.setdefault(source, []).extend(made.values())
    return result, keeping


def _computed(graph: Graph, tensor: str) -> str:
    """The tensor whose bytes these are: reshapes compute nothing."""
    node = graph.producer(tensor)
    return _computed(graph, node.inputs[0]) if node is not None and REGISTRY[node.op].alias else tensor


def _kept(tensor: str, call: Call) -> tuple[Call, Call] | None:
    """A call that keeps what a backward call reads of an activation, and that call, reading it; None: it needs all of it."""
    if call.function in MASKS:
        elements = _number(call, "elements")
        kept = Kept(f"mask({tensor})", (elements + 7) // 8, is_mask=True)
        keep = Call("tlc_keep_mask_s8", "tlc_mask_grad_t", call.fields, (Address(tensor), _written(kept)))
        read = Call(MASKS[call.function], "tlc_masked_grad_t", {"elements": elements}, (kept, *call.args[1:]))
        return keep, read
    channels = CHANNELS.get(call.function)
    if channels is None or call.fields.get("groups", 1) != 1:
        return None
    count, first = _number(call, "ins"), _number(call, "in_first")
    if count == _number(call, channels):
        return None
    rows = _number(call, "samples") if channels == "in" else _number(call, "in_h") * _number(call, "in_w")
    kept = Kept(f"{tensor}[{first}:{first + count}]", rows * count, is_mask=False)
    fields: dict[str, int | float | Table] = {
        "rows": rows,
        "channels": _number(call, channels),
        "first": first,
        "count": count,
    }
    keep = Call("tlc_keep_channels_s8", "tlc_keep_channels_t", fields, (Address(tensor), _written(kept)))
    narrow = {**call.fields, channels: count, "in_first": 0}
    return keep, dataclasses.replace(call, fields=narrow, args=(kept, *call.args[1:]))


def _written(kept: Kept) -> Kept:
    return dataclasses.replace(kept, is_output=True)


def _number(call: Call, field: str) -> int:
    value = call.fields[field]
    assert isinstance(value, int), field
    return value
