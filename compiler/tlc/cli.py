# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command imports what it needs when it runs, so that ``tlc --help`` answers at once."""

from __future__ import annotations

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from tlc import __version__
from tlc.errors import TlcError
from tlc.extras import require
from tlc.report import tables

if TYPE_CHECKING:
    from tlc.boards import Board
    from tlc.pipeline import Progress

Command = Callable[..., Any]

DEVICES = (
    "twin (the generated C in this process), native (the firmware as a process of this machine), emulator (the board's own), "
    "/dev/tty..., or tcp://HOST:PORT."
)


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
                metavar="none|last|bias|full|SPEC",
                help="What learns on the device: nothing, the last layer with weights, every bias, everything, or a list of "
                "tensors: 'conv3.bias,fc.*'.",
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
        "tlc compile model_int8.tflite --board qemu-rv32 --cut none",
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
@click.option("--seed", type=int, default=0, show_default=True, help="Same files, same seed: same bytes.")
@common
def compile_command(
    model: Path,
    board: str,
    pack: Any,
    train: str,
    transport: str | None,
    shapes: tuple[tuple[str, tuple[int, ...]], ...],
    cut: str,
    calib: Path | None,
    out: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Compile MODEL (float ONNX, or int8 .tflite) for a board.

    Writes a PlatformIO project with the device's part in C, host.onnx with the rest, bundle.json, device.tflite and
    report.json.
    """
    from tlc.pipeline import Options, compile_model

    directory = out or Path("build") / f"{model.stem}-{Path(board).stem}"
    options = Options(model, board, directory, cut, calib, pack, train, transport, dict(shapes), seed)
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

    options = Options(model, board, Path(), pack=pack, train=train, transport=transport, shapes=dict(shapes))
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


@cli.command(
    "run",
    short_help="Run a file of samples through device and host.",
    epilog=examples(
        "tlc run digits --input x.npy --output y.npy",
        "tlc run digits --device emulator --input test.npz --output y.npz",
        "tlc run digits --device /dev/ttyUSB0 --input x_int8.npy --output smashed.npy --raw",
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
@common
def run_command(directory: Path, device: str, source: Path, target: Path, raw: bool, as_json: bool) -> None:
    """Run a file of samples through the device and the host.

    The leading axis is the samples, the rest the model's own input layout; float in and out.
    """
    import asyncio

    from tlc_host.run import run_file

    if device != "twin":
        require("cobs")
    with progress(as_json) as say:
        result = asyncio.run(run_file(directory, device, source, target, raw=raw, progress=say))
    if as_json:
        click.echo(json.dumps(result.to_json()))
    else:
        counted = f", {result.ticks:,} ticks each" if result.ticks else ""
        click.echo(f"{result.samples:,} samples on {device}{counted}: {result.output}")


@cli.command(
    "serve",
    short_help="Answer devices' samples, and train with them.",
    epilog=examples(
        "tlc serve digits --device /dev/ttyUSB0",
        "tlc serve digits --device tcp://192.168.1.42:7777 --device tcp://192.168.1.43:7777",
        "tlc serve digits --device emulator --train labelled.npz --batches 50 --once",
    ),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--device", "devices", multiple=True, default=("twin",), show_default=True, help=DEVICES + " May be repeated."
)
@click.option(
    "--train",
    "data",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Train on these first: .npz with x and y, or x_train and y_train. The project must be compiled with --train.",
)
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="Turns of every device.")
@click.option("--batches", type=click.IntRange(1), default=100, show_default=True, help="Optimizer steps in a turn.")
@click.option("--batch", type=click.IntRange(1), default=16, show_default=True, help="Samples in a step.")
@click.option("--lr", type=float, default=0.05, show_default=True, help="Learning rate of both halves.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the draws and the device's rounding.")
@click.option("--once", is_flag=True, help="End when the training is done, instead of serving on.")
@common
def serve_command(
    directory: Path,
    devices: tuple[str, ...],
    data: Path | None,
    rounds: int,
    batches: int,
    batch: int,
    lr: float,
    seed: int,
    once: bool,
    as_json: bool,
) -> None:
    """Serve devices: answer the samples that they take with the network's output.

    With --train the devices first learn, in turns, by vanilla split learning: the host takes its SGD step in TensorFlow and
    returns the gradient, the device takes its own on what --train of `tlc compile` named. Ends with Ctrl-C.
    """
    import asyncio

    require("cobs")
    from tlc_host.serve import Training, serve

    training = Training(data, rounds, batches, batch, lr, seed) if data else None
    history: list[dict[str, Any]] = []

    def on_batch(done: Any) -> None:
        row = {"step": done.step, "device": done.device, "loss": done.loss, "accuracy": done.accuracy}
        history.append(row)
        if not as_json:
            click.echo(f"step {done.step:5}  device {done.device}  loss {done.loss:.4f}  accuracy {done.accuracy:.0%}")

    def say(text: str) -> None:
        click.echo(text, err=True)

    asyncio.run(serve(directory, devices, training=training, say=say, on_batch=on_batch, once=once))
    if as_json:
        click.echo(json.dumps({"devices": list(devices), "steps": history}))


@cli.command(
    "bench",
    short_help="Count instructions, stack, RAM and flash in the emulator.",
    epilog=examples("tlc bench digits --layers"),
)
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--layers", is_flag=True, help="Count each layer by itself, too.")
@common
def bench_command(directory: Path, layers: bool, as_json: bool) -> None:
    """Count instructions, stack, RAM and flash of DIR's firmware on its emulated board.

    Builds and boots it; needs a board whose emulator counts instructions (qemu-m4, qemu-m0, qemu-rv32). Instructions are
    not cycles, but repeat exactly.
    """
    import asyncio

    require("cobs")
    from tlc_host.bench import bench

    with progress(as_json) as say:
        say("building and running", 0, 1)
        result = asyncio.run(bench(directory))
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
