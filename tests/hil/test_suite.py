# SPDX-License-Identifier: Apache-2.0
"""The scenarios of ``tlc hil`` on every board that an emulator here can boot: one build a board, a model that fits 16 KiB.
Boards in Renode are skipped where there is none.

pytest -m hil tests/hil/test_suite.py --board qemu-m4 --emulator qemu
pytest -m hil tests/hil/test_suite.py --emulator renode --machines 4
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hil_support import ALL, RENODE, Built, build, running
from numpy.typing import NDArray

from command_line import refused, succeeds
from tlc import boards
from tlc.builder import Builder
from tlc.emulator_renode import HOW_TO_GET_IT, find_renode
from tlc.errors import BundleError, BundleMismatch, ToolchainError
from tlc.graph import Graph
from tlc.learning import Learning
from tlc.ops.base import Activation
from tlc.twin import Twin
from tlc_host.hil.matrix import matrix, why_not
from tlc_host.hil.report import run_hil
from tlc_host.hil.scenarios import SCENARIOS
from tlc_host.hil.target import NotHere, Target, image_of

pytestmark = pytest.mark.hil
PAGE = Path(__file__).parents[2] / "docs" / "hil.md"


def model() -> Graph:
    """Three convolutions, the last of which learns; then the host's part."""
    net = Builder("scenario", (1, 12, 12, 1), seed=3)
    net.conv2d(4, 3, stride=2, activation=Activation.RELU)
    net.depthwise_conv2d(3, activation=Activation.RELU)
    net.conv2d(6, 1)
    net.mean()
    net.dense(5)
    net.softmax()
    return net.graph()


@pytest.fixture(scope="module", params=[*ALL, *RENODE])
def split(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The model on a board; training in the arithmetic that is the board's default."""
    wanted, kind = request.config.getoption("--board"), request.config.getoption("--emulator")
    emulation = boards.load(request.param).emulator
    if (wanted and request.param not in wanted) or (kind and emulation is not None and emulation.kind != kind):
        pytest.skip("not asked for")
    if request.param in RENODE and find_renode() is None:
        pytest.skip(f"renode is not installed; {HOW_TO_GET_IT}")
    return build(model(), request.param, tmp_path_factory.mktemp("hil") / "split", cut="conv2d_1_out", train="last")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, split: Built, request: pytest.FixtureRequest) -> None:
    target = Target(split.directory, machines=request.config.getoption("--machines"))
    missing = why_not(split.board, scenario)
    if not missing:
        assert asyncio.run(SCENARIOS[scenario](target))  # type: ignore[arg-type]
    else:
        with pytest.raises(NotHere, match=missing):
            asyncio.run(SCENARIOS[scenario](target))  # type: ignore[arg-type]


def test_the_page_has_the_matrix() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert matrix() in page, "python -m tlc_host.hil.matrix prints the table of docs/hil.md"
    for name, scenario in SCENARIOS.items():
        assert f"| `{name}` | {' '.join((scenario.__doc__ or '').split())} |" in page


@pytest.mark.parametrize("split", ["native"], indirect=True)
def test_the_command(split: Built) -> None:
    done = succeeds("hil", split.directory, "--only", "greet", "--only", "counts")
    assert "passed  greet" in done.out and "skipped counts" in done.out and "1 of 2 passed" in done.out
    report = json.loads(succeeds("hil", split.directory, "--only", "inference", "--json").out)
    assert report["board"] == "native" and [each["outcome"] for each in report["outcomes"]] == ["passed"]
    refused(
        split.directory, 2, "hil", split.directory, "--only", "greeet", says=("no such scenario", "did you mean greet")
    )


@pytest.mark.parametrize("split", ["native"], indirect=True)
def test_a_device_that_computes_something_else_fails(split: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenarios are seen to fail: the twin is that of another device, by one learned byte and one output."""
    forward, params = Twin.forward, Twin.params
    monkeypatch.setattr(Twin, "forward", lambda self, *x: [out ^ np.int8(1) for out in forward(self, *x)])
    report = run_hil(split.directory, only=["inference", "noise"])
    assert [each.outcome for each in report.outcomes] == ["failed", "failed"] and not report.good
    assert "values of output 0 differ" in report.outcomes[0].detail
    monkeypatch.undo()

    def other(self: Twin) -> dict[str, NDArray[Any]]:
        found = {name: value.copy() for name, value in params(self).items()}
        next(iter(found.values())).flat[0] ^= 1
        return found

    monkeypatch.setattr(Twin, "params", other)
    (training,) = run_hil(split.directory, only=["training"]).outcomes
    assert training.outcome == "failed" and "values in flash" in training.detail


@pytest.mark.parametrize(
    "learning",
    [
        Learning("1"),
        Learning("1", "softmax-ce"),
        Learning("many", "softmax-ce", momentum=True),
        Learning("many", "mse"),
    ],
    ids=["at once", "at once from labels", "from labels", "from values"],
)
def test_every_way_to_learn(learning: Learning, tmp_path: Path) -> None:
    cut, train = ("conv2d_1_out", "last") if learning.loss == "none" else ("none", "last")
    net = model()
    if learning.loss == "mse":
        net.nodes.pop()  # no softmax
        net.outputs[:] = net.nodes[-1].outputs
    built = build(net, "native", tmp_path / "learner", cut=cut, train=train, learning=learning)
    report = run_hil(built.directory, only=["training", "reset", "noise"])
    assert [each.outcome for each in report.outcomes] == ["passed"] * 3, report.outcomes


@pytest.mark.parametrize("split", ["native"], indirect=True)
def test_a_wrong_bundle_is_refused(split: Built) -> None:
    other = dataclasses.replace(split, bundle=split.bundle.model_copy(update={"seed": 99}).sealed())
    assert other.hash != split.hash

    async def scenario() -> None:
        async with running(other):
            pass

    with pytest.raises(BundleMismatch) as caught:
        asyncio.run(scenario())
    assert split.bundle.hash in str(caught.value) and other.bundle.hash in str(caught.value)


@pytest.mark.parametrize("split", ["native"], indirect=True)
def test_a_project_of_another_board(split: Built, tmp_path: Path) -> None:
    other = tmp_path / "project"
    shutil.copytree(split.directory, other)
    shutil.copy(boards.path_of("qemu-m4"), other / "board.toml")
    with pytest.raises(BundleError, match=r"the bundle is for board 'native', but board.toml is of 'qemu-m4'"):
        Target(other)
    elf = other / ".pio" / "build" / "qemu-rv32" / "firmware.elf"
    elf.parent.mkdir(parents=True)
    elf.touch()
    with pytest.raises(ToolchainError, match=r"it was built for qemu-rv32, not for 'qemu-m4'"):
        image_of(other, boards.load("qemu-m4"))
