# SPDX-License-Identifier: Apache-2.0
"""The algebra of data movement: what a chain of reshapes and transposes does, in its shortest form.

A chain only reorders elements, so it is known by where the factors of the source's axes end up. Every axis is taken
apart into atoms (the coarsest common refinement of all shapes in the chain); the order of the atoms at the end, compared
with the order at the start, tells whether a transpose is needed at all, and which.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tlc.graph import Origin, Shape

__all__ = ["Move", "apply", "inverse", "is_identity", "origin_after", "shape_after", "shortest"]


@dataclass(frozen=True)
class Move:
    """``reshape`` to a shape, or ``transpose`` by a permutation."""

    kind: Literal["reshape", "transpose"]
    value: tuple[int, ...]


def apply(moves: Sequence[Move], array: NDArray[np.generic]) -> NDArray[np.generic]:
    """A chain on an array."""
    for move in moves:
        array = array.reshape(move.value) if move.kind == "reshape" else array.transpose(move.value)
    return array


def shape_after(shape: Shape, moves: Sequence[Move]) -> Shape:
    """The shape at the end of a chain."""
    for move in moves:
        shape = move.value if move.kind == "reshape" else tuple(shape[axis] for axis in move.value)
    return shape


def inverse(shape: Shape, moves: Sequence[Move]) -> list[Move]:
    """The chain that undoes a chain which starts at ``shape``."""
    undone: list[Move] = []
    for move in moves:
        if move.kind == "reshape":
            undone.append(Move("reshape", shape))
        else:
            undone.append(Move("transpose", tuple(int(axis) for axis in np.argsort(move.value))))
        shape = shape_after(shape, [move])
    return undone[::-1]


def is_identity(perm: Sequence[int]) -> bool:
    """Whether a permutation leaves every axis where it is."""
    return list(perm) == sorted(perm)


class _Atoms:
    """The factors of a shape's axes, split as finely as the shapes met so far ask for."""

    def __init__(self, shape: Shape) -> None:
        self.size: list[int] = []
        self.source: list[list[int]] = []
        for extent in shape:
            self.source.append([] if extent == 1 else [self._new(extent)])
        self.now = [list(axis) for axis in self.source]

    def _new(self, size: int) -> int:
        self.size.append(size)
        return len(self.size) - 1

    def _split(self, atom: int, outer: int) -> None:
        inner = self._new(self.size[atom] // outer)
        self.size[atom] = outer
        for axis in (*self.source, *self.now):
            if atom in axis:
                axis.insert(axis.index(atom) + 1, inner)

    def transpose(self, perm: Sequence[int]) -> None:
        self.now = [self.now[axis] for axis in perm]

    def reshape(self, shape: Shape) -> bool:
        """False where the new axes do not fall between (factors of) the old ones."""
        flat = [[atom] for axis in self.now for atom in axis]
        self.now = [[atom for one in flat for atom in one]]
        result: list[list[int]] = []
        for extent in shape:
            axis: list[int] = []
            need = extent
            while need > 1:
                atom = self.now[0][sum(map(len, result)) + len(axis)]
                size = self.size[atom]
                if need % size:
                    if size % need:
                        return False
                    self._split(atom, need)
                    size = need
                axis.append(atom)
                need //= size
            result.append(axis)
        self.now = result
        return True


def shortest(shape: Shape, moves: Sequence[Move], *, transpose_first: bool = False) -> list[Move]:
    """The shortest chain with the same effect: at most a reshape, a transpose and a reshape.

    Where one reshape beside the transpose is enough it stands before it, or after it with ``transpose_first``.
    """
    end = shape_after(shape, moves)
    if all(move.kind == "reshape" for move in moves):
        return [] if end == shape else [Move("reshape", end)]
    atoms = _Atoms(shape)
    for move in moves:
        if move.kind == "transpose":
            atoms.transpose(move.value)
        elif not atoms.reshape(move.value):
            return list(moves)
    order = [atom for axis in atoms.source for atom in axis]
    place = {atom: index for index, atom in enumerate(order)}
    final = [place[atom] for axis in atoms.now for atom in axis]
    if final == sorted(final):
        return [] if end == shape else [Move("reshape", end)]
    last = [[place[atom] for atom in axis] for axis in atoms.now]
    first = [[place[atom] for atom in axis] for axis in atoms.source]
    forms = [
        _permutation(first, last),
        _reshape_then_transpose(last, end),
        _transpose_then_reshape(first, final, end),
    ]
    if transpose_first:
        forms[1], forms[2] = forms[2], forms[1]
    sizes = [atoms.size[atom] for atom in order]
    return next((form for form in forms if form is not None), _three(shape, sizes, final, end))


def _run(axis: Sequence[int]) -> bool:
    return all(b == a + 1 for a, b in itertools.pairwise(axis))


def _permutation(first: list[list[int]], last: list[list[int]]) -> list[Move] | None:
    """One transpose: the axes are the same ones in another order."""
    if len(first) != len(last) or first[0] != last[0]:
        return None
    left = list(range(len(first)))
    perm = []
    for axis in last:
        match = next((index for index in left if first[index] == axis), None)
        if match is None:
            return None
        left.remove(match)
        perm.append(match)
    return [Move("transpose", tuple(perm))] if perm[0] == 0 else None


def _reshape_then_transpose(last: list[list[int]], end: Shape) -> list[Move] | None:
    if not all(_run(axis) for axis in last) or last[0]:
        return None
    # Unit axes stay beside the axis that they follow.
    key: list[tuple[int, int]] = []
    before = -1
    for index, axis in enumerate(last):
        before = axis[0] if axis else before
        key.append((before, index))
    by_source = sorted(range(len(last)), key=lambda index: key[index])
    if by_source[0] != 0:
        return None
    perm = tuple(by_source.index(index) for index in range(len(last)))
    return [Move("reshape", tuple(end[index] for index in by_source)), Move("transpose", perm)]


def _transpose_then_reshape(first: list[list[int]], final: list[int], end: Shape) -> list[Move] | None:
    if not all(_run(axis) for axis in first) or first[0]:
        return None
    where = {atom: index for index, atom in enumerate(final)}
    for axis in first:
        if any(where[b] != where[a] + 1 for a, b in itertools.pairwise(axis)):
            return None
    units = [index for index, axis in enumerate(first) if not axis]
    others = sorted((index for index, axis in enumerate(first) if axis), key=lambda index: where[first[index][0]])
    return [Move("transpose", tuple(units + others)), Move("reshape", end)]


def _three(shape: Shape, sizes: list[int], final: list[int], end: Shape) -> list[Move]:
    """Reshape to the blocks that stay together, permute them, reshape to the end."""
    blocks: list[list[int]] = []
    for atom in final:
        if blocks and atom == blocks[-1][-1] + 1:
            blocks[-1].append(atom)
        else:
            blocks.append([atom])
    by_source = sorted(range(len(blocks)), key=lambda index: blocks[index][0])
    extents = [math.prod(sizes[atom] for atom in block) for block in blocks]
    before = (1, *(extents[index] for index in by_source))
    perm = (0, *(1 + by_source.index(index) for index in range(len(blocks))))
    moves = [Move("reshape", before), Move("transpose", perm), Move("reshape", end)]
    if before == shape:
        moves = moves[1:]
    return moves[:-1] if (1, *extents) == end else moves


def origin_after(origin: Origin | None, shape: Shape, moves: Sequence[Move]) -> Origin | None:
    """The origin of what a chain makes of a tensor of that origin and shape; None where no origin can say it."""
    if origin is None:
        return None
    chain = [Move("transpose", origin.perm), Move("reshape", shape), *moves]
    form = shortest(origin.shape, chain, transpose_first=True)
    identity = tuple(range(len(origin.shape)))
    if not form or (len(form) == 1 and form[0].kind == "reshape"):
        return Origin(origin.name, origin.shape, identity)
    if form[0].kind == "transpose" and len(form) <= 2:
        return Origin(origin.name, origin.shape, form[0].value)
    return None
