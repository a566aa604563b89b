# SPDX-License-Identifier: Apache-2.0
"""What README and docs show exists: commands and their options, files behind links, headings, board keys, make targets."""

from __future__ import annotations

import ast
import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel

from tlc import boards
from tlc.boards import Board
from tlc.cli import cli
from tlc.report.docs import boards_table, with_boards

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`\n]+)`")


def prose(text: str) -> str:
    return FENCE.sub("", text)


def shell_lines(text: str) -> list[str]:
    """Every line of a shell block, continued ones joined."""
    blocks = [body.replace("\\\n", " ") for language, body in FENCE.findall(text) if language == "sh"]
    return [line.strip() for body in blocks for line in body.splitlines() if line.strip()]


def commands(text: str, program: str) -> list[list[str]]:
    """The words of every command of a program in shell blocks."""
    result = []
    for line in shell_lines(text):
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words = words[1:]
        if words[:1] == [program]:
            result.append(words[1:])
    return result


def mentions(text: str) -> list[list[str]]:
    """The same of ``tlc`` in the prose, where options are given; arguments may be left out there."""
    codes = CODE.findall(prose(text))
    found = [shlex.split(code)[1:] for code in codes if code.startswith("tlc ") and " -" in code and "…" not in code]
    return [words for words in found if words[0] != "COMMAND"]


def shown(program: str) -> list[Any]:
    return [
        pytest.param(words, id=f"{page.name}: {program} {' '.join(words)}")
        for page in PAGES
        for words in commands(page.read_text(encoding="utf-8"), program)
    ]


def parse(words: list[str]) -> None:
    """Parses a command line as ``tlc`` would, without running it."""
    command = cli.commands.get(words[0])
    assert command is not None, f"no command {words[0]}"
    command.make_context(words[0], words[1:])


@pytest.mark.parametrize("words", shown("tlc"))
def test_tlc_commands_parse(words: list[str]) -> None:
    if words not in (["--help"], ["--version"]) and words[1:] != ["--help"]:
        parse(words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tlc_commands_in_the_prose_have_these_options(page: Path) -> None:
    for words in mentions(page.read_text(encoding="utf-8")):
        with contextlib.suppress(click.MissingParameter):
            parse(words)


def examples_in_help() -> list[Any]:
    lines = [line for c in (cli, *cli.commands.values()) for line in (c.epilog or "").splitlines()]
    return [pytest.param(line.strip(), id=line.strip()) for line in lines if line.startswith("  ")]


@pytest.mark.parametrize("line", examples_in_help())
def test_examples_in_help_parse(line: str) -> None:
    for part in line.split(" && "):
        words = shlex.split(part)
        if words[0] == "tlc":
            parse(words[1:])
        else:
            assert words[:2] == ["pio", "run"]


def test_a_wrong_option_is_seen() -> None:
    with pytest.raises(click.NoSuchOption):
        parse(shlex.split("run DIR --device twin --in x.npy --output y.npy"))
    with pytest.raises(click.BadParameter):
        parse(shlex.split("compile m.onnx --board esp32 --pack always"))
    page = "Say `tlc bench DIR --layers`.\n\n```sh\nX=1 tlc plan m.onnx \\\n  --board esp32   # a comment\n```\n"
    assert commands(page, "tlc") == [["plan", "m.onnx", "--board", "esp32"]]
    assert mentions(page) == [["bench", "DIR", "--layers"]]


@pytest.mark.parametrize("words", shown("make"))
def test_make_targets_exist(words: list[str]) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert next(word for word in words if "=" not in word) in targets


def python_mentions() -> list[Any]:
    found = []
    for page in PAGES:
        for code in CODE.findall(prose(page.read_text(encoding="utf-8"))):
            before, python, rest = code.partition("python ")
            if python and re.fullmatch(r"([A-Z_]+=(<[^>]*>|\S+) )*", before):
                found.append(pytest.param(rest.split(), id=f"{page.name}: python {rest}"))
    return found


@pytest.mark.parametrize("words", [*shown("python"), *python_mentions()])
def test_python_files_and_modules_exist(words: list[str]) -> None:
    if words[0] == "-m":
        name = words[1].replace(".", "/")
        places = [folder / f"{name}{end}" for folder in (ROOT, ROOT / "compiler", ROOT / "host") for end in (".py", "")]
        assert words[1] in ("pip", "venv", "pytest") or any(place.exists() for place in places)
    else:
        assert (ROOT / words[0]).is_file()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page.read_text(encoding="utf-8"))):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        assert ROOT in (file, *file.parents), target
        if heading:
            text = prose(file.read_text(encoding="utf-8"))
            anchors = {anchor(line.lstrip("# ")) for line in text.splitlines() if line.startswith("#")}
            assert heading in anchors, target


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_the_prose_exist(page: Path) -> None:
    """Paths of this repository in backticks, without a placeholder."""
    tops = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"build"}
    for code in CODE.findall(prose(page.read_text(encoding="utf-8"))):
        if "/" in code and code.split("/")[0] in tops and not re.search(r"[<>{}*\s…,]", code):
            assert (ROOT / code).exists(), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_no_path_of_a_machine(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"/work\b|\.\./shared|/root\b|/home/", text)


def keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        kinds = [field.annotation, *getattr(field.annotation, "__args__", ())]
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is None or name == "cost":
            found.append(prefix + ("cost.default" if name == "cost" else name))
        else:
            found += keys(inner, f"{prefix}{name}.")
    return found


def test_every_key_of_a_board_file_is_documented() -> None:
    text = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    wanted = keys(Board)
    assert {"id", "memory.static_ram_bytes", "emulator.kind", "cost.default"} <= set(wanted)
    assert [key for key in wanted if f"`{key}`" not in text] == []


def test_table_of_boards_is_current() -> None:
    page = (ROOT / "docs" / "boards.md").read_text(encoding="utf-8")
    assert page == with_boards(page), "run `python -m tlc.report.docs`"
    assert all(f"| `{name}` |" in page for name in boards.names())


def test_boards_whose_firmware_is_said_to_run_are_those_of_the_tests() -> None:
    source = ast.parse((ROOT / "tests" / "hil" / "hil_support.py").read_text(encoding="utf-8"))
    lists = {
        target.id: ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.List)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id == "EMULATED"
    }
    said = {line.split("`")[1] for line in boards_table().splitlines() if line.endswith("| its firmware |")}
    assert said == {*lists["EMULATED"], "native"}
