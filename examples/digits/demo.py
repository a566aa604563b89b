# SPDX-License-Identifier: Apache-2.0
"""The whole way in one go: train, compile, build, boot, infer and learn across an emulated UART.

    make demo

A small CNN learns upright digits on this machine. tlc cuts it in two for an emulated Cortex-M4, PlatformIO builds and boots the device
half, and the two halves infer together. Then the digits turn by 30 degrees, and the halves learn together: vanilla split
learning, the device's last layer with its int8 weights on the chip, the rest in TensorFlow on the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))

import network
import numpy as np
from rich.console import Console
from rich.table import Table

from tlc import boards, toolchain
from tlc.emulator import stop_state
from tlc.pipeline import Compiled, Options, compile_model
from tlc.twin import Twin
from tlc_host.algorithms.base import BatchDone
from tlc_host.bench import bench
from tlc_host.config import plan
from tlc_host.devices import STATE_FILE, open_device
from tlc_host.run import infer_on_device
from tlc_host.serve import assemble, link_devices
from tlc_host.server_model import ServerModel
from tlc_host.server_worker import ServerWorker
from tlc_host.shards import Shard, load_shard

BOARD = "qemu-m4"
WORK = Path("build") / "demo"
PROJECT = WORK / BOARD
DEVICE_TEST = 100
BATCHES, BATCH, RATE = 30, 8, 0.05
console = Console(width=None if sys.stdout.isatty() else 110)


def say(text: str) -> None:
    """A step of the demo, with the time since its start."""
    console.print(f"[dim]{time.monotonic() - STARTED:5.1f} s[/]  {text}")


STARTED = time.monotonic()


def prepare() -> Path:
    """The trained model; kept from an earlier run."""
    model = WORK / "digits.onnx"
    if not (WORK / "rotated.npz").exists():
        say("training a CNN on 4,000 upright digits (conv, conv, dense, dense)")
        network.write(WORK, lambda epoch, epochs, loss: say(f"  epoch {epoch}/{epochs}: loss {loss:.3f}"))
    return model


def float_accuracy(model: Path, data: Path) -> float:
    """The uncut float network in ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(model.read_bytes(), providers=["CPUExecutionProvider"])
    with np.load(data) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    return float((session.run(None, {"input": x})[0].argmax(1) == y).mean())


def twin_accuracy(twin: Twin, server: ServerModel, test: Shard) -> float:
    """The generated C on this machine, then the host segment, on the whole test set."""
    return float((server.infer(twin.forward(test.inputs)[0])[0].argmax(1) == test.labels).mean())


async def learn(compiled: Compiled, test: Shard, shifted: Shard) -> dict[str, Any]:
    """Split inference and split training on the booted board."""
    server, twin = ServerModel(PROJECT), Twin(PROJECT)
    few = Shard(test.inputs[:DEVICE_TEST], test.labels[:DEVICE_TEST])
    result: dict[str, Any] = {"twin_before": twin_accuracy(twin, server, test)}
    async with ServerWorker(server) as worker, open_device(PROJECT, "emulator") as device:
        say(f"connected: {device.hello.board.decode()}, bundle {compiled.bundle.hash[:16]}")

        async def device_accuracy() -> float:
            outputs, _ = await infer_on_device(device, compiled.bundle, [few.inputs])
            assert np.array_equal(outputs[0], twin.forward(few.inputs)[0]), "the chip and its twin differ"
            return float((server.infer(outputs[0])[0].argmax(1) == few.labels).mean())

        say(f"split inference on {DEVICE_TEST} rotated digits over the UART ...")
        result["device_before"] = await device_accuracy()
        say(f"  {result['device_before']:.0%} right; the chip's smashed data equal the twin's, byte for byte")
        sent = device.counters.bytes_in, device.counters.bytes_out
        say(f"split training: {BATCHES} batches of {BATCH} rotated digits ...")
        recent: list[BatchDone] = []
        settings = plan({"algorithm": "vsl", "batches": BATCHES, "batch": BATCH, "lr": RATE})
        loop = assemble(settings, worker, link_devices([device], PROJECT, settings), [shifted])
        async for done in loop.events():
            if not isinstance(done, BatchDone):
                continue
            recent.append(done)
            if done.step % 5 == 0:
                loss = np.mean([p.loss for p in recent[-5:]])
                accuracy = np.mean([p.accuracy for p in recent[-5:]])
                bar = "#" * round(30 * float(accuracy))
                say(f"  batch {done.step:3}: loss {loss:.3f}  accuracy {accuracy:4.0%} {bar}")
        samples = BATCHES * BATCH
        result["bytes_up"] = (device.counters.bytes_in - sent[0]) / samples
        result["bytes_down"] = (device.counters.bytes_out - sent[1]) / samples
        twin.set_params(await device.get_params())
        say("the same digits again, with what the chip and the host have learned ...")
        result["device_after"] = await device_accuracy()
    result["twin_after"] = twin_accuracy(twin, server, test)
    return result


def main() -> None:
    """Runs the demo and prints its table."""
    toolchain.prepare_platformio()
    model = prepare()
    say("tlc compile: cut, quantize, pack, generate C")
    (PROJECT / "src" / "app.c").unlink(missing_ok=True)  # nobody's own here, and an older tlc's would stay
    compiled = compile_model(Options(model, BOARD, PROJECT, calib=WORK / "train.npz", train="last"))
    say(f"  cut at '{compiled.bundle.cut}'")
    say("pio run: building the firmware")
    toolchain.pio_run(PROJECT)
    say("pio run -t upload: booting the emulated board")
    stop_state(PROJECT / STATE_FILE)
    toolchain.pio_run(PROJECT, "-t", "upload")
    rotated = WORK / "rotated.npz"
    try:
        test = load_shard(rotated, compiled.bundle, "test")
        result = asyncio.run(learn(compiled, test, load_shard(rotated, compiled.bundle, "train")))
    finally:
        with contextlib.suppress(Exception):
            toolchain.pio_run(PROJECT, "-t", "stop")
    say("tlc bench: counting instructions")
    counted = asyncio.run(bench(PROJECT))
    figures = counted.to_json()
    training = counted.training
    assert training is not None
    promise, memory = compiled.bundle.certificate, boards.load(BOARD).memory
    upright = float(
        (ServerModel(PROJECT).infer(Twin(PROJECT).forward(*_upright(compiled))[0])[0].argmax(1) == _labels()).mean()
    )

    table = Table(title=f"digits on {BOARD}, cut at '{compiled.bundle.cut}'", title_justify="left")
    for column, justify in (("", "left"), ("before", "right"), ("after learning", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    table.add_row("upright digits: int8 twin, 1,000 images", f"{upright:.1%}", "")
    table.add_row("rotated digits: float network", f"{float_accuracy(model, rotated):.1%}", "")
    table.add_row(
        "rotated digits: int8 twin, 1,000 images", f"{result['twin_before']:.1%}", f"{result['twin_after']:.1%}"
    )
    table.add_row(
        f"rotated digits: the chip, {DEVICE_TEST} images",
        f"{result['device_before']:.1%}",
        f"{result['device_after']:.1%}",
    )
    table.add_section()
    table.add_row(
        "instructions per inference", f"{counted.instructions:,}", f"{figures['instructions_per_mac']:.2f} per MAC"
    )
    total = training.forward + training.backward
    table.add_row("instructions per training sample", f"{total:,}", f"+ {training.update:,} per step")
    table.add_row("flash, bytes", f"{figures['flash_bytes']:,}", f"of {memory.flash_bytes:,}")
    table.add_row("RAM, bytes", f"{figures['ram_bytes']:,}", f"promised {promise.ram_bytes:,}")
    table.add_row("on the link per inference, bytes", f"{compiled.estimate.link_bytes:,}", "sent up")
    table.add_row(
        "on the link per training sample, bytes", f"{result['bytes_up']:,.0f} up", f"{result['bytes_down']:,.0f} down"
    )
    console.print()
    console.print(table)
    (WORK / "demo.json").write_text(json.dumps({**result, **figures}, indent=2) + "\n")
    say(f"done; the project is in {PROJECT}")


def _upright(compiled: Compiled) -> list[np.ndarray]:
    return [load_shard(WORK / "test.npz", compiled.bundle, "test").inputs]


def _labels() -> np.ndarray:
    with np.load(WORK / "test.npz") as arrays:
        return arrays["y"]


if __name__ == "__main__":
    main()
