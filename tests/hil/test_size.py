# SPDX-License-Identifier: Apache-2.0
"""``tlc size`` on firmware that holds every operator: promises to the byte, and a stack bound that running never exceeds."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tflite_files import Network

from tlc import bundle as bundles
from tlc import size, toolchain
from tlc.cli import cli
from tlc.errors import BundleMismatch, FitError, ToolchainError
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph, Quant
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc.stack import StackBound
from tlc_host.cohort import quantize_gradient
from tlc_host.devices import open_device

pytestmark = pytest.mark.hil

EMULATED = ["qemu-m0", "qemu-m33", "qemu-m4", "qemu-rv32", "qemu-xtensa"]
ALL = [*EMULATED, "native"]


def every_operator() -> Graph:
    """All operators; weights that pack; a convolution that learns, under every operator that has a gradient but dense."""
    net = Network(1, "everything")
    x = net.input("image", 1, 11, 10, 4)
    y = net.layer("conv2d", x, 8, 3, 3, 4, strides=(2, 1), pads=(1, 1, 1, 1), activation=Activation.RELU)
    y = net.layer("conv2d", y, 8, 3, 2, 4, groups=2, pads=(0, 1, 0, 0), bias=False)
    y = net.layer("depthwise_conv2d", y, 1, 3, 3, 16, pads=(2, 2, 2, 2), dilations=(2, 2), activation=Activation.RELU6)
    y = net.node("max_pool2d", [y], None, kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1))
    y = net.node("average_pool2d", [y], None, kernel=(2, 2), strides=(1, 1), pads=(0, 0, 1, 1))
    shortcut = net.layer("conv2d", y, 16, 1, 1, 16)
    y = net.node("add", [y, shortcut], 0.08, activation=Activation.RELU_N1_TO_1)
    row = net.graph.constant("row", np.arange(16, dtype=np.int8).reshape(1, 1, 1, 16), Quant.per_tensor(0.02, 7))
    y = net.node("mul", [y, row.name], 0.03)
    y = net.node("sub", [shortcut, y], 0.06)
    y = net.node("clamp", [y], 0.04, -128, activation=Activation.RELU)
    y = net.node("quantize", [y], 0.05)
    y = net.node("softmax", [y], 1 / 256, -128)
    y = net.node("pad", [y], None, pads=((0, 0), (0, 1), (1, 0), (0, 0)), value=-1.5)
    y = net.node("transpose", [y], None, perm=(0, 1, 3, 2))
    y = net.node("transpose", [y], None, perm=(0, 1, 3, 2))
    y = net.layer("dense", y, 8, 16)
    y = net.layer("conv2d", y, 8, 3, 3, 8, pads=(1, 1, 1, 1), activation=Activation.RELU)
    y = net.node("max_pool2d", [y], None, kernel=(2, 2), strides=(1, 1))
    y = net.node("average_pool2d", [y], None, kernel=(2, 2), strides=(1, 1))
    y = net.node("mean", [y], 0.02, axes=(1, 2), keep_dims=False)
    graph = net.done(y)
    for tensor in graph.tensors.values():
        if tensor.is_constant and tensor.dtype == "int8" and tensor.name != row.name:
            tensor.data = np.clip(net.rng.normal(0, 6, tensor.shape).round(), -127, 127).astype(np.int8)
    return graph


def dense_alone() -> Graph:
    """A dense layer that learns nothing, and an arena too small for its output as floats."""
    net = Network(2, "dense")
    return net.done(net.layer("dense", net.input("x", 1, 5), 200, 5))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], Graph]], Path]:
    """Compiles and builds a network for a board, once."""
    core = tmp_path_factory.mktemp("core")
    built: dict[tuple[str, str], Path] = {}

    def project(board: str, network: Callable[[], Graph]) -> Path:
        key = board, network.__name__
        if key not in built:
            directory = tmp_path_factory.mktemp("-".join(key))
            model = directory / "model.tflite"
            model.write_bytes(write_tflite(network()))
            options = Options(
                model,
                board,
                directory / "project",
                cut="none",
                pack="size",
                train="none" if network is dense_alone else "last",
            )
            compile_model(options)
            toolchain.pio_run(options.out, directory=core)
            built[key] = options.out
        return built[key]

    return project


@pytest.fixture
def m4(make: Callable[[str, Callable[[], Graph]], Path], tmp_path: Path) -> Iterator[Path]:
    """A copy of the Cortex-M4 project, to be spoiled."""
    yield shutil.copytree(make("qemu-m4", every_operator), tmp_path / "project")


@pytest.mark.parametrize(("board", "network"), [*((board, every_operator) for board in ALL), ("qemu-m4", dense_alone)])
def test_promises_are_kept_and_exact(make: Callable[..., Path], board: str, network: Callable[[], Graph]) -> None:
    report = size.measure(make(board, network))
    size.require(report)
    rows = {(row.memory, row.what): row for row in report.rows}
    for what in ("arena", "state", "hooks' values"):
        row = rows["RAM", what]
        assert row.elf == row.promise, row
    link = rows["RAM", "link"]
    assert link.elf is not None and link.promise is not None
    assert 0 <= link.promise - link.elf < 64
    assert (rows["RAM", "hooks' values"].elf or 0) == (800 if network is dense_alone else 0)
    weights = rows["flash", "weights and tables"]
    assert weights.elf is not None and weights.promise is not None
    assert 0 <= weights.promise - weights.elf <= 64  # arrays of bytes, rounded up to words
    journal = rows["flash", "journal"].elf if ("flash", "journal") in rows else 0
    assert journal is not None
    assert sum(report.origins.values()) + journal == rows["flash", "total"].elf
    assert min(report.origins.values()) > 0
    code = rows["flash", "code"]
    assert code.elf is not None and code.promise is not None
    if network is every_operator:
        assert code.promise <= 1.6 * code.elf  # a budget, but no blank cheque
    else:
        assert report.origins["runtime"] < code.promise / 2


async def exercise(directory: Path) -> int:
    """Every message that makes the device work; the most stack that it then has used."""
    bundle = bundles.load(directory)
    rng = np.random.default_rng(3)
    async with open_device(directory, "emulator") as session:
        for number in range(1, 4):
            x = rng.integers(-128, 128, bundle.inputs[0].shape).astype(np.int8)
            reply = await session.forward(x)
            if bundle.learned:
                elements = int(np.prod(bundle.outputs[0].shape))
                gradient = rng.normal(0, 0.1, elements).astype(np.float32)
                if bundle.learning.arithmetic == "int":  # there is no room for floats
                    q, scale = quantize_gradient(gradient)
                    await session.backward(reply, q, scale=scale)
                else:
                    await session.backward(reply, gradient)
                await session.step(number, 0.01)
        if bundle.learned:
            await session.set_params(await session.get_params())
        await session.layers()
        await session.infer(rng.integers(-128, 128, bundle.inputs[0].shape).astype(np.int8))
        await session.reset_state()
        return (await session.stats()).stack_bytes


@pytest.mark.parametrize(
    ("board", "network"), [*((board, every_operator) for board in EMULATED), ("qemu-m4", dense_alone)]
)
def test_running_never_exceeds_the_bound(make: Callable[..., Path], board: str, network: Callable[[], Graph]) -> None:
    directory = make(board, network)
    stack = size.measure(directory).stack
    used = asyncio.run(exercise(directory))
    assert stack.bytes is not None
    assert used <= stack.bytes <= 2048
    assert (
        used >= 0.6 * stack.bytes
    )  # the bound is near, too; the deepest way sends a new frame before a long computation
    assert stack.path[0][0] in ("tlc_reset", "tlc_start")


def test_command(make: Callable[..., Path]) -> None:
    directory = make("qemu-m4", every_operator)
    shown = CliRunner().invoke(cli, ["size", str(directory)])
    assert shown.exit_code == 0 and "weights and tables" in shown.output and "stack: at most" in shown.output
    told = json.loads(CliRunner().invoke(cli, ["size", str(directory), "--json"]).stdout)
    assert told["fits"] and told["stack_bytes"] > 0 and told["code_bytes"] > told["weight_bytes"] > 0
    assert told["flash_bytes"] > 0 and told["ram_bytes"] > 0


@pytest.mark.parametrize(
    ("key", "what", "remedy"),
    [
        ("packed_bytes", "flash, weights and tables", "build it again: pio run -d"),
        ("code_budget", "flash, code", "raise memory.code_flash_bytes of board 'qemu-m4'"),
        ("sdk_flash_budget", "flash, SDK and libc", "raise memory.sdk_flash_bytes of board 'qemu-m4'"),
        ("flash_bytes", "flash, total", "raise memory.code_flash_bytes"),
        ("arena_bytes", "RAM, arena", "build it again"),
        ("state_bytes", "RAM, state", "build it again"),
        ("link_bytes", "RAM, link", "build it again"),
        ("sdk_ram_budget", "RAM, port, SDK and libc", "raise memory.sdk_ram_bytes"),
        ("ram_bytes", "RAM, total", "build it again"),
    ],
)
def test_exceeding_a_promise(
    make: Callable[..., Path], key: str, what: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = make("qemu-m4", every_operator)
    real = bundles.load(directory)
    less = real.certificate.model_copy(
        update={key: 16 if key != "packed_bytes" else real.certificate.packed_bytes - 99}
    )
    monkeypatch.setattr(bundles, "load", lambda _: real.model_copy(update={"certificate": less}))
    result = CliRunner().invoke(cli, ["size", str(directory)])
    assert result.exit_code == 1
    line = result.stderr.strip()
    assert line.startswith("tlc: ") and "\n" not in line
    assert f"{what}: the image has " in line and remedy in line
    told = json.loads(CliRunner().invoke(cli, ["size", str(directory), "--json"]).stdout)
    assert not told["fits"]


def test_exceeding_the_stack(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    directory = make("qemu-m4", every_operator)
    monkeypatch.setattr(size, "stack_bound", lambda *_: StackBound(4097, (("main", 4097),)))
    with pytest.raises(FitError, match=r"RAM, stack: the image has 4,097 bytes, but .* 4,096; .*memory\.stack_bytes"):
        size.require(size.measure(directory))


def test_not_built(m4: Path) -> None:
    shutil.rmtree(m4 / ".pio")
    with pytest.raises(ToolchainError, match=r"there is no image .*build it: pio run -d"):
        size.measure(m4)


def test_no_map(m4: Path) -> None:
    (m4 / ".pio/build/qemu-m4/firmware.map").unlink()
    with pytest.raises(ToolchainError, match=r"firmware\.map: there is no linker map beside the image; build it again"):
        size.measure(m4)


def test_map_of_another_link(m4: Path, make: Callable[..., Path]) -> None:
    other = make("qemu-m4", dense_alone) / ".pio/build/qemu-m4/firmware.map"
    shutil.copy(other, m4 / ".pio/build/qemu-m4/firmware.map")
    with pytest.raises(ToolchainError, match=r"the map is not of this image: section \.text differs"):
        size.measure(m4)


def test_image_of_another_architecture(m4: Path, make: Callable[..., Path]) -> None:
    other = make("qemu-rv32", every_operator) / ".pio/build/qemu-rv32"
    for name in ("firmware.elf", "firmware.map"):
        shutil.copy(other / name, m4 / ".pio/build/qemu-m4")
    with pytest.raises(ToolchainError, match="the image is of RISCV, but the board 'qemu-m4' is armv7e-m"):
        size.measure(m4)


def test_image_of_another_bundle(m4: Path, make: Callable[..., Path]) -> None:
    other = make("qemu-m4", dense_alone) / ".pio/build/qemu-m4"
    for name in ("firmware.elf", "firmware.map"):
        shutil.copy(other / name, m4 / ".pio/build/qemu-m4")
    with pytest.raises(BundleMismatch, match=r"the image holds bundle [0-9a-f]{16}, but bundle\.json is [0-9a-f]{16}"):
        size.measure(m4)


def test_recursion_in_a_hook(m4: Path, tmp_path: Path) -> None:
    app = m4 / "src" / "app.c"
    code = app.read_text().replace(
        "bool tlc_app_sample",
        "__attribute__((noipa)) static int deep(volatile int *n) { return *n > 0 ? deep(n + 1) + *n : *n; }\n\nbool tlc_app_sample",
    )
    app.write_text(
        code.replace(
            "(void)sample;\n    return false;", "volatile int one = sample != NULL;\n    return deep(&one) < 0;"
        )
    )
    toolchain.pio_run(m4, directory=tmp_path / "core")
    with pytest.raises(FitError, match="the stack has no bound: recursion: deep -> deep"):
        size.measure(m4)


def test_report_without_a_known_bound_fits(make: Callable[..., Path]) -> None:
    report = size.measure(make("native", every_operator))
    assert report.stack.bytes is None and "not computed" in report.stack.reason
    assert report.fits and report.to_json()["stack_bytes"] is None
    assert not dataclasses.replace(report, rows=(size.Row("RAM", "arena", 1, 2),)).fits
