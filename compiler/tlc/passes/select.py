# SPDX-License-Identifier: Apache-2.0
"""What ``--train SPEC`` names: the weights and biases of the device segment that learn.

SPEC is a list, separated by commas, of

- ``none``, ``full`` (every weight and bias), ``bias`` (every bias), ``last`` (the last layer that has weights);
- a tensor by its name in the model file, or by its layer's: ``conv3.bias`` is the bias of layer ``conv3``;
- a pattern of either with ``*``, ``?`` or ``[…]``: ``fc.*``;
- of such a tensor, or of all that fit a pattern, a slice: ``conv4.weight[8:16]`` are the output channels 8 to 15, as of an
  array, and ``conv4.weight[:, 0:25%]`` are of every output channel the weights of the first quarter of the input channels.

A slice of input channels is what MCUNetV3 (arXiv 2206.15472) calls a sub-tensor update: of the layer's input, only these channels are
saved. One of output channels saves the whole input, but needs of the output's gradient only its part.
"""

from __future__ import annotations

import difflib
import re
from fnmatch import fnmatchcase

from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.base import Slice
from tlc.passes.backward import Selection, last_layer

__all__ = ["ROLES", "channels", "learnable", "parse_spec"]

ROLES = ("weight", "bias")
WHERE = "--train"

SLICED = re.compile(r"(.*)\[([^\[\]]*:[^\[\]]*)\]")
"""A name, and what is between brackets behind it where that holds a colon: ``a[0:4]``, not the pattern ``a[12]``."""
BETWEEN = re.compile(r",(?![^\[]*\])")
"""A comma outside brackets."""


def learnable(graph: Graph) -> dict[str, tuple[str, str]]:
    """Every tensor that can learn → its node and its role, "weight" or "bias"; in the graph's order."""
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        if REGISTRY[node.op].weight_axis(node) is not None:
            for role, name in zip(ROLES, node.inputs[1:3], strict=False):
                found.setdefault(name, (node.name, role))
    return found


def channels(graph: Graph, name: str) -> tuple[int, int | None]:
    """Of a tensor that can learn, the output channels, and the input channels that each reads: None for a bias, and for a
    depthwise weight, which reads one."""
    node = next(node for node in graph.nodes if name in node.inputs[1:3])
    axis = REGISTRY[node.op].weight_axis(node)
    shape = graph[name].shape
    if name != node.inputs[1] or axis is None:
        return shape[-1], None
    return shape[axis], None if axis == len(shape) - 1 else shape[-1]


def parse_spec(graph: Graph, spec: str) -> Selection:
    """The tensors that a SPEC names → their nodes, in the graph's order, and of which only a slice learns.

    Raises:
        UsageError: a name or a pattern that fits nothing (with the nearest names), ``none`` beside something else, a slice
            that the tensor does not have, two slices of one tensor, or nothing on the device that could learn.
    """
    words = [word.strip() for word in BETWEEN.split(spec)]
    if words == ["none"]:
        return Selection()
    everything = learnable(graph)
    if not everything:
        raise UsageError(
            "nothing can learn: the device segment has no layer with weights",
            where=f"{WHERE} {spec}",
            remedy="choose a deeper --cut, or --train none",
        )
    chosen: dict[str, Slice | None] = {}
    for word in words:
        sliced = SLICED.fullmatch(word)
        for name in sorted(_named(graph, everything, sliced[1].strip() if sliced else word, spec)):
            part = _slice(graph, name, sliced[2], word) if sliced else None
            if chosen.setdefault(name, part) == part:
                continue
            if chosen[name] is not None and part is not None:
                raise UsageError(
                    f"two slices of '{name}' are named, but one can learn",
                    where=f"{WHERE} {spec}",
                    remedy="name one that holds both",
                )
            chosen[name] = None  # all of it holds each slice
    learned = {name: node for name, (node, _) in everything.items() if name in chosen}
    return Selection(learned, {name: part for name in learned if (part := chosen[name]) is not None})


def _slice(graph: Graph, name: str, text: str, word: str) -> Slice | None:
    """What a tensor's slice between brackets says; None: that is all of it."""
    outs, ins = channels(graph, name)
    ranges = [part.strip() for part in text.split(",")]
    if len(ranges) > 2 or (len(ranges) == 2 and ins is None):
        what = f"'{name}' has output channels" + ("" if ins is None else " and input channels")
        raise UsageError(
            f"a slice has one range for each axis of channels, but {len(ranges)} are given, and {what}",
            where=f"{WHERE} {word}",
            remedy="write NAME[FIRST:LAST]" + ("" if ins is None else " or NAME[FIRST:LAST, FIRST:LAST]"),
        )
    of_outs = _range(ranges[0], outs, "output", name, word)
    of_ins = None if ins is None else _range(ranges[1] if len(ranges) == 2 else ":", ins, "input", name, word)
    return None if of_outs == (0, outs) and of_ins in (None, (0, ins)) else Slice(of_outs, of_ins)


def _range(text: str, size: int, what: str, name: str, word: str) -> tuple[int, int]:
    """``FIRST:LAST`` of so many channels: numbers, or percent of them rounded to the nearest; left out, from or to the end."""
    found = re.fullmatch(r"(\d+%?)?\s*:\s*(\d+%?)?", text)
    if found is None:
        raise UsageError(
            f"'{text}' is no range of channels",
            where=f"{WHERE} {word}",
            remedy="write FIRST:LAST in numbers or percent, like 0:8, 25%:50% or :",
        )
    first, last = (
        default if bound is None else (int(bound[:-1]) * size + 50) // 100 if bound[-1] == "%" else int(bound)
        for bound, default in zip(found.groups(), (0, size), strict=True)
    )
    if not 0 <= first < last <= size:
        raise UsageError(
            f"the range {text} of {what} channels is {first}:{last}, but '{name}' has {size}",
            where=f"{WHERE} {word}",
            remedy=f"choose at least one channel, from 0 to {size}",
        )
    return first, last


def _named(graph: Graph, everything: dict[str, tuple[str, str]], word: str, spec: str) -> set[str]:
    if word == "full":
        return set(everything)
    if word == "last":
        return set(last_layer(graph))
    if word == "bias":
        biases = {name for name, (_, role) in everything.items() if role == "bias"}
        if not biases:
            raise UsageError(
                "no layer on the device has a bias", where=f"{WHERE} {spec}", remedy="name weights instead"
            )
        return biases
    if word in ("", "none"):
        rule = "'none' stands alone" if word else "there is an empty name between two commas"
        raise UsageError(rule, where=f"{WHERE} {spec}", remedy="list names, separated by commas")
    by_alias = {f"{node}.{role}": name for name, (node, role) in everything.items()}
    if word in everything:
        return {word}
    if word in by_alias:
        return {by_alias[word]}
    fitting = {name for name in everything if fnmatchcase(name, word)}
    fitting |= {name for alias, name in by_alias.items() if fnmatchcase(alias, word)}
    if not fitting:
        names = [*everything, *by_alias]
        # A pattern is compared without its wildcards.
        bare = word.replace("*", "").replace("?", "")
        near = list(dict.fromkeys(difflib.get_close_matches(bare, names, n=3, cutoff=0.4)))
        some = near or names[:3]
        raise UsageError(
            f"'{word}' names nothing that can learn on the device",
            where=f"{WHERE} {spec}",
            remedy=f"the {'nearest' if near else 'first'} names are {', '.join(repr(name) for name in some)}",
        )
    return fitting
