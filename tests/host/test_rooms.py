# SPDX-License-Identifier: Apache-2.0
"""Imports run downward (docs/architecture.md): no room of the host stands on one above it, and the compiler on none of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FLOORS = ["link", "transports", "messages", "session", "cohort", "algorithms"]
"""From the ground up."""


def imported(node: ast.AST) -> Iterator[str]:
    """What a module imports when it runs, not what it names in types alone."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.ImportFrom) and child.module:
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        elif isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        else:
            yield from imported(child)


def modules(top: Path) -> dict[str, set[str]]:
    """The modules of a package, and what each imports: modules, or names in modules."""
    found = {}
    for path in top.rglob("*.py"):
        name = ".".join(path.relative_to(top.parent).with_suffix("").parts).removesuffix(".__init__")
        found[name] = set(imported(ast.parse(path.read_text(encoding="utf-8"))))
    return found


HOST = modules(ROOT / "host" / "tlc_host")
COMPILER = modules(ROOT / "compiler" / "tlc")


def below(module: str) -> set[str]:
    """All that a module of the host stands on."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        names = HOST[waiting.pop()]
        new = {name if name in HOST else name.rpartition(".")[0] for name in names} & HOST.keys() - seen
        seen |= new
        waiting += new
    return seen


def test_no_module_of_the_host_stands_on_itself() -> None:
    assert [module for module in HOST if module in below(module)] == []


@pytest.mark.parametrize("floor", FLOORS)
def test_no_room_stands_on_one_above(floor: str) -> None:
    above = {f"tlc_host.{name}" for name in FLOORS[FLOORS.index(floor) + 1 :]}
    members = [module for module in HOST if f"{module}.".startswith(f"tlc_host.{floor}.")]
    assert len(members) > 1
    for module in members:
        assert {".".join(name.split(".")[:2]) for name in below(module)} & above == set(), module


def test_of_the_compiler_only_commands_and_their_tables_import_the_host() -> None:
    users = {module for module, names in COMPILER.items() if any(f"{name}.".startswith("tlc_host.") for name in names)}
    assert users
    assert {".".join(module.split(".")[:2]) for module in users} == {"tlc.commands", "tlc.report"}
