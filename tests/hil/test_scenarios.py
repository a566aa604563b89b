# SPDX-License-Identifier: Apache-2.0
"""A network that is not cut, on a board of every instruction set: what it computes is the reference's, bit for bit.

What every board goes through is in test_suite.py.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from hil_support import build, running
from numpy.typing import NDArray

from tlc.frontends.tflite import read_tflite
from tlc.reference import run_int8
from tlc.twin import Twin
from whole_model import whole_model

pytestmark = pytest.mark.hil


@pytest.mark.parametrize("name", ["native", "qemu-m0", "qemu-m4", "qemu-m55", "qemu-rv32", "qemu-xtensa"])
def test_uncut_inference_is_the_references(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    whole = build(whole_model(), name, tmp_path_factory.mktemp("hil") / "whole", cut="none")
    x = whole.inputs(12)

    async def scenario() -> NDArray[np.int8]:
        async with running(whole) as (session, _):
            return np.stack([(await session.infer(one)).outputs[0] for one in x])

    ours = asyncio.run(scenario())
    graph = read_tflite(whole.directory / "device.tflite")
    reference = run_int8(graph, {graph.inputs[0]: x.reshape(len(x), *graph[graph.inputs[0]].shape[1:])})
    np.testing.assert_array_equal(ours, reference[graph.outputs[0]].reshape(len(x), -1))
    np.testing.assert_array_equal(ours, Twin(whole.directory).forward(x)[0].reshape(len(x), -1))
    assert len(np.unique(ours)) > 5
