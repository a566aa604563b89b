# SPDX-License-Identifier: Apache-2.0
"""The executor of integer graphs; the operators' arithmetic has tests of its own."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tflite_files import Network, all_operators

import tlc.reference
from tlc.errors import DataError
from tlc.reference import run_int8


def images(count: int) -> NDArray[np.int8]:
    return np.random.default_rng(0).integers(-128, 128, (count, 11, 10, 4)).astype(np.int8)


def test_samples_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = all_operators(), images(7)
    (name,) = graph.outputs
    together = run_int8(graph, {"image": x})[name]
    assert together.shape == (7, 10) and together.dtype == np.int8
    monkeypatch.setattr(tlc.reference, "_CHUNK_BYTES", 2 * 11 * 10 * 16)  # a few samples at once
    np.testing.assert_array_equal(run_int8(graph, {"image": x})[name], together)
    alone = np.concatenate([run_int8(graph, {"image": x[i : i + 1]})[name] for i in range(7)])
    np.testing.assert_array_equal(alone, together)


def test_any_activation_can_be_asked_for() -> None:
    graph, x = all_operators(), images(3)
    wanted = ["image", graph.nodes[3].output, graph.outputs[0]]
    values = run_int8(graph, {"image": x}, wanted)
    assert list(values) == wanted
    np.testing.assert_array_equal(values["image"], x)
    for name in wanted:
        assert values[name].shape == (3, *graph[name].shape[1:])
    np.testing.assert_array_equal(values[wanted[2]], run_int8(graph, {"image": x})[wanted[2]])


def test_no_samples() -> None:
    graph = all_operators()
    assert run_int8(graph, {"image": images(0)})[graph.outputs[0]].shape == (0, 10)


def test_inputs_that_do_not_fit() -> None:
    graph, x = all_operators(), images(2)
    with pytest.raises(DataError, match="input 'image': every input must have an array"):
        run_int8(graph, {})
    with pytest.raises(DataError, match=r"int8 of shape \[samples, 11, 10, 4\], but it is float64"):
        run_int8(graph, {"image": x.astype(np.float64)})
    with pytest.raises(DataError, match=r"but it is int8 of shape \[2, 11, 10\]"):
        run_int8(graph, {"image": x[..., 0]})
    net = Network(0)
    y = net.node("add", [net.input("a", 1, 3), net.input("b", 1, 3)])
    with pytest.raises(DataError, match=r"as many samples, but they have \[1, 2\]"):
        run_int8(net.done(y), {"a": np.zeros((1, 3), np.int8), "b": np.zeros((2, 3), np.int8)})
