# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command imports what it needs when it runs, so that ``tlc --help`` answers at once."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tlc import __version__
from tlc.cli_boards import add_boards
from tlc.cli_link import add_link
from tlc.cli_runs import add_runs
from tlc.errors import TlcError
from tlc.extras import require
from tlc.report import tables

if TYPE_CHECKING:
    from tlc.boards import Board
    from tlc.pipeline import Progress

Command = Callable[..., Any]

DEVICES = (
    "twin (the generated C in this process), native (the firmware as a process of this machine), emulator (the board's own), "
    "/dev/tty..., tcp://HOST:PORT, or listen://HOST:PORT (the device calls us there)."
)


def cut_option(command: Command) -> Command:
    """``--cut``, of the commands that work with a project."""
    return click.option(
        "--cut",
        metavar="TENSOR",
        help="Of a project compiled with --cuts: where the device's part ends.  [default: the first of them]",
    )(command)


def examples(*lines: str) -> str:
    """An epilog that click does not wrap."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Shape(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``NAME=1x49x10``."""

    name = "NAME=AxBxC"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name and the shape."""
        name, _, dims = str(value).rpartition("=")
        try:
            shape = tuple(int(n) for n in dims.split("x"))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            self.fail(f"'{value}' is not of the form NAME=1x49x10", param, ctx)
        return name, shape


class Bytes(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``24000``, or ``24K`` for the same; ``1.5M``."""

    name = "N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """A whole number of at least 0."""
        text = str(value).strip().upper()
        unit = {"K": 1000, "M": 1_000_000}.get(text[-1:], 1)
        try:
            number = Decimal(text[:-1] if unit > 1 else text) * unit
        except ArithmeticError:
            number = Decimal(-1)
        if not number.is_finite() or number < 0 or number != int(number):
            self.fail(f"'{value}' is not a number such as 24000, 24K or 1.5M", param, ctx)
        return int(number)


class Patches(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.4 on
    """``auto``, ``none``, or a number of strips."""

    name = "auto|none|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word, or a whole number of at least 2."""
        text = str(value)
        if text not in ("auto", "none") and not (text.isascii() and text.isdigit() and int(text) >= 2):
            self.fail(f"'{value}' is not auto, none, or a number of strips from 2 on", param, ctx)
        return text


def common(command: Command) -> Command:
    """``--json`` and ``--debug``, and one clear line for every error."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout instead of a table.")
    @click.option("--debug", is_flag=True, help="Show a traceback with an error.")
    @functools.wraps(command)
    def wrapped(*args: Any, debug: bool, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except KeyboardInterrupt:
            fail("stopped", 130)
        except BrokenPipeError:  # the reader of our output has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except Exception as error:
            if debug:
                traceback.print_exception(error)
            fail(*explain(error))

    return wrapped


def explain(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    while isinstance(error, BaseExceptionGroup):  # of tasks that ran side by side
        error = error.exceptions[0]
    if isinstance(error, TlcError):
        return str(error), error.exit_code
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"internal error: {type(error).__name__}: {error}{place}; run again with --debug, and report it", 1


def fail(text: str, code: int) -> NoReturn:
    """Ends with one line on stderr."""
    click.echo(f"tlc: {' '.join(text.split())}", err=True)
    sys.exit(code)


def model_options(command: Command) -> Command:
    """The options that compile and plan share."""
    for option in reversed(
        [
            click.argument("model", type=click.Path(path_type=Path)),
            click.option(
                "--board", required=True, metavar="NAME|FILE", help="A name from `tlc boards`, or a board file (TOML)."
            ),
            click.option(
                "--pack",
                type=click.Choice(["auto", "size", "none"]),
                default="auto",
                show_default=True,
                help="Huffman-code weights that never learn: where the bytes saved are worth the decoding, wherever it is smaller, "
                "or never.",
            ),
            click.option(
                "--train",
                default="none",
                show_default=True,
                metavar="none|last|bias|full|auto|random|SPEC",
                help="What learns on the device: nothing, the last layer with weights, every bias, everything, what lowers the "
                "loss most within a budget (auto; with --calib that has labels), as much at random, or a list of tensors and of "
                "slices by output and input channels: 'conv3.bias,fc.*,conv4.weight[:, 0:25%]'.",
            ),
            click.option(
                "--patches",
                type=Patches(),
                default="auto",
                show_default=True,
                help="Compute the first layers in strips of rows, so that what lies between them never exists whole: where the RAM "
                "does not suffice otherwise, never, or in at most N strips, as takes least RAM. Results are the same, bit for bit.",
            ),
            click.option(
                "--ram",
                type=Bytes(),
                metavar="BYTES",
                help="RAM that all of the firmware may take; 96K is 96,000.  [default: what the board has]",
            ),
            click.option(
                "--transport",
                type=click.Choice(["uart", "wifi"]),
                help="How the device talks with the host.  [default: the board's first]",
            ),
            click.option(
                "--shape",
                "shapes",
                type=Shape(),
                multiple=True,
                metavar="NAME=1x49x10",
                help="The shape of an input whose dimensions the model leaves open. May be repeated.",
            ),
        ]
    ):
        command = option(command)
    return command


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "tlc plan model.onnx --board esp32",
        "tlc compile model.onnx --board esp32 --calib samples.npz --out digits",
        "pio run -d digits -t upload",
        "tlc run digits --device /dev/ttyUSB0 --input x.npy --output y.npy",
    ),
)
@click.version_option(__version__, prog_name="tlc")
def cli() -> None:
    """Machine learning shared between microcontrollers and servers.

    tlc cuts a trained network in two, quantizes and packs the first half for a microcontroller, writes it as a PlatformIO
    project, and serves the other half. Inference and training run across the cut.
    """


@cli.command(
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
    "that fits the board and takes the least time, computing and sending.",
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


@cli.command(
    "plan",
    short_help="List where a model can be cut, and what each cut costs.",
    epilog=examples("tlc plan model.onnx --board esp32 --transport wifi", "tlc plan model.onnx --board qemu-m0 --json"),
)
@model_options
@common
def plan_command(
    model: Path,
    board: str,
    pack: Any,
    train: str,
    patches: str,
    ram: int | None,
    transport: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    as_json: bool,
) -> None:
    """List every legal cut of MODEL on a board.

    For each: multiply-accumulates and instructions of the device's part, flash, RAM, bytes on the link per inference, and
    the time of both. * marks the Pareto-optimal ones, (+n) how many bytes too many. Instructions and time are estimates
    from the board file; `tlc bench` counts.
    """
    from tlc.pipeline import Options, plan_model

    options = Options(
        model, board, Path(), pack=pack, train=train, transport=transport, shapes=dict(shapes), patches=patches, ram=ram
    )
    rows = plan_model(options)
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows]))
    else:
        tables.show_plan(rows)


@cli.command(
    "size",
    short_help="Hold a built firmware to the memory its bundle promised.",
    epilog=examples("pio run -d digits && tlc size digits"),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@common
def size_command(directory: Path, as_json: bool) -> None:
    """Hold the firmware built in DIR to the memory that its bundle promised.

    Weights, tables, arena, link and our own stack are proven at compile time; code and the board's SDK are budgets. Exit
    code 1 where the firmware takes more.
    """
    from tlc.size import measure, require

    report = measure(directory)
    if as_json:
        click.echo(json.dumps(report.to_json()))
    else:
        tables.show_size(report)
    require(report)


exit_option = click.option(
    "--exit",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Early exit, with a project compiled with --aux-head: where the device's own head gives a class a probability above P, that "
    "is the answer and nothing is sent to the host. 0: always, 1: never.",
)


@cli.command(
    "run",
    short_help="Run a file of samples through device and host.",
    epilog=examples(
        "tlc run digits --input x.npy --output y.npy",
        "tlc run digits --device emulator --input test.npz --output y.npz",
        "tlc run digits --device /dev/ttyUSB0 --input x_int8.npy --output smashed.npy --raw",
        "tlc run digits --device emulator --input test.npz --output y.npy --exit 0.9",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--device", default="twin", show_default=True, help=DEVICES)
@click.option(
    "--input",
    "source",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Samples: .npy, or .npz with x or x_test.",
)
@click.option(
    "--output",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Results: .npy (the first output) or .npz (all).",
)
@click.option("--raw", is_flag=True, help="int8 in and out: what the device computes, without the host.")
@click.option("--trained", is_flag=True, help="With the host's part as `tlc train` left it.")
@cut_option
@exit_option
@common
def run_command(
    directory: Path,
    device: str,
    source: Path,
    target: Path,
    raw: bool,
    trained: bool,
    cut: str | None,
    exit: float | None,
    as_json: bool,
) -> None:
    """Run a file of samples through the device and the host.

    The leading axis is the samples, the rest the model's own input layout; float in and out.
    """
    import asyncio

    from tlc_host.run import run_file

    if device != "twin":
        require("cobs")
    with progress(as_json) as say:
        result = asyncio.run(
            run_file(directory, device, source, target, raw=raw, trained=trained, cut=cut, exit=exit, progress=say)
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        counted = f", {result.ticks:,} ticks each" if result.ticks else ""
        click.echo(f"{result.samples:,} samples on {device}{counted}: {result.output}")
        if result.exits is not None:
            share = f"{result.exits / result.samples:.1%}"
            click.echo(
                f"answered by the device itself: {result.exits:,} ({share}), by the host: {result.samples - result.exits:,}"
            )
        if result.accuracy is not None:
            click.echo(f"right: {result.accuracy:.1%}")


def training_options(command: Command) -> Command:
    """By which algorithm to train, and how much."""
    for option in reversed(
        [
            click.option("--algorithm", metavar="NAME", help="How devices and host learn together.  [default: vsl]"),
            click.option(
                "--rounds", type=click.IntRange(1), help="Rounds; in each, every device has its turn.  [default: 1]"
            ),
            click.option("--batches", type=click.IntRange(1), help="Optimizer steps in a turn.  [default: 100]"),
            click.option("--batch", type=click.IntRange(1), help="Samples in a step.  [default: 16]"),
            click.option("--lr", type=float, help="Learning rate of both halves.  [default: 0.05]"),
            click.option("--seed", type=int, help="Of the draws and the device's rounding.  [default: 0]"),
            click.option(
                "--set",
                "settings",
                multiple=True,
                metavar="KEY=VALUE",
                help="Any key of `tlc config --explain`. May be repeated.",
            ),
            click.option(
                "--config",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Settings; options of the command line go before.  [default: ./tlc.toml, if there is one]",
            ),
            click.option(
                "--deal",
                type=click.Choice(["turns", "iid", "dirichlet"]),
                default="turns",
                show_default=True,
                help="Who gets which samples of the file: each device the next one, random parts, or by class unevenly.",
            ),
            click.option(
                "--curves",
                type=click.Path(path_type=Path),
                metavar="FILE",
                help="Draw loss and accuracy: .svg, or .png.",
            ),
        ]
    ):
        command = option(command)
    return command


def training_plan(given: dict[str, Any]) -> Any:
    """Settings from a file, overridden by ``--set``, overridden by options."""
    from tlc_host import config

    path = given.pop("config")
    if path is None and Path(config.CONFIG_FILE).exists():
        path = Path(config.CONFIG_FILE)
    values = config.read(path) if path else {}
    places = dict.fromkeys(values, str(path))
    for text in given.pop("settings"):
        key, value = config.parse_value(text)
        values[key], places[key] = value, "--set"
    for key, value in given.items():
        if value is not None:
            values[key], places[key] = value, f"--{key}"
    return config.plan(values, places)


@cli.command(
    "serve",
    short_help="Answer devices' samples, and train with them.",
    epilog=examples(
        "tlc serve digits --device /dev/ttyUSB0",
        "tlc serve digits --device tcp://192.168.1.42:7777 --device tcp://192.168.1.43:7777",
        "tlc serve digits --device emulator --train labelled.npz --batches 50 --once",
        "tlc serve digits --device twin --device twin --train labelled.npz --algorithm epsl --set phi=0.5 --once",
        "tlc serve digits --device /dev/ttyUSB0 --exit 0.9",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("twin",),
    show_default=True,
    help=DEVICES + " NAME@DIR: of another project, which has the same model for another board. May be repeated.",
)
@click.option(
    "--train",
    "data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Train on these first: .npz with x and y, or x_train and y_train. The project must be compiled with --train.",
)
@training_options
@cut_option
@click.option("--once", is_flag=True, help="End when the training is done, instead of serving on.")
@exit_option
@common
def serve_command(
    directory: Path,
    devices: tuple[str, ...],
    data: Path | None,
    deal: Any,
    curves: Path | None,
    cut: str | None,
    once: bool,
    exit: float | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Serve devices: answer the samples that they take with the network's output.

    With --train the devices first learn together, by --algorithm: the host takes its step in TensorFlow, the devices theirs on
    what --train of `tlc compile` named. Ends with Ctrl-C.
    """
    import asyncio
    from dataclasses import asdict

    require("cobs")
    from tlc_host.live import Progress, write_curves
    from tlc_host.serve import Training, serve

    plan = training_plan(given)
    training = Training(data, plan, deal) if data else None
    total = plan.settings.rounds * plan.settings.batches * len(devices)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with Progress(total, quiet=as_json) as shown:
        asyncio.run(
            serve(directory, devices, training=training, say=say, on_event=shown, once=once, cut=cut, exit=exit)
        )
    if curves and shown.batches:
        write_curves(curves, f"{plan.algorithm.title} of {directory.name}", shown.batches, shown.rounds)
    if as_json:
        steps = [
            {"step": done.step, "device": done.device, "loss": done.loss, "accuracy": done.accuracy}
            for done in shown.batches
        ]
        rounds = [asdict(done) for done in shown.rounds]
        answer = {"devices": list(devices), "algorithm": plan.algorithm.name, "steps": steps, "rounds": rounds}
        click.echo(json.dumps(answer))
    elif len(shown.rounds) > 1:
        tables.show_rounds(shown.rounds)


@cli.command(
    "train",
    short_help="Train a device and the host on a file of labelled samples.",
    epilog=examples(
        "tlc train digits --data rotated.npz",
        "tlc train digits --device emulator --data rotated.npz --batches 400 --lr 0.02 --save",
        "tlc run digits --trained --input x.npy --output y.npy",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--device", default="twin", show_default=True, help=DEVICES)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labelled samples: .npz with x and y, or x_train and y_train.",
)
@training_options
@cut_option
@click.option("--save", is_flag=True, help="Then into the device's journal, so that it outlives a reset.")
@click.option("--resume", is_flag=True, help="The host's part goes on from where the last training left it.")
@click.option(
    "--max-norm",
    type=float,
    default=1000.0,
    show_default=True,
    help="A step on the device whose mean gradient has a larger norm counts as divergence.",
)
@common
def train_command(
    directory: Path,
    device: str,
    data: Path,
    deal: Any,
    curves: Path | None,
    cut: str | None,
    save: bool,
    resume: bool,
    max_norm: float,
    as_json: bool,
    **given: Any,
) -> None:
    """Train a device and the host's part of the network on a file.

    What --train of `tlc compile` named learns on the device, the rest in TensorFlow; that goes to DIR/host.trained.onnx. Where
    the whole network is on the device (--cut none) and it computes its loss (--loss), it is sent samples and labels. Rounds are
    kept in DIR/runs: where it was interrupted, the same command goes on from the last one.
    """
    import asyncio

    require("cobs")
    from tlc_host.live import Progress, write_curves
    from tlc_host.serve import Training
    from tlc_host.train import train

    def say(text: str) -> None:
        click.echo(text, err=True)

    plan = training_plan(given)
    training = Training(data, plan, deal)
    with Progress(plan.settings.rounds * plan.settings.batches, quiet=as_json) as shown:
        result = asyncio.run(
            train(
                directory,
                device,
                training,
                save=save,
                resume=resume,
                max_norm=max_norm,
                cut=cut,
                say=say,
                on_event=shown,
            )
        )
    if curves:
        write_curves(curves, f"{plan.algorithm.title} of {directory.name}", shown.batches, shown.rounds)
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        if len(shown.rounds) > 1:
            tables.show_rounds(shown.rounds)
        tables.show_differences(f"what {device} has learned", result.learned)
        kept = "kept in its journal" if save else "until its next reset (--save keeps it)"
        host = f"; the host's part: {result.host}" if result.host else ""
        click.echo(f"steps {result.first_step + 1} to {result.last_step} on {device}, {kept}{host}")


@cli.command(
    "fleet",
    short_help="Train many twins in one process, and measure.",
    epilog=examples(
        "tlc fleet digits --devices 1000 --algorithm epsl --set phi=1 --batches 1 --batch 4",
        "tlc fleet digits --devices 50 --algorithm edgesplit --data labelled.npz --deal dirichlet --rounds 10",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--devices", type=click.IntRange(1), default=100, show_default=True, help="Twins.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Labelled samples, dealt out.  [default: random ones, to measure only]",
)
@training_options
@cut_option
@common
def fleet_command(
    directory: Path,
    devices: int,
    data: Path | None,
    deal: Any,
    curves: Path | None,
    cut: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Train many twins of a project together, each through the real link code, and measure rounds per second.

    A first round, in which TensorFlow builds its functions, is not counted.
    """
    import asyncio

    require("cobs")
    from tlc_host.fleet import fleet
    from tlc_host.live import Progress, write_curves

    plan = training_plan(given)

    def say(text: str) -> None:
        click.echo(text, err=True)

    with Progress((plan.settings.rounds + 1) * plan.settings.batches, quiet=as_json) as shown:
        result = asyncio.run(fleet(directory, devices, plan, data=data, how=deal, cut=cut, say=say, on_event=shown))
    if curves:
        write_curves(
            curves, f"{plan.algorithm.title}, {devices} twins of {directory.name}", shown.batches, shown.rounds
        )
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        tables.show_fleet(result)


@cli.command(
    "config",
    short_help="Explain every setting of a training.",
    epilog=examples("tlc config --explain", "tlc config --explain --algorithm epsl"),
)
@click.option("--explain", is_flag=True, help="Every key of [train] in tlc.toml, with its default.")
@click.option("--algorithm", default="", metavar="NAME", help="Only the keys of this one.")
@click.option(
    "--config",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Check this file, and show what it means.",
)
@common
def config_command(explain: bool, algorithm: str, source: Path | None, as_json: bool) -> None:
    """Explain the settings of a training, or check a tlc.toml."""
    from dataclasses import asdict

    from tlc_host import config

    if source is None and not explain:
        source = Path(config.CONFIG_FILE)
    if source is not None:
        values = config.read(source)
        plan = config.plan(values, dict.fromkeys(values, str(source)))
        shown = {"algorithm": plan.algorithm.name, **plan.settings.model_dump()}
        click.echo(json.dumps(shown) if as_json else "\n".join(f"{key} = {value!r}" for key, value in shown.items()))
        return
    keys = list(config.explain(algorithm))
    if as_json:
        click.echo(json.dumps([asdict(key) for key in keys]))
    else:
        tables.show_config(keys)


@cli.group("weights", short_help="Read, replace and compare what a device has learned.")
def weights_group() -> None:
    """Read, replace and compare what a device has learned."""


def weights_command(name: str, help_text: str, *epilog: str) -> Callable[[Command], Command]:
    """A command of ``tlc weights``. Its function is given the bundle, the project and its own options, before a device is
    opened; it returns what to do with the session. That returns what ``--json`` prints, and a function that shows it to a
    person."""

    def decorate(prepare: Command) -> Command:
        @weights_group.command(name, help=help_text, short_help=help_text.split(".")[0] + ".", epilog=examples(*epilog))
        @click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
        @click.option("--device", default="twin", show_default=True, help=DEVICES)
        @common
        @functools.wraps(prepare)
        def command(directory: Path, device: str, as_json: bool, **options: Any) -> None:
            import asyncio

            from tlc import bundle as bundles

            require("cobs")
            from tlc_host import weights
            from tlc_host.devices import open_device

            bundle = bundles.load(directory)
            weights.require_learned(bundle, directory)
            work = prepare(bundle, directory, **options)

            async def run() -> tuple[dict[str, Any], Callable[[], None]]:
                async with open_device(directory, device) as session:
                    found: tuple[dict[str, Any], Callable[[], None]] = await work(session)
                    return found

            result, show = asyncio.run(run())
            if as_json:
                click.echo(json.dumps({"device": device, **result}))
            else:
                show()

        return prepare

    return decorate


@weights_command(
    "pull",
    "Read the learned tensors into a file: .npz, integers as on the device; bundle.json has their scales.",
    "tlc weights pull digits --device /dev/ttyUSB0 --output learned.npz",
)
@click.option("--output", "target", required=True, type=click.Path(path_type=Path), metavar="FILE", help=".npz")
def weights_pull(bundle: Any, directory: Path, target: Path) -> Any:
    """``tlc weights pull``."""
    from tlc_host import weights

    weights.check_writable(target)

    async def work(session: Any) -> Any:
        arrays = await weights.pull(session, bundle, directory)
        weights.write_file(target, arrays)
        rows = [{"name": name, "shape": list(array.shape), "dtype": str(array.dtype)} for name, array in arrays.items()]
        return {"output": str(target), "tensors": rows}, lambda: click.echo(f"{len(rows)} tensors: {target}")

    return work


@weights_command(
    "push",
    "Replace learned tensors by those of a file: all, or some.",
    "tlc weights push digits --device /dev/ttyUSB0 --input learned.npz --save",
)
@click.option("--input", "source", required=True, type=click.Path(path_type=Path), metavar="FILE", help=".npz")
@click.option("--save", is_flag=True, help="Then into the device's journal, so that they outlive a reset.")
def weights_push(bundle: Any, directory: Path, source: Path, save: bool) -> Any:
    """``tlc weights push``."""
    from tlc_host import weights

    arrays = weights.read_file(source, bundle)

    async def work(session: Any) -> Any:
        if save:
            weights.require_journal(session)
        sent = await weights.push(session, bundle, directory, arrays)
        saved = await session.save() if save else False
        kept = "kept in its journal" if save else "until its next reset (--save keeps them)"
        text = f"{len(arrays)} tensors, {sent:,} bytes on the link; {kept}"
        return {"tensors": list(arrays), "bytes": sent, "saved": saved}, lambda: click.echo(text)

    return work


@weights_command(
    "diff",
    "Compare the learned tensors with the values they were compiled with, or with a file.",
    "tlc weights diff digits --device /dev/ttyUSB0",
    "tlc weights diff digits --against learned.npz --json",
)
@click.option("--against", type=click.Path(path_type=Path), metavar="FILE", help=".npz of `tlc weights pull`.")
def weights_diff(bundle: Any, directory: Path, against: Path | None) -> Any:
    """``tlc weights diff``."""
    from tlc_host import weights

    other = weights.read_file(against, bundle) if against else weights.initial_arrays(bundle, directory)

    async def work(session: Any) -> Any:
        rows = weights.differences(bundle, await weights.pull(session, bundle, directory), other)
        title = f"{session.name} against {against or 'the values it was compiled with'}, in steps of the integers"
        result = {"against": str(against) if against else None, "tensors": [row.to_json() for row in rows]}
        return result, lambda: tables.show_differences(title, rows)

    return work


@weights_command(
    "reset",
    "Go back to the values the device was compiled with, and erase its journal.",
    "tlc weights reset digits --device /dev/ttyUSB0",
)
def weights_reset(bundle: Any, directory: Path) -> Any:
    """``tlc weights reset``."""

    async def work(session: Any) -> Any:
        await session.reset_state()
        return {"reset": True}, lambda: click.echo("as compiled; the journal is empty")

    return work


@weights_command(
    "save",
    "Write what the device has learned into its journal, so that it outlives a reset.",
    "tlc weights save digits --device /dev/ttyUSB0",
)
def weights_save(bundle: Any, directory: Path) -> Any:
    """``tlc weights save``."""
    from tlc_host import weights

    async def work(session: Any) -> Any:
        weights.require_journal(session)
        saved = await session.save()
        return {"saved": saved}, lambda: click.echo("kept" if saved else "its journal holds that already")

    return work


@weights_command(
    "status",
    "Show what the device's journal holds, and how worn its flash is.",
    "tlc weights status digits --device /dev/ttyUSB0",
)
def weights_status(bundle: Any, directory: Path) -> Any:
    """``tlc weights status``."""
    from tlc_host import weights

    async def work(session: Any) -> Any:
        result = await weights.status(session)
        return result, lambda: tables.show_journal(session.name, result)

    return work


@cli.command(
    "bench",
    short_help="Count instructions, stack, RAM and flash in the emulator.",
    epilog=examples("tlc bench digits --layers"),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Count each layer by itself, too.")
@cut_option
@common
def bench_command(directory: Path, layers: bool, cut: str | None, as_json: bool) -> None:
    """Count instructions, stack, RAM and flash of DIR's firmware on its emulated board.

    Builds and boots it; needs a board whose emulator counts instructions (qemu-m4, qemu-m0, qemu-rv32). Instructions are
    not cycles, but repeat exactly.
    """
    import asyncio

    require("cobs")
    from tlc_host.bench import bench

    with progress(as_json) as say:
        say("building and running", 0, 1)
        result = asyncio.run(bench(directory, cut))
    if as_json:
        click.echo(json.dumps(result.to_json(layers=layers)))
    else:
        tables.show_bench(result, layers)


@cli.command("boards")
@common
def boards_command(as_json: bool) -> None:
    """List the boards."""
    from tlc import boards

    loaded = [boards.load(name) for name in boards.names()]
    if as_json:
        click.echo(json.dumps([board.model_dump(mode="json") for board in loaded]))
        return
    tables.show_boards(loaded)


class progress:
    """A line on stderr that says what is going on; silent with ``--json`` or where stderr is no terminal."""

    def __init__(self, silent: bool) -> None:
        self.silent = silent or not sys.stderr.isatty()

    def __enter__(self) -> Progress:
        return self.say

    def __exit__(self, *_: object) -> None:
        if not self.silent:
            click.echo("\r\033[K", nl=False, err=True)

    def say(self, what: str, done: int, total: int) -> None:
        """Shows a step and how far it got."""
        if not self.silent:
            part = f" {100 * done // total}%" if total > 1 else ""
            click.echo(f"\r\033[K{what}{part} ...", nl=False, err=True)


add_runs(cli, common, examples)
add_link(cli, common, examples, DEVICES)
add_boards(cli, common, examples)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point.

    Args:
        arguments: of the command line; None: this process's.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        cli(given or ["--help"], prog_name="tlc", standalone_mode=False)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "tlc"
        fail(f"{error.format_message().rstrip('.')}; see {command} --help", 2)
    except click.ClickException as error:
        fail(error.format_message(), 2)
    except (click.Abort, KeyboardInterrupt):
        fail("stopped", 130)


if __name__ == "__main__":
    main()
