# SPDX-License-Identifier: Apache-2.0
"""What a pass is: Graph → Graph, with what it requires and ensures, and a line for the report."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from tlc.errors import ModelError
from tlc.graph import Graph, Node
from tlc.ops import REGISTRY

__all__ = ["Pass", "Result", "Rewrite", "check_graph"]


@dataclass(frozen=True)
class Result:
    """What a pass gives back."""

    graph: Graph
    modified: bool
    line: str = ""
    """What was done, for the report; empty where nothing was."""


class Pass(ABC):
    """One step from graph to graph. The graph that it is called with is not changed."""

    name: ClassVar[str]

    def __call__(self, graph: Graph) -> Result:
        """Runs it between its checks.

        Raises:
            ModelError: what it requires does not hold before, or what it ensures does not hold after.
        """
        self._hold(self.requires(graph), "requires")
        result = self.call(graph)
        self._hold(self.ensures(result.graph), "ensures")
        return result

    @abstractmethod
    def call(self, graph: Graph) -> Result:
        """The step itself."""

    def requires(self, graph: Graph) -> str | None:
        """What does not hold of the graph that comes in; None where all does."""
        return None

    def ensures(self, graph: Graph) -> str | None:
        """What does not hold of the graph that goes out; None where all does."""
        return check_graph(graph)

    def _hold(self, broken: str | None, what: str) -> None:
        if broken is not None:
            raise ModelError(f"{what} that {broken}", where=f"pass {self.name}", remedy="please report this model")


class Rewrite(Pass):
    """A pass that changes one place at a time, until there is none left."""

    def call(self, graph: Graph) -> Result:
        """Rewrites a copy, and prunes what nothing reads any more."""
        result = graph.copy()
        count = 0
        while any(self.rewrite(result, node) for node in list(result.nodes)):
            result.prune()
            count += 1
        return Result(result, count > 0, f"{self.name}: {count} places" if count else "")

    @abstractmethod
    def rewrite(self, graph: Graph, node: Node) -> bool:
        """Changes the graph around a node, or leaves it as it is and returns False."""


def check_graph(graph: Graph) -> str | None:
    """Whether a graph is well formed: what is wrong with it, or None."""
    known = {name for name, tensor in graph.tensors.items() if tensor.is_constant} | set(graph.inputs)
    for node in graph.nodes:
        missing = [name for name in node.inputs if name not in known]
        if missing:
            return f"'{missing[0]}' is computed before {node.op} '{node.name}' reads it, and it is not"
        for name in node.outputs:
            if name in known:
                return f"'{name}' is computed once, and {node.op} '{node.name}' computes it again"
            known.add(name)
        if node.op in REGISTRY and node.op != "opaque":
            shape = REGISTRY[node.op].infer(graph, node)
            if shape != graph[node.output].shape:
                return (
                    f"'{node.output}' has the shape {shape} that {node.op} gives, and it is {graph[node.output].shape}"
                )
    lost = [name for name in graph.outputs if name not in known]
    return f"the output '{lost[0]}' is computed, and it is not" if lost else None
