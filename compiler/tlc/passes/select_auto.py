# SPDX-License-Identifier: Apache-2.0
"""``--train auto``: what may learn within a budget of RAM and of backward multiply-accumulates.

Bytes are exact: the RAM of a selection's certificate (arena and state) less that of the same segment where nothing learns.
Scores add up (:mod:`tlc.learn.sensitivity`), bytes do not: tensors share gradients and saved activations, and the arena
takes what its worst moment takes. So for each layer that may be the earliest to learn, tensors from there to the end are
added by score per byte while the cost stays within the budget; the selection of the greatest total score is taken.

Of a weight, slices are candidates, too (:data:`SHARES`): of its input channels, which alone are saved then, or of a depthwise
layer's channels; of each size the block of neighbours that scores most. One candidate of a tensor is taken at most.

While searching, frozen weights count as packed as they are where nothing learns. The selection found is then compiled as it
will be, and gives up tensors in the rare case that it takes more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tlc.errors import FitError, UsageError
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops import REGISTRY
from tlc.ops.base import Array, Slice
from tlc.passes.backward import Plan, Selection, differentiate
from tlc.passes.select import channels, learnable

__all__ = ["SHARES", "Budget", "Cost", "Row", "Selector", "Training", "backward_macs"]

SHARES = (8, 4, 2)
"""A slice is one of so many equal blocks of channels."""
PATIENCE = 6
"""Candidates in a row of the ranking that may be too large before what is smaller and worse is left alone."""


@dataclass(frozen=True)
class Budget:
    """What training may take beyond inference; ``macs`` None: as many as it likes."""

    bytes: int
    macs: int | None = None


@dataclass(frozen=True)
class Cost:
    """What a selection takes beyond inference."""

    bytes: int
    """Of RAM."""
    macs: int
    """Of one backward pass."""
    fits: bool = True
    """Whether the board has flash for it."""

    def within(self, budget: Budget) -> bool:
        """Whether a budget allows it."""
        return self.fits and self.bytes <= budget.bytes and (budget.macs is None or self.macs <= budget.macs)


@dataclass(frozen=True)
class Row:
    """One tensor that could learn."""

    tensor: str
    """As ``--train`` names it: where a slice was chosen, with that."""
    chosen: bool
    score: float | None
    """None where the selection asked for none."""
    bytes: int
    """What the selection takes less without it; where it is not chosen, what it would take more with it."""
    macs: int


@dataclass(frozen=True)
class Training:
    """What learns, what it costs, and what a tenth more RAM would buy."""

    budget: Budget
    used: Cost
    rows: tuple[Row, ...]
    next: dict[str, Any] | None
    """``budget``, ``used``, ``added``, ``removed`` (tensors) and ``gain`` (of score) with a tenth more; None where the
    selection does not depend on the budget."""

    @property
    def chosen(self) -> tuple[str, ...]:
        """What learns, as ``--train`` names it."""
        return tuple(row.tensor for row in self.rows if row.chosen)

    def to_json(self) -> dict[str, Any]:
        """For ``--json`` and report.json."""
        return {
            "budget": {"ram_bytes": self.budget.bytes, "macs": self.budget.macs},
            "used": {"ram_bytes": self.used.bytes, "macs": self.used.macs},
            "rows": [asdict(row) for row in self.rows],
            "next": self.next,
        }


CostOf = Callable[[dict[str, str]], tuple[int, bool]]
"""Tensors that learn → bytes of RAM beyond inference, and whether the board's flash suffices."""


def backward_macs(graph: Graph, plan: Plan) -> int:
    """Multiply-accumulates of one backward pass."""
    total = sum(REGISTRY[node.op].backward_macs(graph, node, wanted) for node, wanted in plan.order)
    nodes = {node.name: node for node, _ in plan.order}
    for name, part in plan.slices.items():  # of the whole tensor's, what the slice's gradient does not take
        node, rest = nodes[plan.learned[name]], graph[name].elements - _elements(graph, name, part)
        work = graph[node.output].elements if name in node.inputs[2:3] else REGISTRY[node.op].macs(graph, node)
        total -= work * rest // graph[name].elements
    return total


def _elements(graph: Graph, name: str, part: Slice | None) -> int:
    """How many elements of a tensor learn."""
    if part is None:
        return graph[name].elements
    outs, ins = channels(graph, name)
    share = graph[name].elements * (part.outs[1] - part.outs[0]) // outs
    return share if part.ins is None or ins is None else share * (part.ins[1] - part.ins[0]) // ins


class Selector:
    """Chooses what learns in the device segment.

    Args:
        graph: integer, device side only.
        cost: bytes of a selection, quickly.
        exact: the same once more for the selection that was found, exactly, and whether flash suffices; None: ``cost`` is.
        learning: what an element takes beside its integer; None: an accumulator.

    Raises:
        UsageError: nothing can learn.
    """

    def __init__(
        self, graph: Graph, cost: CostOf, exact: CostOf | None = None, learning: Learning | None = None
    ) -> None:
        self.graph = graph
        self._learning = learning or Learning()
        self._cost = cost
        self._exact = exact or cost
        self._known: dict[frozenset[str], Cost] = {}
        self._proven: dict[frozenset[str], Cost] = {}
        self._nodes: dict[str, str] = {}
        """Candidates → their nodes, in the graph's order."""
        self._tensors: dict[str, str] = {}
        self._parts: dict[str, Slice] = {}
        """Of those candidates that are slices, what they are."""
        refusal = UsageError("nothing can learn: the device segment has no layer with weights", where="--train")
        for name, (node, _) in learnable(graph).items():
            try:
                differentiate(graph, {name: node}, self._learning)
            except UsageError as error:
                refusal = error
            else:
                self._nodes[name] = node
                self._tensors[name] = name
        if not self._nodes:
            raise refusal
        order = {node.name: number for number, node in enumerate(graph.nodes)}
        self._layers = {name: order[node] for name, node in self._nodes.items()}
        self._estimates = {name: self._own_bytes(name) for name in self._nodes}

    @property
    def tensors(self) -> dict[str, str]:
        """Every tensor that can learn → its node."""
        return {name: node for name, node in self._nodes.items() if name not in self._parts}

    def slices(self, scores: Mapping[str, Array]) -> dict[str, float]:
        """Adds slices to the candidates.

        Args:
            scores: of each tensor, those of the channels by which it is sliced: (input channels,); (output channels,) where
                it has none; see :meth:`axis`.

        Returns:
            the score of each candidate.
        """
        result = {name: float(values.sum()) for name, values in scores.items()}
        for name, values in scores.items():
            outs, ins = channels(self.graph, name)
            if name not in self._weights():
                continue
            for share in SHARES:
                size = len(values) // share
                if size * share != len(values) or size == len(values):
                    continue
                blocks = values.reshape(share, size).sum(axis=1)
                first = int(blocks.argmax()) * size
                block = (first, first + size)
                part = Slice(block) if ins is None else Slice((0, outs), block)
                result[self._add(name, part)] = float(blocks.max())
        return result

    def axis(self, name: str) -> int:
        """The axis of a tensor by which it is sliced: the last, the input channels, or of what has none the output channels."""
        return len(self.graph[name].shape) - 1

    def learned(self, names: Iterable[str]) -> Selection:
        """A selection as :func:`tlc.passes.backward.differentiate` takes it."""
        names = set(names)
        kept = [name for name in self._nodes if name in names]
        return Selection(
            {self._tensors[name]: self._nodes[name] for name in kept},
            {self._tensors[name]: self._parts[name] for name in kept if name in self._parts},
        )

    def named(self, learned: Selection) -> frozenset[str]:
        """The candidates of a selection; its slices are candidates from now on."""
        return frozenset(self._add(name, learned.slices.get(name)) for name in learned)

    def _add(self, name: str, part: Slice | None) -> str:
        if part is None:
            return name
        outs, ins = channels(self.graph, name)
        text = f"{part.outs[0]}:{part.outs[1]}" if part.outs != (0, outs) else ":"
        text += f", {part.ins[0]}:{part.ins[1]}" if part.ins is not None and part.ins != (0, ins) else ""
        candidate = f"{name}[{text}]"
        if candidate not in self._nodes:
            self._nodes[candidate], self._tensors[candidate] = self._nodes[name], name
            self._parts[candidate] = part
            self._layers[candidate] = self._layers[name]
            self._estimates[candidate] = self._own_bytes(candidate)
            order = {tensor: number for number, tensor in enumerate(self.tensors)}
            self._nodes = dict(sorted(self._nodes.items(), key=lambda item: order[self._tensors[item[0]]]))
        return candidate

    def _weights(self) -> set[str]:
        return {node.inputs[1] for node in self.graph.nodes if REGISTRY[node.op].weight_axis(node) is not None}

    def _largest(self, names: Iterable[str]) -> frozenset[str]:
        """Of each tensor the largest of its candidates."""
        best: dict[str, str] = {}
        for name in sorted(names, key=self._count):
            best[self._tensors[name]] = name
        return frozenset(best.values())

    def _count(self, name: str) -> int:
        """Elements that learn."""
        return _elements(self.graph, self._tensors[name], self._parts.get(name))

    def cost(self, names: Iterable[str]) -> Cost:
        """What a selection takes, but for what packing may change."""
        return self._priced(self._known, self._cost, frozenset(names))

    def exact(self, names: Iterable[str]) -> Cost:
        """What a selection takes once it is compiled."""
        return self._priced(self._proven, self._exact, frozenset(names))

    def _priced(self, known: dict[frozenset[str], Cost], price: CostOf, names: frozenset[str]) -> Cost:
        if names not in known:
            learned = self.learned(names)
            size, fits = price(learned) if learned else (0, True)
            macs = backward_macs(self.graph, differentiate(self.graph, learned, self._learning)) if learned else 0
            known[names] = Cost(size, macs, fits)
        return known[names]

    def best(self, scores: Mapping[str, float], budget: Budget) -> frozenset[str]:
        """The selection of the greatest total score that was found within a budget.

        Raises:
            FitError: nothing fits, with the smallest budget in which something would.
        """
        ranked = sorted(
            (name for name in self._nodes if self._alone(name, budget)),
            key=lambda name: (-scores[name] / self._estimates[name], self._layers[name], name),
        )
        if not ranked:
            raise self._nothing_fits(budget)
        best: frozenset[str] = frozenset()
        best_total = -1.0
        for first in sorted({self._layers[name] for name in ranked}, reverse=True):
            allowed = [name for name in ranked if self._layers[name] >= first]
            if self._at_most(allowed, scores, budget) <= best_total:
                continue
            for start in [name for name in allowed if self._layers[name] == first]:
                found = self._fill([start, *(name for name in allowed if name != start)], budget)
                total = sum(scores[name] for name in sorted(found))
                if total > best_total:
                    best, best_total = found, total
        return self._confirmed(best, ranked, budget)

    def random(self, seed: int, budget: Budget) -> frozenset[str]:
        """Tensors in a random order while they fit: the baseline for :meth:`best`.

        Raises:
            FitError: nothing fits.
        """
        names = list(self.tensors)
        order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
        found = self._fill(order, budget)
        if not found:
            raise self._nothing_fits(budget)
        return self._confirmed(found, order, budget)

    def rows(self, chosen: frozenset[str], scores: Mapping[str, float] | None) -> tuple[Row, ...]:
        """The table, in the graph's order."""
        used = self.cost(chosen)
        rows = []
        taken = {self._tensors[name]: name for name in chosen}
        for tensor in self.tensors:
            name = taken.get(tensor, tensor)
            other = self.cost(chosen ^ {name})
            sign = 1 if name in chosen else -1
            rows.append(
                Row(
                    name,
                    name in chosen,
                    scores[name] if scores else None,
                    sign * (used.bytes - other.bytes),
                    sign * (used.macs - other.macs),
                )
            )
        return tuple(rows)

    def auto(self, scores: Mapping[str, float], budget: Budget) -> Training:
        """:meth:`best`, its table, and what a tenth more RAM would buy.

        Raises:
            FitError: nothing fits.
        """
        chosen = self.best(scores, budget)
        wider = Budget(budget.bytes + budget.bytes // 10, budget.macs)
        other = self.best(scores, wider)
        gain = sum(scores[name] for name in sorted(other)) - sum(scores[name] for name in sorted(chosen))
        if gain <= 0:
            other, gain = chosen, 0.0
        following = {
            "budget": {"ram_bytes": wider.bytes, "macs": wider.macs},
            "used": {"ram_bytes": self.exact(other).bytes, "macs": self.exact(other).macs},
            "added": [name for name in self._nodes if name in other - chosen],
            "removed": [name for name in self._nodes if name in chosen - other],
            "gain": gain,
        }
        return Training(budget, self.exact(chosen), self.rows(chosen, scores), following)

    def fixed(self, chosen: Selection, budget: Budget) -> Training:
        """A selection that was made otherwise, held to a budget.

        Raises:
            FitError: it takes more.
        """
        names = self.named(chosen)
        used = self.exact(names)
        over = []
        if used.bytes > budget.bytes:
            over.append(f"{used.bytes:,} bytes of RAM where {budget.bytes:,} are allowed")
        if budget.macs is not None and used.macs > budget.macs:
            over.append(f"{used.macs:,} backward MACs where {budget.macs:,} are allowed")
        if over:
            raise FitError(
                f"what learns needs {' and '.join(over)}",
                where="--train",
                remedy="raise --train-ram or --train-macs, or let --train auto choose",
            )
        return Training(budget, used, self.rows(names, None), None)

    def _fill(self, names: Sequence[str], budget: Budget) -> frozenset[str]:
        """Candidates in this order, each where it still fits; a larger one of a tensor in place of a smaller.

        As many at once as fit together; then single ones, until ``PATIENCE`` of them did not fit.
        """
        low, high = 0, len(names)  # the first low of them fit, more than high do not
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(self._largest(names[:middle]), budget):
                low = middle
            else:
                high = middle - 1
        found = self._largest(names[:low])
        failed = 0
        for name in names[low + 1 :] if low else names:
            more = self._largest(found | {name})
            if name not in more or not self._state_fits(more, budget):
                continue
            if self._fits(more, budget):
                found = more
            elif found:
                failed += 1
                if failed == PATIENCE:
                    break
        return found

    def _fits(self, names: frozenset[str], budget: Budget) -> bool:
        return self._state_fits(names, budget) and self.cost(names).within(budget)

    def _state_fits(self, names: frozenset[str], budget: Budget) -> bool:
        """Whether what certainly is needed does: spares the cost of the rest where that alone is too much."""
        return sum(self._state_bytes(name) for name in names) <= budget.bytes

    def _at_most(self, names: Sequence[str], scores: Mapping[str, float], budget: Budget) -> float:
        """No selection of these has a greater total score: of each tensor as much as there is room for, by its state alone
        and at the score per byte of its best candidate, the best first."""
        rates: dict[str, float] = {}
        most: dict[str, float] = {}
        for name in names:
            tensor = self._tensors[name]
            rates[tensor] = max(rates.get(tensor, 0.0), scores[name] / self._state_bytes(name))
            most[tensor] = max(most.get(tensor, 0.0), scores[name])
        left, total = float(budget.bytes), 0.0
        for tensor in sorted(rates, key=lambda tensor: -rates[tensor]):
            gain = min(most[tensor], left * rates[tensor])
            total += gain
            left -= gain / rates[tensor] if rates[tensor] else 0.0
        return total

    def _confirmed(self, found: frozenset[str], order: Sequence[str], budget: Budget) -> frozenset[str]:
        """The selection, without the last of its tensors where the exact cost exceeds the budget or the flash."""
        kept = [name for name in order if name in found]
        while kept and not self.exact(kept).within(budget):
            kept.pop()
        if not kept:
            raise self._nothing_fits(budget)
        return frozenset(kept)

    def _state_bytes(self, name: str) -> int:
        """What learns, its accumulators, and what the optimizer keeps of it."""
        is_weight = self.graph[self._tensors[name]].dtype == "int8"
        return self._count(name) * ((1 if is_weight else 4) + self._learning.state_bytes(is_weight))

    def _own_bytes(self, name: str) -> int:
        """What a candidate takes by itself, for ranking: its state, and of a weight what is saved of the input."""
        node = next(node for node in self.graph.nodes if node.name == self._nodes[name])
        saved = self.graph[node.inputs[0]].bytes if self._tensors[name] == node.inputs[1] else 0
        part = self._parts.get(name)
        if part is not None and part.ins is not None:
            saved = saved * (part.ins[1] - part.ins[0]) // self.graph[self._tensors[name]].shape[-1]
        return self._state_bytes(name) + saved

    def _alone(self, name: str, budget: Budget) -> bool:
        """Whether a candidate could learn if nothing else did. A slice can where the whole tensor can."""
        tensor = self._tensors[name]
        if self._state_bytes(tensor) <= budget.bytes and self.cost([tensor]).within(budget):
            return True
        return name != tensor and self._state_bytes(name) <= budget.bytes and self.cost([name]).within(budget)

    def _nothing_fits(self, budget: Budget) -> FitError:
        costs = {name: self.cost([name]) for name in self._nodes}
        allowed = [name for name, cost in costs.items() if budget.macs is None or cost.macs <= budget.macs]
        if not allowed:
            return FitError(
                f"no tensor learns with {budget.macs:,} backward MACs",
                where="--train-macs",
                remedy=f"the smallest that would is {min(cost.macs for cost in costs.values()):,}",
            )
        smallest = self.exact([min(allowed, key=lambda name: costs[name].bytes)])
        if not smallest.fits:
            return FitError(
                "the board has not the flash for anything that learns",
                where="--train",
                remedy="choose an earlier --cut, or a larger board",
            )
        return FitError(
            f"nothing can learn in {budget.bytes:,} bytes of RAM",
            where="--train-ram",
            remedy=f"the smallest that would is {smallest.bytes:,} bytes",
        )
