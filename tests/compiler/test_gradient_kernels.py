# SPDX-License-Identifier: Apache-2.0
"""Each gradient kernel in C equals the operator's NumPy form bit for bit, over the forward kernels' sweeps."""

from __future__ import annotations

import numpy as np
import pytest
from ckernel import Case
from elementwise_cases import CASES, cases
from gradkernel import reference, run_gradients, shapes
from opcases import SWEEPS, layer

from tlc.ops import REGISTRY
from tlc.ops.training import exp_f32


def sweep(op: str, count: int) -> list[Case]:
    if op == "wide":
        return wide(count // 2)
    return cases(op, count, seed=2) if op in CASES else SWEEPS[op](2, count)


def wide(count: int) -> list[Case]:
    """Convolutions with enough channels for the forms that take 4 or 8 at a time, and some over; pointwise or not."""
    rng = np.random.default_rng(3)
    chosen = []
    for number in range(count):
        groups, kernel = 1 + number % 2, (1, 3)[number // 2 % 2]
        channels, outputs = groups * int(rng.choice([4, 8, 11, 16])), groups * int(rng.choice([4, 7, 8]))
        strides, size = (int(rng.integers(1, 3)), int(rng.integers(1, 3))), (int(rng.integers(3, 7)), 5)
        attrs = REGISTRY["conv2d"].Attrs(strides=strides, pads=(kernel // 2,) * 4, groups=groups)
        chosen.append(layer(rng, "conv2d", attrs, (1, *size, channels), (outputs, kernel, kernel, channels // groups)))
    return chosen


def everything(case: Case) -> frozenset[int]:
    """The inputs that have a gradient: activations, and the weights and biases of layers."""
    layer = REGISTRY[case.node.op].weight_axis(case.node) is not None
    names = case.node.inputs
    return frozenset(i for i, name in enumerate(names) if layer or case.graph[name].data is None)


@pytest.mark.parametrize("add", [False, True], ids=["set", "add"])
@pytest.mark.parametrize("op", [*CASES, *SWEEPS, "wide"])
def test_c_equals_numpy(op: str, add: bool) -> None:
    rng = np.random.default_rng([add, *op.encode()])
    chosen = sweep(op, 60)
    wanted = [everything(case) for case in chosen]
    dys, starts = [], []
    for case, indices in zip(chosen, wanted, strict=True):
        shape = case.graph[case.node.output].shape
        dys.append((rng.standard_normal(shape) * (rng.random(shape) < 0.7)).astype(np.float32))
        # Accumulators are always added to, activations' gradients where they have another reader.
        starts.append(
            {
                i: rng.standard_normal(size).astype(np.float32)
                for i, size in shapes(case, indices).items()
                if add or case.graph[case.node.inputs[i]].data is not None
            }
        )
    for case, indices, dy, start, ours in zip(
        chosen, wanted, dys, starts, run_gradients(chosen, wanted, dys, starts), strict=True
    ):
        for index, expected in reference(case, indices, dy, start).items():
            np.testing.assert_array_equal(ours[index], expected, err_msg=f"{case.node.attrs}, input {index}")


def test_exp() -> None:
    x = np.concatenate([-np.logspace(-8, 2, 20000), [0.0, -87.0, -87.01, -1e30]]).astype(np.float32)
    y, exact = exp_f32(x), np.exp(x.astype(np.float64))
    near = x >= -87
    assert np.max(np.abs(y[near] / exact[near] - 1)) < 3e-7
    assert np.all(y[~near] == 0)
