# SPDX-License-Identifier: Apache-2.0
"""The generated part of ``docs/algorithms.md``: what the algorithms' files say of themselves.

python -m tlc_host.docs [DIRECTORY]
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable
from pathlib import Path

from tlc_host.algorithms import ALGORITHMS
from tlc_host.algorithms.base import Algorithm
from tlc_host.config import Key, explain

__all__ = ["algorithms", "with_algorithms"]

BEGIN, END = "<!-- algorithms: written by `python -m tlc_host.docs` -->\n", "<!-- algorithms end -->"


def with_algorithms(page: str) -> str:
    """A page with its generated part as it must be.

    Raises:
        ValueError: the page has no place for it.
    """
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"the page has no {BEGIN.strip()} and {END}")
    return f"{before}{BEGIN}\n{algorithms()}\n{END}{after}"


def algorithms() -> str:
    """A table of all, the settings that all have, and a section for each."""
    rows = ["| name | | paper |", "| --- | --- | --- |"]
    for name, algorithm in ALGORITHMS.items():
        rows.append(f"| [`{name}`](#{_anchor(algorithm)}) | {_line(algorithm)} | {algorithm.paper} |")
    common = _settings(key for key in explain() if not key.algorithm)
    sections = [_section(algorithm) for algorithm in ALGORITHMS.values()]
    return "\n".join([*rows, "", "### Settings of all", "", *common, "", *sections])


def _section(algorithm: type[Algorithm]) -> str:
    text = inspect.getdoc(inspect.getmodule(algorithm)) or ""
    own = [key for key in explain(algorithm.name) if key.algorithm]
    file = f"../host/tlc_host/algorithms/{Path(inspect.getfile(algorithm)).name}"
    lines = [f"### {algorithm.title}", "", f"`--algorithm {algorithm.name}`, [{Path(file).name}]({file})", ""]
    lines += [_linked(_indented(text)), ""]
    if own:
        lines += [*_settings(own), ""]
    return "\n".join(lines)


def _settings(keys: Iterable[Key]) -> list[str]:
    rows = ["| key | default | | |", "| --- | --- | --- | --- |"]
    for key in keys:
        kind = key.kind.replace("|", "\\|")
        rows.append(f"| `{key.name}` | {_default(key)} | {kind} | {key.description} |")
    return rows


def _default(key: Key) -> str:
    return (
        "" if key.default is None else f"`{str(key.default).lower() if isinstance(key.default, bool) else key.default}`"
    )


def _indented(text: str) -> str:
    """Formulas stand apart by their indent; after a list's item they need a blank line and more of it."""
    return text.replace("``", "`").replace("*left out*", "left out")


def _linked(text: str) -> str:
    """Names of other algorithms' files become links; references of Sphinx plain names."""
    for name in ALGORITHMS.values():
        file = Path(inspect.getfile(name)).name
        text = text.replace(f"({file})", f"([{file}](../host/tlc_host/algorithms/{file}))")
    return text.replace(":mod:`tlc_host.averaging`", "`tlc_host.averaging`")


def _line(algorithm: type[Algorithm]) -> str:
    return (algorithm.__doc__ or "").splitlines()[0].rstrip(".")


def _anchor(algorithm: type[Algorithm]) -> str:
    return algorithm.title.lower().replace(" ", "-")


def main() -> None:
    """Writes the page anew."""
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("docs")
    page = directory / "algorithms.md"
    page.write_text(with_algorithms(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
