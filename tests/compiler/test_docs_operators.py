# SPDX-License-Identifier: Apache-2.0
"""docs/operators.md is what the operators say of themselves, and names all that the frontends read."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from tlc.frontends.onnx import _Reader
from tlc.frontends.tflite import _Importer
from tlc.graph import Graph, Node, Quant, Tensor
from tlc.ops import REGISTRY
from tlc.report.docs import NOTHING, OPERATORS, example, operators_page

ROOT = Path(__file__).resolve().parents[2]


def test_checked_in_page_is_current() -> None:
    written = (ROOT / "docs" / "operators.md").read_text(encoding="utf-8")
    assert written == operators_page(), "run `python -m tlc.report.docs`"


def test_every_operator_has_a_section_with_every_rule() -> None:
    assert OPERATORS.keys() == REGISTRY.keys() - {"opaque"}
    page = operators_page()
    for name, operator in REGISTRY.items():
        if name == "opaque":
            continue
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        for rule in operator.rules:
            assert f"- {' '.join((inspect.getdoc(rule) or '?').split())}\n" in section + "\n"


def test_names_are_those_that_the_frontends_read() -> None:
    onnx = {name for entry in OPERATORS.values() for name in entry.onnx}
    assert onnx | set(NOTHING["onnx"]) == _Reader.OPERATORS.keys() | {"Constant"}
    importer: Any = _Importer(None, "", {})  # type: ignore[arg-type]
    tflite = {name for entry in OPERATORS.values() for name in entry.tflite}
    assert tflite == importer.convert.keys()


@pytest.mark.parametrize("name", OPERATORS)
def test_gradients_of_the_page_are_those_of_numpy_too(name: str) -> None:
    """An operator that emits a backward call has the reference that C is held to, and the other way round."""
    operator = REGISTRY[name]
    row = next(line for line in operators_page().splitlines() if line.startswith(f"| [{name}]"))
    says_no = row.rsplit("|", 2)[1].strip() == "no"
    overridden = "gradient" in type(operator).__dict__
    assert operator.alias or name in ("sub", "clamp") or says_no != overridden


def test_gradients_reach_through_broadcasts_and_split_axes() -> None:
    graph, node = Graph("g"), Node("n", "add", ["a", "b"], ["y"], REGISTRY["add"].Attrs())
    for tensor, shape in (("a", (1, 4, 4)), ("b", (1, 1, 4)), ("y", (1, 4, 4))):
        graph.add(Tensor(tensor, shape, "int8", Quant.per_tensor(0.1)))
    assert REGISTRY["add"].backward(graph, node, frozenset({0, 1}), frozenset())
    graph, node = example("mean")
    node.attrs = node.with_attrs(axes=(1, 3))
    assert REGISTRY["mean"].backward(graph, node, frozenset({0}), frozenset())
