# SPDX-License-Identifier: Apache-2.0
"""What ``benchmarks/exactness.py`` holds of published models, held of one made here: int8 bytes, float bounds, cuts."""

from __future__ import annotations

import copy
import dataclasses
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tlc.frontends.onnx_writer import write_onnx
from tlc.frontends.tflite_writer import write_tflite
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.passes.calibrate import calibrate
from tlc.passes.quantize import quantize
from tlc.reference import run_int8
from whole_model import whole_model

pytest.importorskip("tflite_micro.python.tflite_micro.runtime", reason="tflite-micro is not installed")
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import exactness
from rounding import layer_errors


@pytest.fixture(scope="module")
def real() -> Graph:
    return whole_model()


@pytest.fixture(scope="module")
def integer(real: Graph) -> Graph:
    x = np.random.default_rng(1).standard_normal((64, *real["input"].shape[1:])).astype(np.float32)
    return quantize(real, calibrate(real, {"input": x}))


@pytest.fixture(scope="module")
def onnx_file(real: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exactness") / "whole.onnx"
    onnx.save(write_onnx(real), path)
    return path


@pytest.fixture(scope="module")
def tflite_file(integer: Graph, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("exactness") / "whole_int8.tflite"
    path.write_bytes(write_tflite(integer))
    return path


def values(graph: Graph, samples: int = 40) -> dict[str, np.ndarray]:
    """Every activation for random inputs."""
    q = np.random.default_rng(2).integers(-128, 128, (samples, *graph["input"].shape[1:]), np.int8)
    return run_int8(graph, {"input": q}, [node.output for node in graph.nodes]) | {"input": q}


@pytest.mark.parametrize("stage", ["reference", "export", "twin"])
def test_int8_bytes_are_tflms(tflite_file: Path, stage: str) -> None:
    job = exactness.load(tflite_file, 100, seed=3)
    expected = exactness.interpret(tflite_file.read_bytes(), job)
    assert len(np.unique(expected[0])) > 30
    result = exactness.compare(stage, job, expected)
    assert result.holds and result.values == 600, str(result)
    wrong = [expected[0].copy()]
    wrong[0][7, 2] ^= 1
    assert exactness.compare(stage, job, wrong).different_values == 1


def test_a_float_model_is_within_its_rounding(onnx_file: Path) -> None:
    result = exactness.judge_float(onnx_file, None, 60, seed=4)
    assert result.holds and result.layer_values > 10_000, str(result)
    assert result.worst_used > 0.9  # the bound is no wider than it must be
    assert result.largest_difference < 0.2


def test_every_layer_is_within_its_rounding(real: Graph, integer: Graph) -> None:
    errors = layer_errors(real, integer, values(integer))
    assert {error.op for error in errors} == set(REGISTRY) - {"batch_norm", "opaque", "quantize", "reshape"}
    assert all(error.holds for error in errors), errors


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "dense", "add", "mul", "softmax", "mean", "max_pool2d"])
def test_a_step_too_far_is_seen(real: Graph, integer: Graph, op: str) -> None:
    activations = values(integer)
    node = next(node for node in integer.nodes if node.op == op)
    output = activations[node.output].copy()
    inner = np.argwhere((output > -100) & (output < 100))[0]
    output[tuple(inner)] += 2
    activations[node.output] = output
    beyond = [error.node for error in layer_errors(real, integer, activations) if not error.holds]
    assert node.name in beyond


@pytest.mark.parametrize("what", ["weight", "bias", "activation"])
def test_a_wrong_constant_is_seen(real: Graph, integer: Graph, what: str) -> None:
    wrong = copy.deepcopy(integer)
    node = wrong.nodes[0]
    if what == "activation":
        quant = wrong[node.output].quant
        assert quant
        wrong[node.output].quant = dataclasses.replace(quant, zero_point=quant.zero_point + 3)
    else:
        tensor = wrong[node.inputs[1 if what == "weight" else 2]]
        assert tensor.data is not None
        tensor.data = tensor.data.copy()
        tensor.data.ravel()[0] += 20 if what == "weight" else 2000
    if what == "activation":  # computed with the right one
        errors = layer_errors(real, wrong, values(integer))
    else:  # computed with the wrong constant, and said to be the right one
        errors = layer_errors(real, integer, values(wrong))
    assert not errors[0].holds


@pytest.mark.parametrize("kind", ["onnx", "tflite"])
def test_cuts_are_exact(onnx_file: Path, tflite_file: Path, kind: str) -> None:
    results = exactness.judge_cuts(onnx_file if kind == "onnx" else tflite_file, None, 10, seed=5, limit=3)
    assert len(results) == 3
    for result in results:
        assert result.holds, str(result)
