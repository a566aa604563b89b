# SPDX-License-Identifier: Apache-2.0
"""The command line. Each command imports what it needs when it runs, so that ``tlc --help`` answers at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from tlc import __version__
from tlc.commands.bench import bench_command
from tlc.commands.boards import boards_command
from tlc.commands.common import examples, fail
from tlc.commands.compile import compile_command
from tlc.commands.config import config_command
from tlc.commands.fleet import fleet_command
from tlc.commands.hil import hil_command
from tlc.commands.link import link_command
from tlc.commands.monitor import monitor_command
from tlc.commands.plan import plan_command
from tlc.commands.run import run_command
from tlc.commands.runs import runs
from tlc.commands.serve import serve_command
from tlc.commands.size import size_command
from tlc.commands.symbolize import symbolize_command
from tlc.commands.train import train_command
from tlc.commands.weights import weights_group


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


for command in (
    bench_command,
    boards_command,
    compile_command,
    config_command,
    fleet_command,
    hil_command,
    link_command,
    monitor_command,
    plan_command,
    run_command,
    runs,
    serve_command,
    size_command,
    symbolize_command,
    train_command,
    weights_group,
):
    cli.add_command(command)


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
