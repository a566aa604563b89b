# SPDX-License-Identifier: Apache-2.0
"""Arguments and options of several commands."""

from __future__ import annotations

from pathlib import Path

import click

from tlc.commands.common import Command
from tlc.commands.types import Bytes, Patches, Shape

DEVICES = (
    "twin (the generated C in this process), native (the firmware as a process of this machine), emulator (the board's own), "
    "/dev/tty..., tcp://HOST:PORT, or listen://HOST:PORT (the device calls us there)."
)

directory_argument = click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))

device_option = click.option("--device", default="twin", show_default=True, help=DEVICES)

cut_option = click.option(
    "--cut",
    metavar="TENSOR",
    help="Of a project compiled with --cuts: where the device's part ends.  [default: the first of them]",
)

exit_option = click.option(
    "--exit",
    type=click.FloatRange(0, 1),
    metavar="P",
    help="Early exit, with a project compiled with --aux-head: where the device's own head gives a class a probability above P, that "
    "is the answer and nothing is sent to the host. 0: always, 1: never.",
)


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
