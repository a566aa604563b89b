# SPDX-License-Identifier: Apache-2.0
"""``--train auto``: what may learn within a budget of RAM and of backward multiply-accumulates.

Bytes are exact: the RAM of a selection's certificate (arena and state) less that of the same segment where nothing learns.
Scores add up (:mod:`tlc.learn.sensitivity`), bytes do not: tensors share gradients and saved activations, and the arena
takes what its worst moment takes. So for each layer that may be the earliest to learn, tensors from there to the end are
added by score per byte while the cost stays within the budget; the selection of the greatest total score is taken.

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
from tlc.passes.backward import Plan, differentiate
from tlc.passes.select import learnable

__all__ = ["Budget", "Cost", "Row", "Selector", "Training", "backward_macs"]

PATIENCE = 6
"""Tensors in a row of the ranking that may be too large before what is smaller and worse is left alone."""


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
        """The tensors that learn."""
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
    return sum(REGISTRY[node.op].backward_macs(graph, node, wanted) for node, wanted in plan.order)


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
        """Tensors that can learn → their nodes, in the graph's order."""
        refusal = UsageError("nothing can learn: the device segment has no layer with weights", where="--train")
        for name, (node, _) in learnable(graph).items():
            try:
                differentiate(graph, {name: node}, self._learning)
            except UsageError as error:
                refusal = error
            else:
                self._nodes[name] = node
        if not self._nodes:
            raise refusal
        order = {node.name: number for number, node in enumerate(graph.nodes)}
        self._layers = {name: order[node] for name, node in self._nodes.items()}
        self._estimates = {name: self._own_bytes(name) for name in self._nodes}

    @property
    def tensors(self) -> dict[str, str]:
        """Every tensor that can learn → its node."""
        return dict(self._nodes)

    def learned(self, names: Iterable[str]) -> dict[str, str]:
        """A selection as :func:`tlc.passes.backward.differentiate` takes it."""
        names = set(names)
        return {name: node for name, node in self._nodes.items() if name in names}

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
            (name for name in self._nodes if self.cost([name]).within(budget)),
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
        names = list(self._nodes)
        order = [names[i] for i in np.random.default_rng(seed).permutation(len(names))]
        found = self._fill(order, budget)
        if not found:
            raise self._nothing_fits(budget)
        return self._confirmed(found, order, budget)

    def rows(self, chosen: frozenset[str], scores: Mapping[str, float] | None) -> tuple[Row, ...]:
        """The table, in the graph's order."""
        used = self.cost(chosen)
        rows = []
        for name in self._nodes:
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
            "added": list(self.learned(other - chosen)),
            "removed": list(self.learned(chosen - other)),
            "gain": gain,
        }
        return Training(budget, self.exact(chosen), self.rows(chosen, scores), following)

    def fixed(self, chosen: Iterable[str], budget: Budget) -> Training:
        """A selection that was made otherwise, held to a budget.

        Raises:
            FitError: it takes more.
        """
        names = frozenset(chosen)
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
        """Tensors in this order, each where it still fits.

        As many at once as fit together; then single ones, until ``PATIENCE`` of them did not fit.
        """
        low, high = 0, len(names)  # the first low of them fit, more than high do not
        while low < high:
            middle = (low + high + 1) // 2
            if self._fits(frozenset(names[:middle]), budget):
                low = middle
            else:
                high = middle - 1
        found = frozenset(names[:low])
        failed = 0
        for name in names[low + 1 :] if low else names:
            if not self._state_fits(found | {name}, budget):
                continue
            if self._fits(found | {name}, budget):
                found |= {name}
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
        """No selection of these has a greater total score: the best fractions of them by their state alone."""
        left, total = float(budget.bytes), 0.0
        for name in sorted(names, key=lambda name: -scores[name] / self._state_bytes(name)):
            part = min(1.0, left / self._state_bytes(name))
            total += part * scores[name]
            left -= part * self._state_bytes(name)
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
        """The tensor, its accumulator, and what the optimizer keeps of it."""
        tensor = self.graph[name]
        return tensor.bytes + self._learning.state_bytes(tensor.dtype == "int8") * tensor.elements

    def _own_bytes(self, name: str) -> int:
        """What a tensor takes by itself, for ranking: its state, and for a weight the input that is saved."""
        node = next(node for node in self.graph.nodes if node.name == self._nodes[name])
        saved = self.graph[node.inputs[0]].bytes if name == node.inputs[1] else 0
        return self._state_bytes(name) + saved

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
