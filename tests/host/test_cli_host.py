# SPDX-License-Identifier: Apache-2.0
"""The command line's contract with scripts: run and serve; and bad input to them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from command_line import refused, snapshot, succeeds, tlc
from small_models import CLASSES
from tlc import boards, toolchain
from tlc import bundle as bundles
from tlc.bundle import Bundle
from tlc.hostbuild import build_native

RUN_KEYS = {"samples", "output"}


@pytest.fixture(scope="module")
def whole(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``small.tflite``, all of it on the device."""
    out = tmp_path_factory.mktemp("whole") / "whole"
    succeeds("compile", models / "small.tflite", "--board", "qemu-m4", "--cut", "none", "--out", out)
    return out


@pytest.fixture(scope="module")
def pairs(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``pair.onnx``, cut behind the addition."""
    out = tmp_path_factory.mktemp("pairs") / "pairs"
    succeeds("compile", models / "pair.onnx", "--board", "qemu-m4", "--calib", models / "pair.npz", "--out", out)
    return out


def run(project: Path, source: Path, target: Path, *options: object) -> Any:
    """Runs a file, and gives what the output file holds."""
    done = succeeds("run", project, "--input", source, "--output", target, *options, "--json")
    assert done.err == ""
    answer = done.json
    assert answer.keys() >= RUN_KEYS and answer["output"] == str(target)
    found = np.load(target)
    if isinstance(found, np.lib.npyio.NpzFile):
        with found:
            found = dict(found)
    first = found if isinstance(found, np.ndarray) else next(iter(found.values()))
    assert answer["samples"] == len(first)
    return found


def model_outputs(path: Path, **inputs: Any) -> Any:
    """The float model itself."""
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)[0]


# ---- run ----


def test_floats_in_floats_out(project: Path, models: Path, tmp_path: Path) -> None:
    """The leading axis is the samples, the rest the model's own layout; the answer is the model's, quantized."""
    out = run(project, models / "x.npy", tmp_path / "y.npy")
    x = np.load(models / "x.npy")
    assert out.dtype == np.float32 and out.shape == (len(x), CLASSES)
    assert np.abs(out - model_outputs(models / "small.onnx", input=x)).max() < 0.1
    assert np.abs(out.sum(axis=1) - 1).max() < 1e-5
    assert np.ptp(out, axis=0).max() > 0.05  # samples do differ


def test_run_twice_gives_the_same_bytes(project: Path, models: Path, tmp_path: Path) -> None:
    for name in "ab":
        run(project, models / "x.npy", tmp_path / f"{name}.npy")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "a.npy").stat().st_mode & 0o777 == 0o666 & ~mask  # a file like any other


@pytest.mark.parametrize("key", ["x", "x_test", "x_train", "input"])
def test_keys_of_an_npz(project: Path, models: Path, tmp_path: Path, key: str) -> None:
    x = np.load(models / "x.npy")
    np.savez(tmp_path / "in.npz", **{key: x[:3], "y": np.zeros(3)})
    expected = run(project, models / "x.npy", tmp_path / "y.npy")[:3]
    assert np.array_equal(run(project, tmp_path / "in.npz", tmp_path / "z.npy"), expected)


def test_the_test_part_is_what_runs(project: Path, models: Path, tmp_path: Path) -> None:
    x = np.load(models / "x.npy")
    np.savez(tmp_path / "in.npz", x_train=x[:5], x_test=x[5:7])
    assert len(run(project, tmp_path / "in.npz", tmp_path / "y.npy")) == 2


def test_other_float_types(project: Path, models: Path, tmp_path: Path) -> None:
    x = np.load(models / "x.npy")
    expected = run(project, models / "x.npy", tmp_path / "y.npy")
    for number, variant in enumerate((x.astype(np.float64), np.asfortranarray(x), x[..., 0])):
        np.save(tmp_path / f"{number}.npy", variant)
        assert np.array_equal(run(project, tmp_path / f"{number}.npy", tmp_path / "z.npy"), expected)


def test_outputs_by_name(project: Path, models: Path, tmp_path: Path) -> None:
    found = run(project, models / "x.npy", tmp_path / "y.npz")
    assert list(found) == ["softmax_out"]
    assert np.array_equal(found["softmax_out"], run(project, models / "x.npy", tmp_path / "y.npy"))


def test_raw_is_the_devices_part(project: Path, models: Path, tmp_path: Path) -> None:
    """int8 in, int8 out; with the bundle's scales and host.onnx around it, it is the float run."""
    bundle = bundles.load(project)
    (entry,), (exit_,) = bundle.inputs, bundle.outputs
    x = np.load(models / "x.npy")
    np.save(tmp_path / "q.npy", entry.quant.quantize(x))
    out = run(project, tmp_path / "q.npy", tmp_path / "smashed.npy", "--raw")
    assert out.dtype == np.int8 and out.shape == (len(x), *exit_.file_shape[1:])
    by_name = run(project, tmp_path / "q.npy", tmp_path / "smashed.npz", "--raw")
    assert list(by_name) == [exit_.file_name] == [bundle.cut]
    assert np.array_equal(by_name[bundle.cut], out)
    session = onnxruntime.InferenceSession(project / "host.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(None, {session.get_inputs()[0].name: exit_.quant.dequantize(out)})[0]
    assert np.array_equal(answer, run(project, models / "x.npy", tmp_path / "y.npy"))


def test_raw_of_a_whole_model(whole: Path, models: Path, tmp_path: Path) -> None:
    (entry,), (exit_,) = bundles.load(whole).inputs, bundles.load(whole).outputs
    np.save(tmp_path / "q.npy", entry.quant.quantize(np.load(models / "x.npy")))
    raw = run(whole, tmp_path / "q.npy", tmp_path / "r.npy", "--raw")
    assert raw.dtype == np.int8 and raw.shape[1:] == (CLASSES,)
    assert np.array_equal(exit_.quant.dequantize(raw), run(whole, models / "x.npy", tmp_path / "y.npy"))


def test_several_inputs_by_name(pairs: Path, models: Path, tmp_path: Path) -> None:
    out = run(pairs, models / "pair.npz", tmp_path / "y.npy")
    with np.load(models / "pair.npz") as inputs:
        expected = model_outputs(models / "pair.onnx", **inputs)
        bundle = bundles.load(pairs)
        raw = {edge.file_name: edge.quant.quantize(inputs[edge.file_name]) for edge in bundle.inputs}
    assert out.shape == (9, 3) and np.abs(out - expected).max() < 0.1 * np.abs(expected).max()
    np.savez(tmp_path / "q.npz", **raw)
    smashed = run(pairs, tmp_path / "q.npz", tmp_path / "s.npy", "--raw")
    assert smashed.dtype == np.int8 and smashed.shape == (9, *bundle.outputs[0].file_shape[1:])


@pytest.mark.hil
@pytest.mark.parametrize("raw", [False, True])
def test_twin_and_native_are_equal(pairs: Path, project: Path, models: Path, tmp_path: Path, raw: bool) -> None:
    for place, name in ((project, "x.npy"), (pairs, "pair.npz")):
        source = models / name
        if raw:
            source = quantized(bundles.load(place), source, tmp_path / "q.npz")
        flags = ["--raw"] if raw else []
        outputs = [
            run(place, source, tmp_path / f"{device}.npz", "--device", device, *flags) for device in ("twin", "native")
        ]
        assert outputs[0].keys() == outputs[1].keys()
        for key in outputs[0]:
            assert outputs[0][key].dtype == outputs[1][key].dtype == (np.int8 if raw else np.float32)
            assert np.array_equal(outputs[0][key], outputs[1][key])


def quantized(bundle: Bundle, source: Path, target: Path) -> Path:
    loaded = np.load(source)
    arrays = {"input": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
    np.savez(target, **{edge.file_name: edge.quant.quantize(arrays[edge.file_name]) for edge in bundle.inputs})
    return target


def test_run_says_in_words(project: Path, models: Path, tmp_path: Path) -> None:
    done = succeeds("run", project, "--input", models / "x.npy", "--output", tmp_path / "y.npy")
    assert done.out == f"24 samples on twin: {tmp_path / 'y.npy'}\n" and done.err == ""


# ---- bad input to run ----


def refused_run(project: Path, place: Path, source: Path, says: tuple[str, ...], *options: object) -> str:
    return refused(place, 1, "run", project, "--input", source, "--output", place / "y.npy", *options, says=says)


X = np.zeros((3, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (X[:, :7], ("array 'x'", "(3, 7, 8, 1)", "(samples, 8, 8, 1)")),
        (X[:0], ("no sample",)),
        (X + np.nan, ("array 'x'", "NaN", "remove those samples")),
        (X.astype(str), ("array 'x'", "numbers")),
    ],
    ids=["shape", "none", "nan", "text"],
)
def test_input_arrays(project: Path, tmp_path: Path, array: Any, says: tuple[str, ...]) -> None:
    np.save(tmp_path / "in.npy", array)
    refused_run(project, tmp_path, tmp_path / "in.npy", ("in.npy", *says))


def test_input_files(project: Path, pairs: Path, models: Path, tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("1, 2, 3\n")
    (tmp_path / "cut.npz").write_bytes((models / "x.npz").read_bytes()[:700])
    np.savez(tmp_path / "key.npz", images=X)
    refused_run(project, tmp_path, tmp_path / "nope.npy", ("nope.npy", "No such file", ".npy or .npz"))
    refused_run(project, tmp_path, tmp_path / "text.npy", ("text.npy", "NumPy file", ".npy or .npz"))
    refused_run(project, tmp_path, tmp_path / "cut.npz", ("cut.npz", "NumPy file", ".npy or .npz"))
    refused_run(project, tmp_path, tmp_path / "key.npz", ("has keys images", "inputs are input"))
    refused_run(pairs, tmp_path, models / "x.npy", ("has keys x", "inputs are input, other", "one array after each"))
    with np.load(models / "pair.npz") as inputs:
        np.savez(tmp_path / "odd.npz", input=inputs["input"], other=inputs["other"][:5])
    refused_run(pairs, tmp_path, tmp_path / "odd.npz", ("different numbers of samples", "'input': 9", "'other': 5"))


def test_raw_input(project: Path, pairs: Path, models: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "wide.npy", np.zeros((3, 9, 8, 1), np.int8))
    np.save(tmp_path / "none.npy", np.zeros((0, 8, 8, 1), np.int8))
    np.savez(tmp_path / "odd.npz", input=np.zeros((2, 6, 6, 1), np.int8), other=np.zeros((3, 4), np.int8))
    refused_run(project, tmp_path, models / "x.npy", ("float32", "--raw takes int8", "scale and zero point"), "--raw")
    refused_run(project, tmp_path, tmp_path / "wide.npy", ("(3, 9, 8, 1)", "(samples, 8, 8, 1)"), "--raw")
    refused_run(project, tmp_path, tmp_path / "none.npy", ("no sample",), "--raw")
    refused_run(pairs, tmp_path, tmp_path / "odd.npz", ("different numbers of samples",), "--raw")
    refused_run(pairs, tmp_path, tmp_path / "wide.npy", ("has keys x", "one array after each input"), "--raw")


def test_output_file(project: Path, models: Path, tmp_path: Path) -> None:
    """Found out before the first sample runs, but for a disk that fills up."""
    (tmp_path / "dir.npy").mkdir()
    (tmp_path / "file").write_text("precious")
    for target, says in (
        ("y.txt", "ends in .npy or .npz"),
        ("nowhere/y.npy", "does not exist"),
        ("file/y.npy", "does not exist"),
        ("dir.npy", "is a directory"),
        ("/proc/y.npy", "cannot be written"),
        ("/proc/1/y.npz", "cannot be written"),
    ):
        place = Path(target) if target.startswith("/") else tmp_path / target
        options = ("--input", models / "x.npy", "--output", place, "--device", "tcp://127.0.0.1:1")
        refused(tmp_path, 1, "run", project, *options, says=(str(place), says))


def test_output_that_stops_half_way(
    project: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves the former file as it was."""

    def full(file: Any, array: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    (tmp_path / "y.npy").write_bytes(b"precious")
    monkeypatch.setattr("tlc_host.run.np.save", full)
    refused_run(project, tmp_path, models / "x.npy", ("y.npy", "No space left"))


# ---- projects that are none ----

Damage = Callable[[Path], object]


def edit_json(project: Path, **values: Any) -> None:
    path = project / "bundle.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: (p / "bundle.json").unlink(), ("bundle.json", "No such file", "tlc compile")),
        (lambda p: (p / "bundle.json").write_bytes(b"\xff\xfe"), ("bundle.json", "UTF-8", "compile again")),
        (lambda p: (p / "bundle.json").write_text("{"), ("bundle.json", "Invalid JSON", "compile again")),
        (lambda p: (p / "bundle.json").write_text("[]"), ("bundle.json", "compile again")),
        (lambda p: edit_json(p, version=2), ("bundle.json: version", "not 2", "this tlc reads version 1")),
        (lambda p: edit_json(p, extra=1), ("bundle.json: extra", "compile again")),
        (lambda p: edit_json(p, macs=1), ("bundle.json", "its content has hash", "edited or damaged")),
        (lambda p: edit_json(p, hash="0" * 64), ("bundle.json", "it says 0000000000000000", "edited or damaged")),
        (lambda p: (p / "host.onnx").unlink(), ("host.onnx", "No such file", "compile again")),
        (lambda p: (p / "host.onnx").write_bytes(b"x"), ("host.onnx", "has hash 2d711642b726b044", "compile again")),
        (lambda p: (p / "device.tflite").write_bytes(b""), ("device.tflite", "has hash e3b0c44298fc1c14")),
        (lambda p: (p / "lib/tlc/src/ctx.c").write_text("#error no\n"), ("does not compile", "error: #error no", "compile the model again")),
        (lambda p: shutil.rmtree(p / "lib" / "tlc_model"), ("lib/tlc_model", "missing", "compile the model again")),
    ],
    ids=[
        "missing", "no text", "truncated", "a list", "version", "key", "edited", "hash", "no host.onnx", "host.onnx",
        "device.tflite", "source", "no model",
    ],
)  # fmt: skip
def test_damaged_project(project: Path, models: Path, tmp_path: Path, damage: Damage, says: tuple[str, ...]) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(project, broken)
    damage(broken)
    refused_run(broken, tmp_path, models / "x.npy", says)
    if says[0].startswith(("bundle.json", "host.onnx", "device.tflite")):
        refused(tmp_path, 1, "serve", broken, says=says)
        refused(tmp_path, 1, "bench", broken, says=says)
        refused(tmp_path, 1, "size", broken, says=says)


# ---- devices that are none ----


def test_a_port_that_is_closed(project: Path, models: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    device = f"tcp://127.0.0.1:{port}"
    refused_run(project, tmp_path, models / "x.npy", (device, "cannot connect", "running"), "--device", device)
    refused(tmp_path, 1, "serve", project, "--device", device, says=(device, "cannot connect"))


@contextmanager
def listener(speak: Callable[[socket.socket], None]) -> Iterator[str]:
    """A device that says something of its own to whoever connects."""
    held = []

    def serve() -> None:
        while True:
            try:
                held.append(server.accept()[0])
                speak(held[-1])
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for connection in held:
        connection.close()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", bytes(1000), bytes(range(256)) * 40])
def test_a_device_that_never_answers(
    project: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("tlc_host.devices.TIMEOUT_S", 0.4)
    with listener(lambda connection: connection.sendall(said)) as device:
        says = (device, "no greeting within 0.4 s", "is the device running this project's firmware")
        refused_run(project, tmp_path, models / "x.npy", says, "--device", device)


@pytest.mark.parametrize(
    ("device", "code", "says"),
    [
        ("teapot", 2, ("'teapot'", "twin, native, emulator")),
        ("tcp://127.0.0.1", 2, ("tcp://127.0.0.1", "tcp://HOST:PORT")),
        ("tcp://127.0.0.1:70000", 2, ("tcp://127.0.0.1:70000", "tcp://HOST:PORT")),
        ("/dev/tty_of_nobody", 1, ("/dev/tty_of_nobody", "cannot open the serial port", "plug the board in")),
        ("/dev/null", 1, ("/dev/null", "cannot open the serial port")),
    ],
)
def test_a_device_that_is_none(
    project: Path, models: Path, tmp_path: Path, device: str, code: int, says: tuple[str, ...]
) -> None:
    options = ("--input", models / "x.npy", "--output", tmp_path / "y.npy", "--device", device)
    refused(tmp_path, code, "run", project, *options, says=says)


@pytest.mark.hil
def test_a_device_of_another_compilation(project: Path, whole: Path, models: Path, tmp_path: Path) -> None:
    """Both hashes, in full."""
    with toolchain.start(boards.load("native"), build_native(whole)) as process:
        device = f"tcp://{process.host}:{process.port}"
        says = (device, bundles.load(project).hash, bundles.load(whole).hash, "pio run -t upload")
        refused_run(project, tmp_path, models / "x.npy", says, "--device", device)


def test_no_compiler_for_the_twin(project: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    refused_run(project, tmp_path, models / "x.npy", ("no C compiler", "install gcc"))


def test_no_place_for_the_twin(project: Path, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    refused_run(project, tmp_path, models / "x.npy", ("/dev/null/tlc", "cannot be kept", "XDG_CACHE_HOME"))


# ---- serve ----


def test_training_json(project: Path, models: Path) -> None:
    pytest.importorskip("tensorflow")
    options = ("--train", models / "x.npz", "--batches", 2, "--batch", 2, "--once", "--json")
    answer = succeeds("serve", project, "--device", "twin", "--device", "twin", *options).json
    assert answer["devices"] == ["twin", "twin"]
    assert [row["device"] for row in answer["steps"]] == [0, 0, 1, 1]
    assert [row["step"] for row in answer["steps"]] == [1, 2, 3, 4]
    assert all(row["loss"] > 0 and 0 <= row["accuracy"] <= 1 for row in answer["steps"])


def test_once_without_training(project: Path) -> None:
    done = succeeds("serve", project, "--once")
    assert done.out == "" and done.err.startswith("twin: ") and bundles.load(project).hash[:16] in done.err


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X, "y": [0, 1, CLASSES]}, ("labels run from 0 to 5", "5 classes", "number the classes from 0")),
        ({"x": X, "y": [0, 1, -1]}, ("labels run from -1 to 1", "5 classes")),
        ({"x": X}, ("no labels", "array 'y'")),
        ({"x_train": X, "y": [0, 1, 2]}, ("no labels", "array 'y_train'")),
        ({"x": X, "y": [0, 1]}, ("array 'y'", "(2,)", "3 samples need 3 labels")),
        ({"x": X, "y": np.eye(3)}, ("array 'y'", "(3, 3)", "one class number a sample")),
        ({"x": X, "y": [0, 0.5, 1]}, ("array 'y'", "class numbers")),
        ({"x": X, "y": ["cat", "dog", "owl"]}, ("array 'y'", "class numbers")),
        ({"x": X[:, 1:], "y": [0, 1, 2]}, ("array 'x'", "(3, 7, 8, 1)")),
    ],
)
def test_training_data(project: Path, tmp_path: Path, arrays: dict[str, Any], says: tuple[str, ...]) -> None:
    """Found out before a device is opened."""
    np.savez(tmp_path / "train.npz", **arrays)
    options = ("--train", tmp_path / "train.npz", "--once", "--device", "tcp://127.0.0.1:1")
    refused(tmp_path, 1, "serve", project, *options, says=("train.npz", *says))


def test_fewer_samples_than_devices(project: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", x=X[:1], y=[0])
    options = ("--train", tmp_path / "train.npz", "--device", "twin", "--device", "twin")
    refused(tmp_path, 1, "serve", project, *options, says=("1 samples for 2 devices", "more samples"))


def test_what_cannot_be_trained(project: Path, whole: Path, models: Path, tmp_path: Path) -> None:
    out = tmp_path / "frozen"
    succeeds("compile", models / "small.onnx", "--board", "qemu-m4", "--calib", models / "x.npz", "--out", out)
    data = ("--train", models / "x.npz", "--once", "--device", "tcp://127.0.0.1:1")
    refused(tmp_path, 2, "serve", out, *data, says=(str(out), "nothing learns on the device", "--train last"))
    refused(tmp_path, 2, "serve", whole, *data, says=(str(whole), "no host segment", "--cut"))
    for rate in ("nan", "inf", "0", "-1"):
        refused(tmp_path, 2, "serve", project, *data, "--lr", rate, says=("--lr", "must be positive"))


@pytest.mark.hil
def test_ctrl_c(project: Path, tmp_path: Path) -> None:
    """The daemon ends with 130 and one line, and what it started ends with it."""
    command = [sys.executable, "-m", "tlc.cli", "serve", str(project), "--device", "native", "--device", "twin"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    greeted = [process.stderr.readline() for _ in range(2)]
    assert [line.split(":")[0] for line in greeted] == ["native", "twin"]
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").parent.parent
    started = {int(pid) for task in children.iterdir() for pid in (task / "children").read_text().split()}
    assert started
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "tlc: stopped\n")
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]


def test_snapshot_sees_everything(tmp_path: Path) -> None:
    """The helper that all of the above lean on."""
    before = snapshot(tmp_path)
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "file").write_text("x")
    assert snapshot(tmp_path).keys() - before.keys() == {".hidden", ".hidden/file"}
    assert tlc("nope").code == 2
