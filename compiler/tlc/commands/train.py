# SPDX-License-Identifier: Apache-2.0
"""``tlc train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from tlc.commands.capture import capture_option
from tlc.commands.common import common, examples
from tlc.commands.options import cut_option, device_option, directory_argument
from tlc.commands.training import training_options, training_plan
from tlc.extras import require
from tlc.report import tables


@click.command(
    "train",
    short_help="Train a device and the host on a file of labelled samples.",
    epilog=examples(
        "tlc train digits --data rotated.npz",
        "tlc train digits --device emulator --data rotated.npz --batches 400 --lr 0.02 --save",
        "tlc run digits --trained --input x.npy --output y.npy",
    ),
)
@directory_argument
@device_option
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
@capture_option
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
