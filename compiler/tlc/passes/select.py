# SPDX-License-Identifier: Apache-2.0
"""What ``--train SPEC`` names: the weights and biases of the device segment that learn.

SPEC is a list, separated by commas, of

- ``none``, ``full`` (every weight and bias), ``bias`` (every bias), ``last`` (the last layer that has weights);
- a tensor by its name in the model file, or by its layer's: ``conv3.bias`` is the bias of layer ``conv3``;
- a pattern of either with ``*``, ``?`` or ``[…]``: ``fc.*``.
"""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase

from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.passes.backward import last_layer

__all__ = ["ROLES", "learnable", "parse_spec"]

ROLES = ("weight", "bias")
WHERE = "--train"


def learnable(graph: Graph) -> dict[str, tuple[str, str]]:
    """Every tensor that can learn → its node and its role, "weight" or "bias"; in the graph's order."""
    found: dict[str, tuple[str, str]] = {}
    for node in graph.nodes:
        if REGISTRY[node.op].weight_axis(node) is not None:
            for role, name in zip(ROLES, node.inputs[1:3], strict=False):
                found.setdefault(name, (node.name, role))
    return found


def parse_spec(graph: Graph, spec: str) -> dict[str, str]:
    """The tensors that a SPEC names → their nodes, in the graph's order.

    Raises:
        UsageError: a name or a pattern that fits nothing (with the nearest names), ``none`` beside something else, or
            nothing on the device that could learn.
    """
    words = [word.strip() for word in spec.split(",")]
    if words == ["none"]:
        return {}
    everything = learnable(graph)
    if not everything:
        raise UsageError(
            "nothing can learn: the device segment has no layer with weights",
            where=f"{WHERE} {spec}",
            remedy="choose a deeper --cut, or --train none",
        )
    chosen: set[str] = set()
    for word in words:
        chosen |= _named(graph, everything, word, spec)
    return {name: node for name, (node, _) in everything.items() if name in chosen}


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
