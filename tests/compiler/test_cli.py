# SPDX-License-Identifier: Apache-2.0
"""The command line's contract with scripts: compile, plan, boards, help."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest

from command_line import snapshot, succeeds, tlc
from small_models import pair, save, small
from tlc import boards
from tlc import bundle as bundles

COMPILE_KEYS = {
    "board", "cut", "macs", "weight_bytes", "packed_bytes", "flash_bytes", "arena_bytes", "ram_bytes", "bundle_hash",
    "warnings",
}  # fmt: skip
PLAN_KEYS = {"cut", "macs", "flash_bytes", "ram_bytes", "link_bytes", "fits", "pareto"}
PROJECT = {
    "platformio.ini", "bundle.json", "host.onnx", "device.tflite", "report.json", "CMakeLists.txt", "include/tlc_config.h",
    "lib/tlc/library.json", "lib/tlc_model/library.json", "lib/tlc_model/include/tlc_model.h",
    "lib/tlc_model/src/tlc_model.c", "lib/tlc_model/src/tlc_weights.c", "src/main.c", "src/app.c",
}  # fmt: skip


def compiled(models: Path, out: Path, *options: object, board: str = "qemu-m4", model: str = "small.onnx") -> Any:
    """The answer of ``tlc compile --json``."""
    calib = models / ("pair.npz" if model == "pair.onnx" else "x.npz")
    given = [] if model.endswith(".tflite") else ["--calib", calib]
    done = succeeds("compile", models / model, "--board", board, "--out", out, *given, *options, "--json")
    assert done.err == ""
    return done.json


def planned(models: Path, *options: object, board: str = "qemu-m4") -> Any:
    done = succeeds("plan", models / "small.onnx", "--board", board, *options, "--json")
    assert done.err == ""
    return done.json


# ---- help ----


def test_help_is_light() -> None:
    """Under 0.3 s of processor time, the best of three; and because nothing heavy is imported."""
    heavy = ("numpy", "onnx", "onnxruntime", "tensorflow", "pydantic", "jinja2", "rich", "asyncio", "platformio")
    code = f"import sys, tlc.cli; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "tlc.cli", "--help"], capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert "compile" in done.stdout
    assert min(taken) < 0.3


@pytest.mark.parametrize("command", ["compile", "plan", "run", "serve", "bench", "size", "boards"])
def test_every_command_explains_itself(command: str) -> None:
    done = succeeds(command, "--help")
    assert done.out.startswith(f"Usage: tlc {command} ") and "--json" in done.out
    assert succeeds("--help").out == tlc().out


# ---- compile ----


def test_compile_json(models: Path, tmp_path: Path) -> None:
    answer = compiled(models, tmp_path / "p")
    assert answer.keys() >= COMPILE_KEYS
    assert answer["board"] == "qemu-m4" and answer["warnings"] == []
    bundle = bundles.load(tmp_path / "p")
    promise = bundle.certificate
    assert answer["bundle_hash"] == bundle.hash == bundle.digest()
    assert (answer["cut"], answer["macs"]) == (bundle.cut, bundle.macs)
    for key in ("weight_bytes", "packed_bytes", "flash_bytes", "arena_bytes", "ram_bytes"):
        assert isinstance(answer[key], int) and answer[key] == getattr(promise, key)
    assert promise.flash_bytes == (
        promise.packed_bytes + promise.table_bytes + promise.code_budget + promise.sdk_flash_budget
    )
    report = json.loads((tmp_path / "p" / "report.json").read_text())
    assert {key: report[key] for key in COMPILE_KEYS} == {key: answer[key] for key in COMPILE_KEYS}
    assert sum(layer["macs"] for layer in report["layers"]) == answer["macs"]
    assert set(snapshot(tmp_path / "p")) >= PROJECT
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_compile_draws_a_table(models: Path, tmp_path: Path) -> None:
    done = succeeds("compile", models / "small.onnx", "--board", "qemu-m4", "--out", tmp_path / "p")
    assert "small on qemu-m4" in done.out and "tlc serve" in done.out
    assert done.err.count("\n") == 1 and done.err.startswith("warning: no --calib")


def test_compile_twice_gives_the_same_bytes(models: Path, tmp_path: Path) -> None:
    """In another directory, at another time of day, with other hash seeds, over what is there."""
    trees = []
    for number, place in enumerate(("one", "two/deeper", "two/deeper")):
        command = [sys.executable, "-m", "tlc.cli", "compile", str(models / "small.onnx"), "--board", "qemu-m4"]
        command += ["--calib", str(models / "x.npz"), "--train", "last", "--pack", "size", "--out", place]
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "TZ": f"UTC{number}"}
        subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=120)
        trees.append(snapshot(tmp_path / place))
    assert trees[0].keys() == trees[1].keys() == trees[2].keys()
    differing = [name for name in trees[0] if not trees[0][name] == trees[1][name] == trees[2][name]]
    assert differing == []


def test_seed(models: Path, tmp_path: Path) -> None:
    """The seed is in the bundle, and draws the inputs that stand in for ``--calib``."""
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        succeeds(
            "compile", models / "small.onnx", "--board", "qemu-m4", "--cut", "none", "--seed", seed, "--out", tmp_path / name
        )  # fmt: skip
    a, b, c = (bundles.load(tmp_path / name) for name in "abc")
    assert a.hash == b.hash != c.hash
    assert (a.seed, c.seed) == (1, 2)
    assert a.outputs == b.outputs and a.device_sha256 != c.device_sha256


def test_out_is_optional(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    succeeds("compile", models / "small.tflite", "--board", "qemu-rv32", "--cut", "none")
    assert bundles.load(tmp_path / "build" / "small-qemu-rv32").board == "qemu-rv32"


@pytest.mark.parametrize("board", boards.names())
def test_every_board(board: str, models: Path, tmp_path: Path) -> None:
    answer = compiled(models, tmp_path / "p", board=board)
    memory = boards.load(board).memory
    assert answer["board"] == board
    assert answer["flash_bytes"] <= memory.flash_bytes and answer["ram_bytes"] <= memory.ram_bytes


def test_transport(models: Path, tmp_path: Path) -> None:
    configs = []
    for transport in ("uart", "wifi"):
        compiled(models, tmp_path / transport, "--transport", transport, board="esp32")
        configs.append((tmp_path / transport / "include" / "tlc_config.h").read_text())
        assert (tmp_path / transport / "include" / "tlc_secrets.example.h").exists() == (transport == "wifi")
    assert configs[0] != configs[1]


def test_tflite(models: Path, tmp_path: Path) -> None:
    """An int8 model needs no calibration, and its device segment is the file's own arithmetic."""
    answer = compiled(models, tmp_path / "p", "--cut", "none", model="small.tflite")
    assert answer["warnings"] == [] and answer["cut"] == "none"
    assert (tmp_path / "p" / "device.tflite").exists() and not (tmp_path / "p" / "host.onnx").exists()
    given = succeeds(
        "compile", models / "small.tflite", "--board", "qemu-m4", "--calib", models / "x.npz", "--out", tmp_path / "q", "--json"
    )  # fmt: skip
    assert "not used" in given.json["warnings"][0]


def test_cut(models: Path, tmp_path: Path) -> None:
    rows = planned(models)
    for row in rows:
        answer = compiled(models, tmp_path / "p", "--cut", row["cut"])
        assert answer["cut"] == row["cut"] == bundles.load(tmp_path / "p").cut
        assert (tmp_path / "p" / "host.onnx").exists() == (row["cut"] != "none")
        for key in ("macs", "flash_bytes", "ram_bytes"):
            assert answer[key] == row[key], key
    fitting = [row for row in rows if row["fits"] and row["cut"] != "none"]
    fastest = min(fitting, key=lambda row: row["seconds"])
    assert (
        compiled(models, tmp_path / "p")["cut"]
        == compiled(models, tmp_path / "p", "--cut", "auto")["cut"]
        == fastest["cut"]
    )


def test_two_inputs(models: Path, tmp_path: Path) -> None:
    compiled(models, tmp_path / "p", model="pair.onnx")
    bundle = bundles.load(tmp_path / "p")
    assert [edge.file_name for edge in bundle.inputs] == ["input", "other"]
    assert [edge.file_shape for edge in bundle.inputs] == [(1, 6, 6, 1), (1, 4)]


def test_pack(models: Path, tmp_path: Path) -> None:
    none, auto, size = (
        compiled(models, tmp_path / "p", "--cut", "none", "--pack", mode) for mode in ("none", "auto", "size")
    )
    assert none["packed_bytes"] == none["weight_bytes"] == auto["weight_bytes"] == size["weight_bytes"]
    assert size["packed_bytes"] < none["packed_bytes"]
    assert size["packed_bytes"] <= auto["packed_bytes"] <= none["packed_bytes"]
    assert {row["kind"] for row in none["packing"]} == {"raw"}
    assert any(row["kind"] != "raw" for row in size["packing"])


def test_shape(tmp_path: Path) -> None:
    """``--shape`` gives an open dimension its extent, whatever the file says of it."""
    save(small(), tmp_path / "m.onnx")
    model = onnx.load(tmp_path / "m.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    onnx.save(model, tmp_path / "m.onnx")
    succeeds("compile", tmp_path / "m.onnx", "--board", "qemu-m4", "--shape", "input=1x8x8x1", "--out", tmp_path / "p")
    assert bundles.load(tmp_path / "p").inputs[0].file_shape == (1, 8, 8, 1)


def test_shape_of_one_of_two(tmp_path: Path) -> None:
    save(pair(), tmp_path / "m.onnx")
    rows = succeeds("plan", tmp_path / "m.onnx", "--board", "native", "--shape", "other=1x4", "--json").json
    assert rows[-1]["cut"] == "none"


def test_compile_over_a_project_keeps_what_is_the_users(models: Path, tmp_path: Path) -> None:
    place = tmp_path / "p"
    compiled(models, place, "--cut", "none")
    fresh = snapshot(place)
    (place / "src" / "app.c").write_text("/* mine */\n")
    (place / "include" / "tlc_secrets.h").write_text("/* mine too */\n")
    (place / "src" / "main.c").write_text("/* not mine */\n")
    (place / "bundle.json").write_text("{}")
    (place / ".pio").mkdir()
    (place / ".pio" / "built").write_text("")
    compiled(models, place, "--cut", "none")
    renewed = snapshot(place)
    assert renewed.pop("src/app.c") == b"/* mine */\n" and fresh.pop("src/app.c")
    assert renewed.pop("include/tlc_secrets.h") == b"/* mine too */\n"
    assert renewed.pop(".pio/built") == b"" and renewed.pop(".pio")
    assert renewed == fresh
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_compile_into_an_empty_directory(models: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    compiled(models, tmp_path / "p")
    assert (tmp_path / "p" / "bundle.json").exists()


def test_model_hash_is_the_files(models: Path, tmp_path: Path) -> None:
    compiled(models, tmp_path / "p")
    digest = hashlib.sha256((models / "small.onnx").read_bytes()).hexdigest()
    assert bundles.load(tmp_path / "p").model_sha256 == digest
    assert digest[:16] in (tmp_path / "p" / "lib/tlc_model/src/tlc_model.c").read_text()


# ---- plan ----


def test_plan_json(models: Path) -> None:
    rows = planned(models)
    assert len(rows) >= 5 and all(row.keys() >= PLAN_KEYS for row in rows)
    assert [row["cut"] for row in rows][-2:] == ["dense_out", "none"]
    macs = [row["macs"] for row in rows]
    assert macs == sorted(macs)  # a chain: later cuts compute more on the device
    assert len({row["cut"] for row in rows}) == len(rows)


def cramped(tmp_path: Path, models: Path) -> str:
    """A board on which the middle one of the plan's RAM figures is all there is."""
    rows = planned(models)
    ram = sorted(row["ram_bytes"] for row in rows)[len(rows) // 2]
    text = (Path(boards.resources.boards_dir()) / "qemu-m4.toml").read_text()
    memory = boards.load("qemu-m4").memory
    for key, value in (("ram_bytes", ram), ("static_ram_bytes", ram - memory.stack_bytes)):
        old = next(line for line in text.splitlines() if line.startswith(f"{key} "))
        text = text.replace(old, f"{key} = {value}")
    path = tmp_path / "cramped.toml"
    path.write_text(text.replace('id = "qemu-m4"', 'id = "cramped"'))
    return str(path)


@pytest.mark.parametrize("roomy", [True, False])
def test_plan_flags(models: Path, tmp_path: Path, roomy: bool) -> None:
    """``fits``: flash and RAM within the board's. ``pareto``: it fits, and no fitting cut is as good in all of flash, RAM,
    instructions and bytes on the link, and better in one."""
    path = "qemu-m4" if roomy else cramped(tmp_path, models)
    memory = boards.load(path).memory
    rows = planned(models, "--patches", "none", board=path)
    for row in rows:
        assert row["fits"] == (row["flash_bytes"] <= memory.flash_bytes and row["ram_bytes"] <= memory.ram_bytes)
    assert {row["fits"] for row in rows} == {True} | {roomy}

    def costs(row: Any) -> tuple[int, ...]:
        return tuple(row[key] for key in ("flash_bytes", "ram_bytes", "instructions", "link_bytes"))

    for row in rows:
        rivals = [costs(other) for other in rows if other["fits"] and costs(other) != costs(row)]
        beaten = any(all(theirs <= ours for theirs, ours in zip(rival, costs(row), strict=True)) for rival in rivals)
        assert row["pareto"] == (row["fits"] and not beaten)
    assert 0 < sum(row["pareto"] for row in rows) < len(rows)


def test_plan_does_not_depend_on_the_transport_but_for_time(models: Path) -> None:
    uart, wifi = (planned(models, "--transport", name, board="esp32") for name in ("uart", "wifi"))
    for slow, fast in zip(uart, wifi, strict=True):
        assert slow.pop("seconds") > fast.pop("seconds")
        assert slow == fast


def test_plan_table_marks(models: Path, tmp_path: Path) -> None:
    board = cramped(tmp_path, models)
    in_strips = succeeds("plan", models / "small.onnx", "--board", board)
    assert "2 strips" in in_strips.out and "(+" not in in_strips.out
    done = succeeds("plan", models / "small.onnx", "--board", board, "--patches", "none")
    assert "strips" not in done.out
    assert "*" in done.out and "(+" in done.out and "none" in done.out and done.err == ""


# ---- boards ----


def test_boards(models: Path) -> None:
    rows = succeeds("boards", "--json").json
    assert [row["id"] for row in rows] == boards.names()
    assert all(name in succeeds("boards").out for name in boards.names())


# ---- errors of our own ----


def test_debug_shows_a_traceback(models: Path) -> None:
    done = tlc("compile", models / "x.npy", "--board", "qemu-m4", "--debug")
    assert done.code == 1
    assert done.err.startswith("Traceback") and done.err.splitlines()[-1].startswith("tlc: ")
    assert tlc("plan", models / "small.onnx", "--board", "nope", "--debug").code == 2


def test_an_unforeseen_error_is_one_line(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        try:
            raise ZeroDivisionError("of\nall things")
        except ZeroDivisionError as error:
            raise ExceptionGroup("tasks", [error]) from None

    monkeypatch.setattr("tlc.pipeline.plan_model", broken)
    done = tlc("plan", models / "small.onnx", "--board", "qemu-m4")
    assert done.code == 1 and done.out == "" and done.err.count("\n") == 1
    assert done.err.startswith("tlc: internal error: ZeroDivisionError: of all things at test_cli.py:")
    assert "--debug" in done.err


def test_a_closed_pipe_is_no_error(models: Path) -> None:
    command = f"{sys.executable} -m tlc.cli boards --json | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stderr == "" and done.returncode in (0, 1)
