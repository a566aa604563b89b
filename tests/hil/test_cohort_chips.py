# SPDX-License-Identifier: Apache-2.0
"""Chips of three architectures learn together over their UARTs: one with an FPU in float32, two without in integers. Round by round
and in both halves they do what their twins do, bit for bit."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hil_support import build

from tlc import bundle as bundles
from tlc.builder import Builder
from tlc.errors import BundleError
from tlc.frontends.onnx_writer import write_onnx
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.pipeline import Options, compile_model
from tlc_host.algorithms.base import RoundDone
from tlc_host.config import plan
from tlc_host.serve import Training, serve
from tlc_host.store import Store

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")
pytestmark = pytest.mark.hil

BOARDS = ("qemu-m4", "qemu-rv32", "qemu-xtensa")


def network(width: int) -> tuple[Any, str]:
    net = Builder("cohort", (1, 8, 8, 1), seed=5)
    cut = net.conv2d(width, 3, stride=2, activation=Activation.RELU)
    net.flatten()
    net.dense(6)
    net.softmax()
    return net.graph(), cut


def test_one_cohort_of_three_architectures(tmp_path: Path) -> None:
    graph, cut = network(4)
    built = [build(graph, board, tmp_path / board, cut=cut, train="full") for board in BOARDS]
    assert [one.bundle.learning.arithmetic for one in built] == ["float", "int", "int"]  # type: ignore[union-attr]
    first, *others = [one.directory for one in built]
    rng = np.random.default_rng(2)
    np.savez(tmp_path / "data.npz", x=rng.random((36, 1, 8, 8), np.float32), y=rng.integers(0, 6, 36))
    training = Training(
        tmp_path / "data.npz", plan({"algorithm": "edgesplit", "rounds": 2, "batches": 2, "batch": 2, "lr": 0.2})
    )

    def trained(name: str) -> tuple[list[float], bytes, list[Any], list[str]]:
        rounds: list[RoundDone] = []
        devices = [name, *(f"{name}@{other}" for other in others)]

        def watch(event: Any) -> None:
            if isinstance(event, RoundDone):
                rounds.append(event)

        asyncio.run(serve(first, devices, training=training, on_event=watch, once=True))
        assert [done.devices for done in rounds] == [tuple(devices)] * 2 and not any(done.left_out for done in rounds)
        with Store(first) as store:
            run = store.run()
            checkpoint = store.load_checkpoint(run.id)
            assert checkpoint is not None
            members = json.loads(checkpoint.parts["loop"])["cohort"]["members"]
            boards = {row["name"]: row["board"] for row in store.devices(run.id)}
        kept = [member["kept"] for member in members]
        return [done.loss for done in rounds], checkpoint.parts["server"], kept, [boards[name] for name in devices]

    chips, twins = trained("emulator"), trained("twin")
    assert chips[3] == list(BOARDS)
    assert chips[:3] == twins[:3]
    assert chips[2][0] == chips[2][1] == chips[2][2]  # the average, to all


def test_only_the_board_may_differ(tmp_path: Path) -> None:
    from tlc_host.serve import place_of

    np.save(tmp_path / "x.npy", np.random.default_rng(1).random((16, 1, 8, 8), np.float32))

    def compiled(name: str, width: int, **learning: Any) -> Path:
        graph, cut = network(width)
        (tmp_path / f"{name}.onnx").write_bytes(write_onnx(graph).SerializeToString())
        options = Options(tmp_path / f"{name}.onnx", "native", tmp_path / name, cut=cut, calib=tmp_path / "x.npy")
        compile_model(replace(options, train="full", learning=Learning(**learning)))
        return tmp_path / name

    one, other, heavy = compiled("one", 4), compiled("other", 5), compiled("heavy", 4, momentum=True)
    bundle = bundles.load(one)
    assert place_of("twin", one, bundle, None) == (one, bundle)
    assert place_of(f"twin@{one}", other, bundle, None) == (one, bundle)
    with pytest.raises(BundleError, match=r"its host_sha256 are not those of .*compile the same model"):
        place_of(f"twin@{other}", one, bundle, None)
    with pytest.raises(BundleError, match="it learns in another way"):
        place_of(f"twin@{heavy}", one, bundle, None)
