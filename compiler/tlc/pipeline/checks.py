# SPDX-License-Identifier: Apache-2.0
"""What does not go together is said before any work is done."""

from __future__ import annotations

import dataclasses

from tlc.boards import Board
from tlc.errors import DataError, UsageError
from tlc.extras import require
from tlc.passes.split import Cut
from tlc.pipeline.options import CHOSEN, Options


def check_cuts(options: Options) -> None:
    """What several cuts do not go with."""
    if not options.cuts:
        return
    where = f"--cuts {','.join(options.cuts)}"
    if options.cut != "auto":
        raise UsageError("and --cut are two answers to one question", where=where, remedy="leave --cut out")
    if options.tail is not None:
        raise UsageError(
            "the device goes on behind the host's part of one cut only",
            where=f"{where} --tail {options.tail}",
            remedy="give --cut with --tail, or leave --tail out",
        )
    if options.learning.scales == "static":
        raise UsageError(
            "static scales are found for the gradient at one cut",
            where=f"{where} --train-scales static",
            remedy="leave --train-scales out, or compile one --cut",
        )
    if options.aux_head:
        raise UsageError(
            "a head at the cut stands at one cut only",
            where=f"{where} --aux-head",
            remedy="give --cut with --aux-head, or leave --aux-head out",
        )
    if options.learning.loss != "none":
        raise UsageError(
            "the loss is where the network ends, and that is on the host",
            where=f"{where} --loss {options.learning.loss}",
            remedy="leave --loss to the host, or compile with --cut none",
        )


def check_training(options: Options) -> None:
    """What is missing for training is said before any work is done."""
    if options.train == "auto":
        if options.calib is None:
            raise DataError(
                "labelled samples are needed to choose what learns",
                where="--train auto",
                remedy="give --calib FILE.npz with x and y, or name what learns: --train SPEC",
            )
        require("tensorflow")
    if options.learning.scales == "static":
        if options.train == "none":
            raise UsageError("nothing learns", where="--train-scales static", remedy="add --train, or leave it out")
        if options.aux_head:
            raise UsageError(
                "with a head at the cut two gradients come together, whose scales have nothing to do with each other",
                where="--train-scales static",
                remedy="leave --aux-head or --train-scales out",
            )
        if options.calib is None:
            raise DataError(
                "labelled samples are needed to find the scales of gradients",
                where="--train-scales static",
                remedy="give --calib FILE.npz with x and y, or leave --train-scales out",
            )
    if options.train == "none" and (options.train_ram is not None or options.train_macs is not None):
        raise UsageError(
            "a budget for training, but nothing learns",
            where="--train-ram" if options.train_ram is not None else "--train-macs",
            remedy="add --train auto",
        )


def with_own_loss(options: Options) -> Options:
    """A head at the cut that learns has a loss."""
    if not options.aux_head or options.train == "none" or options.learning.loss != "none":
        return options
    return dataclasses.replace(options, learning=dataclasses.replace(options.learning, loss="softmax-ce"))


def with_arithmetic(options: Options, board: Board) -> Options:
    """With the arithmetic of the training settled."""
    learning, asked = options.learning, options.train_arithmetic
    if asked == "auto":
        asked = "float" if options.tail is not None or "fpu" in board.cpu.features else "int"
    if learning.scales == "static" and asked == "float":
        raise UsageError(
            "static scales are of gradients in integers, and these are float32",
            where="--train-scales static",
            remedy="add --train-arithmetic int, or leave --train-scales out",
        )
    return dataclasses.replace(options, learning=dataclasses.replace(learning, arithmetic=asked))


def check_loss(cut: Cut, options: Options) -> None:
    """What a loss on the device, a second part there and a head at the cut ask of the cut."""
    if cut.tail is not None:
        if options.aux_head:
            raise UsageError(
                "the device's second part ends the network: there is no use for a head at the cut",
                where=f"--tail {options.tail} --aux-head",
                remedy="leave one of them out",
            )
        _check_tail(options)
        return
    if options.aux_head:
        _check_aux_head(cut, options)
        return
    if options.learning.loss == "none":
        return
    if options.train == "none":
        raise UsageError(
            "a loss, but nothing learns", where=f"--loss {options.learning.loss}", remedy="add --train last"
        )
    if cut.tensor is not None:
        raise UsageError(
            f"the loss is where the network ends, and that is on the host: the device ends at '{cut.file_name}'",
            where=f"--loss {options.learning.loss}",
            remedy="add --cut none, or leave the loss to the host",
        )


def _check_aux_head(cut: Cut, options: Options) -> None:
    where = "--aux-head"
    if cut.tensor is None:
        raise UsageError(
            "the whole network is on the device: there is no cut for a head to be at",
            where=where,
            remedy="add --cut TENSOR (tlc plan lists them), or leave --aux-head out",
        )
    if options.learning.loss == "mse":
        raise UsageError(
            "the head's loss is softmax cross-entropy", where=f"{where} --loss mse", remedy="leave --loss out"
        )
    if options.train in CHOSEN or options.train_ram is not None or options.train_macs is not None:
        raise UsageError(
            "what learns beside a head is not chosen by cost",
            where=where,
            remedy="name what learns: --train full, or --train last for the head alone",
        )


def _check_tail(options: Options) -> None:
    where, learning = f"--tail {options.tail}", options.learning
    if options.train in CHOSEN or options.train_ram is not None or options.train_macs is not None:
        raise UsageError(
            "what learns of two parts is not chosen by cost",
            where=where,
            remedy="name what learns: --train full, or layers of both parts",
        )
    if (options.train == "none") != (learning.loss == "none"):
        raise UsageError(
            "the loss is where the network ends, on the device, and it takes a loss and something that learns",
            where=where,
            remedy="add --loss softmax-ce and --train full, or leave out both",
        )
    if learning.interleaved:
        raise UsageError(
            "two backward passes make a sample's gradient, so there are no updates inside them",
            where=f"{where} --train-batch 1",
            remedy="leave --train-batch out",
        )
    if learning.arithmetic == "int":
        raise UsageError(
            "the gradient between the parts travels as float32",
            where=f"{where} --train-arithmetic int",
            remedy="leave --train-arithmetic out",
        )
