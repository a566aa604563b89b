# SPDX-License-Identifier: Apache-2.0
"""Static scales of gradients in integers: every shift of the backward pass is a constant.

With dynamic scales a kernel finds from the values by how much they must be shifted (NITI: Wang et al., arXiv 2009.13108). With static
ones (PRIOT: Anada et al., arXiv 2503.16860) that was found out on calibration samples, and what does not fit later is saturated.
Exponents are relative to that of the gradient handed in, which stays as it is found: the loss may fall by orders of magnitude
while a device learns, and what one layer's gradients are to the next one's changes little. Sums over samples, whose gradients
come with exponents of their own, stay dynamic.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

from tlc.graph import Node
from tlc.ops.base import Accumulator, Call, Grad
from tlc.ops.training_int import BITS
from tlc.passes.backward import UPDATE, Plan

__all__ = ["MARGIN", "with_static_scales"]

MARGIN = 1
"""Bits above the largest value that calibration has seen."""
WIDEST = 31
"""Bits of a sum beside its sign."""
MEASURED = ("scale", "copy", "sum", "mul", "softmax", "bias", "weight", "input", "in_place")
"""Kinds of kernels that find a scale; the others' follow from their gradient's."""

Key = tuple[str, str, int]


def with_static_scales(plan: Plan, found: Mapping[Key, int], margin: int = MARGIN) -> Plan:
    """The same backward pass with constant shifts.

    Args:
        plan: in integers, with dynamic scales.
        found: the largest exponents that these came to, by node, tensor and how manieth write, relative to the gradient handed
            in (:func:`tlc.reference_train_int.gradient_exponents`); a gradient that never was anything but 0 is not in it.
        margin: bits above that.
    """
    exponents: dict[tuple[str, bool], int] = {(plan.top, False): 0}
    shifts: dict[Key, tuple[int, int]] = {}
    counts: Counter[tuple[str, str]] = Counter()
    calls: list[tuple[Node, Call]] = []

    def place(grad: Grad) -> tuple[str, bool]:
        tensor = grad.tensor
        while not grad.part and tensor in plan.aliases:
            tensor = plan.aliases[tensor]
        return tensor, grad.part

    for node, call in plan.calls:
        calls.append((node, call))
        grads = [place(arg) for arg in call.args if isinstance(arg, Grad)]
        if call.function == UPDATE or call.function.startswith("tlc_mask"):
            continue
        comes = exponents[grads[0]] + _own_exponent(call)
        sums = next((arg.tensor for arg in call.args if isinstance(arg, Accumulator)), None)
        if not any(f"_{kind}_grad_s16" in call.function for kind in MEASURED):
            exponents[grads[-1]] = comes
            continue
        if sums is not None and not plan.learning.interleaved:
            continue
        if "_copy_" in call.function and not call.fields["add"]:  # as it is
            exponents[grads[-1]] = exponents[grads[0]]
            calls[-1] = (node, _fixed(call, {"written": 15}))
            continue
        target = sums or [arg.tensor for arg in call.args if isinstance(arg, Grad)][-1]
        key = (node.name, target, counts[node.name, target])
        counts[node.name, target] += 1
        there = exponents[grads[-1]] if call.fields.get("add") else None
        room = BITS - _number(call, "bits") if "_scale_" in call.function else 0
        least = max(comes + 1 + room, comes if there is None else there)
        most = max(least, comes + WIDEST + room)
        exponent = min(max(found.get(key, comes + WIDEST - BITS) + margin, least), most)
        shifts[key] = (exponent - comes, 0 if there is None else exponent - there)
        if sums is None:
            exponents[grads[-1]] = exponent
        own = {"written": shifts[key][0]} | ({} if there is None else {"kept": shifts[key][1]})
        calls[-1] = (node, _fixed(call, own))
    return dataclasses.replace(plan, calls=tuple(calls), shifts=shifts)


def _fixed(call: Call, shifts: Mapping[str, int]) -> Call:
    function = call.function.replace("_grad_s16", "_static_grad_s16")
    return dataclasses.replace(call, function=function, fields={**call.fields, **shifts})


def _own_exponent(call: Call) -> int:
    """Of a call's sums before they are shifted, beyond that of the gradient it reads."""
    if "_weight_grad_" in call.function:
        return _number(call, "headroom")
    if "_pool2d_grad_" in call.function:
        return _number(call, "shift") - (15 if "average" in call.function else 0)
    if "_copy_grad_" in call.function:
        return -15
    return _number(call, "exponent") if "exponent" in call.fields else 0


def _number(call: Call, field: str) -> int:
    value = call.fields[field]
    assert isinstance(value, int), field
    return value
