# SPDX-License-Identifier: Apache-2.0
"""Bad input to compile and plan: one clear line, exit code 1 or 2, and nothing half-written."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from command_line import refused, snapshot, succeeds, tlc
from small_models import save, small
from tlc.builder import Builder

Edit = Callable[[onnx.ModelProto], None]
BOARD = ("--board", "qemu-m4")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Holds good files; nothing may appear in it."""
    save(small(), tmp_path / "m.onnx")
    np.savez(tmp_path / "x.npz", x=np.zeros((3, 8, 8, 1), np.float32))
    return tmp_path


def edited(place: Path, edit: Edit) -> Path:
    """The model, changed."""
    model = onnx.load(place / "m.onnx")
    edit(model)
    path = place / "edited.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def bad_model(place: Path, path: Path, *says: str, code: int = 1, options: tuple[object, ...] = ()) -> str:
    """Both commands that read a model refuse it alike."""
    line = refused(place, code, "compile", path, *BOARD, "--out", place / "out", *options, says=says)
    assert refused(place, code, "plan", path, *BOARD, *options, says=says) == line
    return line


# ---- model files ----


@pytest.mark.parametrize("suffix", [".onnx", ".tflite"])
@pytest.mark.parametrize("keep", [0, 5, 300, 0.6, 0.97, -1])
def test_truncated_model(place: Path, models: Path, suffix: str, keep: float) -> None:
    content = (models / f"small{suffix}").read_bytes()
    cut = place / f"cut{suffix}"
    cut.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    bad_model(place, cut, cut.name)


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a", "a.pb"])
@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n", b"hello\n" * 99, bytes(5000), bytes(range(256)) * 9])
def test_no_model(place: Path, name: str, content: bytes) -> None:
    (place / name).write_bytes(content)
    bad_model(place, place / name, name, "export" if "tflite" not in name else "damaged")


def test_no_file(place: Path) -> None:
    bad_model(place, place / "nope.onnx", "nope.onnx", "No such file")
    bad_model(place, place, str(place), "Is a directory")


@pytest.mark.parametrize("version", [1, 6, 99])
def test_opset(place: Path, version: int) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = version

    bad_model(place, edited(place, edit), "opset must be 7 to", f"but it is {version}", "export with opset 17")


def test_symbolic_dimension(place: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "height"

    path = edited(place, edit)
    bad_model(place, path, "input 'input'", "dimension 1", "'height'", "--shape input=1x49x8x1")
    bad_model(place, path, "no input 'inputs'", "input", options=("--shape", "inputs=1x8x8x1"), code=2)
    bad_model(place, path, "'1x8x8'", "4 dimensions", options=("--shape", "input=1x8x8"), code=2)


def test_batch(place: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4

    bad_model(place, edited(place, edit), "batch", "must be 1, but it is 4", "--shape input=1x8x8x1")


@pytest.mark.parametrize(("value", "name"), [(np.nan, "NaN"), (np.inf, "infinite")])
def test_weights_that_are_no_numbers(place: Path, value: float, name: str) -> None:
    def edit(model: onnx.ModelProto) -> None:
        tensor = next(t for t in model.graph.initializer if t.name.startswith("conv2d_weight"))
        data = numpy_helper.to_array(tensor).copy()
        data.flat[7] = value
        tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))

    bad_model(place, edited(place, edit), "constant 'conv2d_weight", "finite", name, "train again")


def erf_before(target: str, name: str = "wavy") -> Edit:
    """Puts an operator that the device does not know before the one of a name."""

    def edit(model: onnx.ModelProto) -> None:
        nodes = model.graph.node
        index = next(i for i, node in enumerate(nodes) if node.op_type == target)
        source = nodes[index].input[0]
        nodes[index].input[0] = "bent"
        nodes.insert(index, helper.make_node("Erf", [source], ["bent"], name=name))

    return edit


def test_unsupported_operator(place: Path) -> None:
    """Refused on the device's side, with the deepest cut that avoids it; that cut then compiles."""
    path = edited(place, erf_before("Gemm"))
    for cut in ("none", "dense_out"):
        line = refused(
            place, 1, "compile", path, *BOARD, "--cut", cut, "--out", place / "out",
            says=("Erf 'wavy'", "the operator is not supported", "the deepest cut that avoids it is --cut "),
        )  # fmt: skip
    deepest = line.rsplit("--cut ", 1)[1].strip()
    rows = succeeds("plan", path, *BOARD, "--json").json
    assert rows[-1]["cut"] == deepest
    done = succeeds(
        "compile", path, *BOARD, "--cut", deepest, "--calib", place / "x.npz", "--out", place / "out", "--json"
    )
    assert done.json["cut"] == deepest
    assert b"Erf" in (place / "out" / "host.onnx").read_bytes()
    assert succeeds("compile", path, *BOARD, "--out", place / "auto", "--json").json["cut"] in {
        row["cut"] for row in rows
    }


def test_unsupported_operator_at_the_start(place: Path) -> None:
    bad_model(place, edited(place, erf_before("Transpose")), "Erf 'wavy'", "not supported", "no cut avoids it")


def set_ints(node: onnx.NodeProto, name: str, *values: int) -> None:
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, values)])


def test_shapes_that_do_not_fit(place: Path) -> None:
    def edit(model: onnx.ModelProto) -> None:
        set_ints(next(node for node in model.graph.node if node.op_type == "MaxPool"), "strides", 3, 3)

    bad_model(place, edited(place, edit), "Reshape 'reshape_out/Reshape'", "(1, 96)", "check the export")


def test_unsupported_attribute(place: Path) -> None:
    """An operator that is known, used in a way that the device has no kernel for: says what of it."""

    def edit(model: onnx.ModelProto) -> None:
        pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
        pool.attribute.append(helper.make_attribute("dilations", [2, 2]))
        set_ints(pool, "pads", 1, 1, 1, 1)

    path = edited(place, edit)
    refused(
        place, 1, "compile", path, *BOARD, "--cut", "none", "--out", place / "out",
        says=("MaxPool 'max_pool2d_out/nchw/MaxPool'", "dilated pooling", "the deepest cut that avoids it is --cut conv2d_1_out/nchw"),
    )  # fmt: skip


# ---- calibration files ----

X = np.zeros((3, 8, 8, 1), np.float32)


def written(path: Path, **arrays: NDArray[Any]) -> None:
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X[:, :7]}, ("array 'x'", "(3, 7, 8, 1)", "(samples, 8, 8, 1)", "reshape")),
        ({"x": X[0, 0, 0, 0]}, ("array 'x'", "has shape ()", "(samples, 8, 8, 1)")),
        ({"images": X}, ("has keys images", "inputs are input", "name an array 'x'")),
        ({}, ("has keys none", "name an array 'x'")),
        ({"x": np.where(X == 0, np.nan, X)}, ("array 'x'", "NaN or infinity", "remove those samples")),
        ({"x": X + np.inf}, ("array 'x'", "NaN or infinity")),
        ({"x": X[:0]}, ("holds no sample", "at least one")),
        ({"x": np.full((3, 8, 8, 1), "a")}, ("array 'x'", "<U1", "numbers")),
        ({"x": X.astype(np.complex64)}, ("array 'x'", "complex64", "numbers")),
        ({"x": np.full((3, 8, 8, 1), None)}, ("no NumPy file of numbers", ".npy or .npz")),
    ],
    ids=["shape", "scalar", "key", "empty", "nan", "infinity", "no sample", "text", "complex", "objects"],
)
def test_calibration_arrays(place: Path, arrays: dict[str, NDArray[Any]], says: tuple[str, ...]) -> None:
    written(place / "calib.npz", **arrays)
    calibrated = ("compile", place / "m.onnx", *BOARD, "--out", place / "out", "--calib", place / "calib.npz")
    refused(place, 1, *calibrated, says=("calib.npz", *says))


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("keep", [0, 4, 60, 500])
def test_truncated_calibration(place: Path, suffix: str, keep: int) -> None:
    path = place / f"calib{suffix}"
    np.save(path, X) if suffix == ".npy" else np.savez(path, x=X)
    path.write_bytes(path.read_bytes()[:keep])
    refused(
        place, 1, "compile", place / "m.onnx", *BOARD, "--out", place / "out", "--calib", path,
        says=(path.name, "NumPy file", ".npy or .npz"),
    )  # fmt: skip


def test_damaged_calibration(place: Path) -> None:
    """Bits that flipped within the archive."""
    path = place / "calib.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).random((3, 8, 8, 1)))
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(content)
    refused(
        place, 1, "compile", place / "m.onnx", *BOARD, "--out", place / "out", "--calib", path,
        says=("calib.npz", "damaged"),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["nope.npz", ".", "m.onnx", "note.txt"])
def test_calibration_that_is_no_array_file(place: Path, name: str) -> None:
    (place / "note.txt").write_text("x = 1\n")
    refused(
        place, 1, "compile", place / "m.onnx", *BOARD, "--out", place / "out", "--calib", place / name,
        says=(".npy or .npz",),
    )  # fmt: skip


# ---- what is asked for ----


def big(place: Path) -> Path:
    """Nothing of it fits qemu-m0's 16 KiB of RAM: its first activation has 64 KiB."""
    net = Builder("big", (1, 64, 64, 1))
    net.conv2d(16, 3)
    net.max_pool2d(16)
    net.flatten()
    net.dense(4)
    save(net.graph(), place / "big.onnx")
    return place / "big.onnx"


def test_a_model_that_fits_in_no_cut(place: Path) -> None:
    path = big(place)
    line = refused(
        place, 1, "compile", path, "--board", "qemu-m0", "--out", place / "out",
        says=("board 'qemu-m0'", "no cut fits", "bytes of RAM where 16,384 are", "larger board"),
    )  # fmt: skip
    rows = succeeds("plan", path, "--board", "qemu-m0", "--json").json
    assert not any(row["fits"] or row["pareto"] for row in rows)
    nearest = min(rows, key=lambda row: max(row["over_flash"], 0) + max(row["over_ram"], 0))
    assert f"--cut {nearest['cut']}" in line and f"{nearest['ram_bytes']:,} bytes of RAM" in line


def test_a_cut_that_does_not_fit(place: Path) -> None:
    refused(
        place, 1, "compile", big(place), "--board", "qemu-m0", "--cut", "none", "--out", place / "out",
        says=("board 'qemu-m0'", "bytes of RAM where 16,384 are", "tlc plan"),
    )  # fmt: skip


def test_unknown_board(place: Path) -> None:
    model = place / "m.onnx"
    for command in (("compile", model, "--out", place / "out"), ("plan", model)):
        refused(place, 2, *command, "--board", "qemu-m5", says=("unknown board 'qemu-m5'", "did you mean qemu-m"))
        refused(place, 2, *command, "--board", "zzz", says=("unknown board 'zzz'", "known: esp32, "))
        refused(place, 2, *command, "--board", place / "no.toml", says=("no such board file", "esp32"))
    (place / "mine.toml").write_text('id = "mine"\nflash = 3\n')
    refused(place, 2, "plan", model, "--board", place / "mine.toml", says=("mine.toml:1", "docs/boards.md"))


@pytest.mark.parametrize(
    ("cut", "says"),
    [
        ("dense_ou", ("no tensor 'dense_ou'", "did you mean dense_out")),
        ("", ("no tensor ''", "known: ")),
        ("dense_weight_1", ("no tensor 'dense_weight_1'", "dense_out")),
        ("input", ("input of the model", "nothing would be left for the device")),
        ("softmax_out", ("output of the model", "--cut none")),
    ],
)
def test_unknown_cut(place: Path, cut: str, says: tuple[str, ...]) -> None:
    refused(place, 2, "compile", place / "m.onnx", *BOARD, "--cut", cut, "--out", place / "out", says=("--cut", *says))


def test_a_cut_that_more_than_one_tensor_crosses(place: Path, models: Path) -> None:
    rows = succeeds("plan", models / "pair.onnx", *BOARD, "--json").json
    line = refused(
        place, 2, "compile", models / "pair.onnx", *BOARD, "--cut", "dense_out", "--out", place / "out",
        says=("--cut", "'dense_out'", "crosses too"),
    )  # fmt: skip
    assert any(row["cut"] in line.split("; ")[1] for row in rows)


def test_transport_that_the_board_has_not(place: Path) -> None:
    model = place / "m.onnx"
    says = ("board 'qemu-m4'", "no transport 'wifi'", "choose uart")
    refused(place, 2, "compile", model, *BOARD, "--transport", "wifi", "--out", place / "out", says=says)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("compil",), ("No such command 'compil'", "tlc --help")),
        (("--bogus",), ("No such option", "--bogus", "tlc --help")),
        (("compile",), ("Missing argument 'MODEL'", "tlc compile --help")),
        (("compile", "m"), ("Missing option '--board'", "tlc compile --help")),
        (("compile", "m", "--board"), ("--board", "requires an argument")),
        (("compile", "m", "n", "--board", "b"), ("unexpected extra argument", "n")),
        (("compile", "m", "--board", "b", "--seed", "x"), ("'--seed'", "'x' is not a valid integer")),
        (("compile", "m", "--board", "b", "--pack", "x"), ("'--pack'", "'x'", "'auto', 'size', 'none'")),
        (("compile", "m", "--board", "b", "--shape", "x"), ("'--shape'", "'x'", "NAME=1x49x10")),
        (("compile", "m", "--board", "b", "--shape", "x=0x2"), ("'--shape'", "'x=0x2'", "NAME=1x49x10")),
        (("plan", "m", "--board", "b", "--cut", "x"), ("No such option", "--cut")),
        (("run", "d", "--input", "x.npy"), ("Missing option '--output'",)),
        (("serve", "d", "--batch", "0"), ("'--batch'", "0 is not in the range")),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value, tuple) else None,
)
def test_usage(tmp_path: Path, arguments: tuple[str, ...], says: tuple[str, ...]) -> None:
    refused(tmp_path, 2, *arguments, says=(*says, "; see tlc"))


# ---- where it goes ----


@pytest.mark.parametrize(
    "out",
    ["file", "file/below", "file/far/below", "/proc/tlc", "/proc/1/tlc", "/dev/full", "/dev/full/below", "foreign"],
)
def test_unwritable_output(place: Path, out: str) -> None:
    """Also as root, whom permissions do not stop."""
    (place / "file").write_text("precious")
    (place / "foreign").mkdir()
    (place / "foreign" / "notes.txt").write_text("precious")
    target = out if out.startswith("/") else place / out
    refused(
        place, 1, "compile", place / "m.onnx", *BOARD, "--calib", place / "x.npz", "--out", target,
        says=(str(target), "choose another --out"),
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_is_not_ours(place: Path) -> None:
    (place / "locked").mkdir(mode=0o555)
    refused(
        place,
        1,
        "compile",
        place / "m.onnx",
        *BOARD,
        "--out",
        place / "locked" / "out",
        says=("Permission denied", "--out"),
    )


@contextmanager
def no_file_larger_than(limit: int) -> Iterator[None]:
    """As on a disk that fills up: writing beyond fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up(place: Path) -> None:
    """No half a project, and the one that is there stays as it is."""
    arguments = ("compile", place / "m.onnx", *BOARD, "--calib", place / "x.npz", "--out", place / "out")
    with no_file_larger_than(2000):
        refused(place, 1, *arguments, says=(str(place / "out"), "cannot be written", "File too large"))
    succeeds(*arguments, "--cut", "none")
    before = snapshot(place)
    with no_file_larger_than(2000):
        refused(place, 1, *arguments, says=("cannot be written",))
    assert snapshot(place) == before


def test_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while files are copied: nothing stays."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = snapshot(place)
    monkeypatch.setattr("tlc.codegen.project.shutil.copytree", interrupt)
    done = tlc("compile", place / "m.onnx", *BOARD, "--calib", place / "x.npz", "--out", place / "out")
    assert (done.code, done.out, done.err) == (130, "", "tlc: stopped\n")
    assert snapshot(place) == before


# ---- as a process of its own: what libraries say on stderr would show ----


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("x.npz", []),
        ("m.onnx", ["--calib", "m.onnx"]),
        ("m.onnx", ["--cut", "nope"]),
        ("bent.onnx", ["--cut", "none"]),
    ],
)
def test_one_line_from_a_process(place: Path, model: str, options: list[str]) -> None:
    edited(place, erf_before("Gemm")).rename(place / "bent.onnx")
    before = snapshot(place)
    command = [sys.executable, "-m", "tlc.cli", "compile", model, *BOARD, "--out", "out", *options]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert done.stderr.startswith("tlc: ") and done.stderr.count("\n") == 1, done.stderr
    assert snapshot(place) == before
