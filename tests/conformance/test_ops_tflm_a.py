# SPDX-License-Identifier: Apache-2.0
"""Convolutions, dense layers, pools and means: NumPy form = TFLM's reference kernels, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from ckernel import Case
from numpy.typing import NDArray
from opcases import SWEEPS, TIES, tie_case

from tlc.errors import UnsupportedOperator
from tlc.frontends.tflite_writer import write_tflite

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")


def tflm(case: Case) -> NDArray[np.int8]:
    """What the interpreter gives for a file of this one node."""
    interpreter = runtime.Interpreter.from_bytes(write_tflite(case.graph))
    outputs = []
    for sample in case.inputs[0]:
        interpreter.set_input(sample[None], 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).copy().reshape(case.graph["y"].shape[1:]))
    return np.stack(outputs)


@pytest.mark.parametrize("op", SWEEPS)
def test_tflm_equals_numpy(op: str) -> None:
    compared = 0
    for case in SWEEPS[op](21, 150):
        try:
            expected = tflm(case)
        except UnsupportedOperator:  # padding that TFLite cannot say
            continue
        message = f"{case.node.attrs} {case.graph['x'].shape}"
        np.testing.assert_array_equal(case.reference(), expected, err_msg=message)
        compared += 1
    assert compared >= 60


@pytest.mark.parametrize(("op", "multiplier"), TIES)
def test_rounding_at_every_boundary(op: str, multiplier: float) -> None:
    case = tie_case(op, multiplier)
    np.testing.assert_array_equal(case.reference(), tflm(case))
