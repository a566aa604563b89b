# SPDX-License-Identifier: Apache-2.0
"""Several cuts of one network: what they are called, and where they lie in the program of the deepest.

A legal cut is one tensor through which everything goes, so the nodes before a shallower cut are the first ones of a deeper
one's, in the forward pass, and the last ones in the backward pass. One program serves them all: it ends early, and its backward
pass begins late. What the deeper one keeps alive for that is all that the shallower one needs: where its gradient comes in, the
same gradient lies when it comes from behind.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.passes.split import Cut, cut_named
from tlc.program import CutPart, Program

__all__ = ["cut_parts", "several_cuts"]

WHERE = "--cuts"


def several_cuts(source: Graph, graph: Graph, names: Sequence[str]) -> list[Cut]:
    """The cuts that a user names, the shallowest first.

    Args:
        source: the model as its file has it.
        graph: the same, canonical.

    Raises:
        UsageError: a name that is no legal cut, is named twice, or is ``none``; or fewer than two.
        UnsupportedOperator: an operator before one of them is not supported.
    """
    for name in names:
        if name in ("none", "auto"):
            rule = "with the whole network on the device there is no other cut" if name == "none" else "is no tensor"
            raise UsageError(
                f"'{name}': {rule}", where=WHERE, remedy=f"leave it out, or compile by itself with --cut {name}"
            )
    found: dict[str, str] = {}
    cuts = []
    for name in names:
        try:
            cut = cut_named(graph, name)
        except UsageError as error:
            fused = any(tensor.origin and tensor.origin.name == name for tensor in source.tensors.values())
            gone = fused and not any(tensor.origin and tensor.origin.name == name for tensor in graph.tensors.values())
            rule = f"'{name}' is no tensor of its own where a deeper cut goes on through it" if gone else error.rule
            raise UsageError(rule, where=WHERE, remedy=error.remedy) from None
        if cut.file_name in found:
            other = found[cut.file_name]
            raise UsageError(
                f"'{name}' is named twice" if other == name else f"'{other}' and '{name}' are one tensor",
                where=WHERE,
                remedy="name it once",
            )
        found[cut.file_name] = name
        cuts.append(cut)
    if len(cuts) < 2:
        raise UsageError(
            f"only '{names[0] if names else ''}' is named", where=WHERE, remedy="use --cut for a single one"
        )
    # Every one of them is all that goes from its device part to the rest, so one lies within the next.
    return sorted(cuts, key=lambda cut: len(cut.nodes))


def cut_parts(program: Program, cuts: Sequence[Cut]) -> tuple[CutPart, ...]:
    """Where the cuts lie in the program of the last of them.

    Raises:
        UsageError: nothing is computed before one of them.
    """
    parts = []
    for cut in cuts:
        assert cut.tensor is not None
        nodes = set(cut.nodes)
        own = [step.node.name in nodes for step in program.forward]
        back = [step.node.name in nodes for step in program.backward]
        learned = [entry.node in nodes for entry in program.learned]
        if not any(mine and step.call for mine, step in zip(own, program.forward, strict=True)):
            raise UsageError(
                f"nothing is computed before '{cut.file_name}'", where=WHERE, remedy="leave it out, or name a later one"
            )
        assert own == sorted(own, reverse=True) and back == sorted(back) and learned == sorted(learned, reverse=True)
        parts.append(CutPart(cut.tensor, sum(own), len(back) - sum(back), sum(learned)))
    return tuple(parts)
