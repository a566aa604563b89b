# SPDX-License-Identifier: Apache-2.0
"""One way to say everything, so that later passes need to know only one.

After it a float graph has no batch normalization, no transpose that could be avoided, no reshape of a reshape, no clamp or
constant multiplication that fits into its neighbour, and no zero padding before a convolution. Every rewrite keeps the
values up to float rounding; each is one file here.
"""

from __future__ import annotations

from collections.abc import Sequence

from tlc.graph import Graph
from tlc.passes.base import Pass, check_graph
from tlc.passes.canonicalize.absorb_layout import AbsorbLayout
from tlc.passes.canonicalize.affine_to_depthwise import AffineToDepthwise
from tlc.passes.canonicalize.fold_affine import FoldAffineAfter, FoldAffineBefore
from tlc.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from tlc.passes.canonicalize.fuse_activation import FuseActivation
from tlc.passes.canonicalize.fuse_pad import FusePad
from tlc.passes.canonicalize.hoist_elementwise import HoistElementwise
from tlc.passes.canonicalize.merge_moves import MergeMoves
from tlc.passes.canonicalize.permute_dense import PermuteDense
from tlc.passes.canonicalize.restore_names import RestoreNames

__all__ = ["canonicalize", "canonicalize_with_lines"]

LOCAL: tuple[Pass, ...] = (
    FoldBatchNorm(),
    MergeMoves(),
    HoistElementwise(),
    PermuteDense(),
    FoldAffineAfter(),
    FuseActivation(),
    FusePad(),
)
MOST_ROUNDS = 1000


def canonicalize(graph: Graph) -> Graph:
    """The canonical form of a graph that a frontend has read; that graph is not changed.

    A float graph is rewritten in full. In an integer graph only data movement is merged: its arithmetic is a contract.
    """
    return canonicalize_with_lines(graph)[0]


def canonicalize_with_lines(graph: Graph) -> tuple[Graph, list[str]]:
    """:func:`canonicalize`, and a line for the report from every pass that changed something."""
    lines: list[str] = []
    result = graph.copy()
    result.prune()
    if any(result[name].dtype == "int8" for name in result.inputs):
        result = _until_stable(result, (MergeMoves(),), lines)
    else:
        result = _until_stable(result, LOCAL, lines)
        # At the edge, and with the layer after, only when what stands between has found its place.
        for late in (AbsorbLayout(), FoldAffineBefore(), AffineToDepthwise()):
            result = _until_stable(result, (late, *LOCAL), lines)
    result = _until_stable(result, (RestoreNames(),), lines)
    broken = check_graph(result)
    assert broken is None, broken
    return result, lines


def _until_stable(graph: Graph, passes: Sequence[Pass], lines: list[str]) -> Graph:
    for _ in range(MOST_ROUNDS):
        modified = False
        for step in passes:
            result = step(graph)
            graph = result.graph
            modified |= result.modified
            if result.line:
                lines.append(result.line)
        if not modified:
            return graph
    raise AssertionError(f"passes undo each other: {', '.join(step.name for step in passes)}")
