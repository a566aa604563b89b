# SPDX-License-Identifier: Apache-2.0
"""``tlc serve``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tlc.commands.capture import capture_option
from tlc.commands.common import common, examples
from tlc.commands.options import DEVICES, cut_option, directory_argument, exit_option
from tlc.commands.training import training_options, training_plan
from tlc.extras import require
from tlc.report import tables


@click.command(
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
@directory_argument
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
@capture_option
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
