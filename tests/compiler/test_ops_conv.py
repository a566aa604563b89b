# SPDX-License-Identifier: Apache-2.0
"""Convolutions, dense layers, pools and means: NumPy form = C kernel, float form = NumPy, rules, shapes."""

from __future__ import annotations

import numpy as np
import pytest
from ckernel import Case, run_c
from opcases import SWEEPS, layer, plain

from tlc.ops import REGISTRY


@pytest.mark.parametrize("op", SWEEPS)
def test_c_equals_numpy(op: str) -> None:
    cases = SWEEPS[op](20, 150)
    for case, y in zip(cases, run_c(cases), strict=True):
        np.testing.assert_array_equal(y, case.reference(), err_msg=f"{case.node.attrs} {case.graph['x'].shape}")
