# SPDX-License-Identifier: Apache-2.0
"""``tlc compile``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tlc.commands.common import common, examples, progress
from tlc.commands.options import model_options
from tlc.commands.types import Bytes
from tlc.errors import TlcError
from tlc.report import tables

if TYPE_CHECKING:
    from tlc.boards import Board


@click.command(
    "compile",
    short_help="Write a PlatformIO project for a model on a board.",
    epilog=examples(
        "tlc compile model.onnx --board qemu-m4 --calib samples.npz",
        "tlc compile model.onnx --board esp32 --calib samples.npz --out digits --transport wifi",
        "tlc compile model.onnx --board qemu-m4 --calib samples.npz --train last",
        "tlc compile model.onnx --board qemu-m4 --calib labelled.npz --train auto --train-ram 24K",
        "tlc compile model_int8.tflite --board qemu-rv32 --cut none",
        "tlc compile model.onnx --board esp32 --calib samples.npz --cuts relu1,relu2,pool2 --train full",
    ),
)
@model_options
@click.option(
    "--cut",
    default="auto",
    show_default=True,
    metavar="auto|none|TENSOR",
    help="The last tensor that the device computes: a name that `tlc plan` lists; `none`: it computes all; `auto`: the cut "
    "that fits the board (without strips, if one does) and takes the least time, computing and sending.",
)
@click.option(
    "--cuts",
    metavar="TENSOR,TENSOR,...",
    help="Several cuts in one project, instead of --cut: the device can go from one to another while it runs, and begins with "
    "the first named. Weights are there once; `tlc run`, `train`, `serve`, `fleet` and `bench` have --cut to choose.",
)
@click.option(
    "--tail",
    metavar="TENSOR",
    help="U-shaped split: the device goes on from this tensor, and only what lies between --cut and it is the host's. Labels and "
    "results stay on the device, which learns with --loss.",
)
@click.option(
    "--aux-head",
    is_flag=True,
    help="A small classifier at the cut, on the device: average over space, dense, softmax; fitted to the labels of --calib. With "
    "--train it learns too, by a loss of its own. For --algorithm adasplit and early-exit, and for `tlc run --exit`.",
)
@click.option(
    "--calib",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Real inputs that set the int8 ranges, a few hundred: .npy, or .npz with x, or x_train, or an array named after "
    "each input.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="The project's directory; its src/app.c stays yours.  [default: build/<model>-<board>]",
)
@click.option(
    "--train-ram",
    type=Bytes(),
    metavar="BYTES",
    help="RAM that training may take beyond inference; 24K is 24,000.  [default: what the board has left]",
)
@click.option("--train-macs", type=Bytes(), metavar="N", help="Multiply-accumulates that a backward pass may take.")
@click.option(
    "--train-batch",
    type=click.Choice(["many", "1"]),
    default="many",
    show_default=True,
    help="Samples in a training step. `many`: gradients are summed up over a batch of any size, 4 bytes a learned element; "
    "`1`: each tensor is updated inside the backward pass, and its gradient's buffer dies at once.",
)
@click.option(
    "--loss",
    type=click.Choice(["none", "softmax-ce", "mse"]),
    default="none",
    show_default=True,
    help="The loss that the device computes from a label by itself, with --cut none: softmax cross-entropy or mean squared "
    "error. `none`: the host computes it.",
)
@click.option(
    "--train-arithmetic",
    type=click.Choice(["auto", "float", "int"]),
    default="auto",
    show_default=True,
    help="Of the backward pass and the update: float32, or integers alone (int16 gradients with one exponent each, half the "
    "RAM; neither weight decay nor clipping). `auto`: float where the board's core has an FPU.",
)
@click.option(
    "--train-scales",
    type=click.Choice(["dynamic", "static"]),
    default="dynamic",
    show_default=True,
    help="Of gradients in integers. `dynamic`: found from the values, sample by sample; `static`: all but that of the gradient handed "
    "in found now, on --calib samples with labels, with a bit to spare; what does not fit is saturated.",
)
@click.option(
    "--momentum",
    is_flag=True,
    help="SGD with momentum: a velocity for each learned element, 4 bytes; in integers 2 of a weight.",
)
@click.option(
    "--rounding",
    type=click.Choice(["stochastic", "feedback"]),
    default="stochastic",
    show_default=True,
    help="Of steps below one integer. `stochastic`: up or down at random, right in the mean; `feedback`: what a weight has "
    "not moved yet is kept, a byte each.",
)
@click.option(
    "--qas/--no-qas",
    default=True,
    show_default=True,
    help="Quantization-aware scaling: a weight's step is divided by its scale. Without it: plain int8 training, to compare.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same files, same seed: same bytes.")
@common
def compile_command(
    model: Path,
    board: str,
    pack: Any,
    train: str,
    patches: str,
    ram: int | None,
    transport: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    cut: str,
    cuts: str | None,
    tail: str | None,
    aux_head: bool,
    calib: Path | None,
    out: Path | None,
    train_ram: int | None,
    train_macs: int | None,
    train_batch: Any,
    loss: Any,
    train_arithmetic: Any,
    train_scales: Any,
    momentum: bool,
    rounding: str,
    qas: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Compile MODEL (float ONNX, or int8 .tflite) for a board.

    Writes a PlatformIO project with the device's part in C, host.onnx with the rest, bundle.json, device.tflite and
    report.json.
    """
    from tlc.learning import Learning
    from tlc.pipeline import Options, compile_model

    learning = Learning(
        train_batch, loss, momentum=momentum, feedback=rounding == "feedback", qas=qas, scales=train_scales
    )
    directory = out or Path("build") / f"{model.stem}-{Path(board).stem}"
    options = Options(
        model,
        board,
        directory,
        cut,
        calib,
        pack,
        train,
        transport,
        dict(shapes),
        seed,
        train_ram,
        train_macs,
        learning,
        train_arithmetic,
        tail,
        aux_head,
        patches,
        ram,
        tuple(name.strip() for name in cuts.split(",")) if cuts is not None else (),
    )
    with progress(as_json) as say:
        compiled = compile_model(options, say)
    make_buildable(compiled.board)
    if as_json:
        click.echo(json.dumps(compiled.to_json()))
    else:
        tables.show_compiled(compiled, directory)


def make_buildable(board: Board) -> None:
    """An emulated board's platform is ours, and in no registry: puts it where ``pio run`` looks."""
    from tlc import boards, toolchain

    if board.platformio.platform == boards.PLATFORM:
        try:
            toolchain.prepare_platformio()
        except TlcError as error:
            click.echo(f"warning: pio run will not find the board: {error}", err=True)
