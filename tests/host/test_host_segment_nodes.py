# SPDX-License-Identifier: Apache-2.0
"""The host segment's operators against the ONNX project's own test cases for single operators."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tlc.errors import UnsupportedOperator

pytest.importorskip("tensorflow", reason="the host segment trains in TensorFlow: pip install 'tlc[train]'")

KINDS = {np.dtype(kind) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_, np.int8, np.uint8)}
REFUSED = {
    "test_gru_batchwise", "test_lstm_batchwise", "test_lstm_with_peepholes", "test_simple_rnn_batchwise",
    "test_maxpool_2d_uint8", "test_maxpool_with_argmax_2d_precomputed_pads",
    "test_maxpool_with_argmax_2d_precomputed_strides", "test_resize_tf_crop_and_resize",
    "test_resize_tf_crop_and_resize_extrapolation_value", "test_resize_tf_crop_and_resize_axes_2_3",
    "test_resize_tf_crop_and_resize_axes_3_2", "test_resize_downsample_scales_linear_antialias",
    "test_resize_downsample_sizes_linear_antialias", "test_resize_downsample_scales_cubic_antialias",
    "test_resize_downsample_sizes_cubic_antialias",
}  # fmt: skip
"""By name, with where and what to do."""
OTHERWISE = {
    # Random: which values fall is each implementation's own.
    "test_training_dropout", "test_training_dropout_default", "test_training_dropout_default_mask",
    "test_training_dropout_mask",
    # ONNX Runtime, which this must equal, takes the whole size of the output here, as PyTorch does; ONNX n · scale.
    "test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners",
}  # fmt: skip


def cases() -> dict[str, Any]:
    """Every case whose operators are in the table and whose values are of types that a segment holds."""
    from onnx.backend.test.loader import load_model_tests

    from tlc_host.model.ops import OPERATORS

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = load_model_tests(kind="node")
    result = {}
    for case in found:
        nodes = case.model.graph.node
        known = all(node.op_type in OPERATORS and not node.domain for node in nodes)
        values = [value for side in case.data_sets[0] for value in side]
        if known and all(getattr(value, "dtype", None) in KINDS for value in values):
            result[case.name] = case
    return result


def run(case: Any) -> list[tuple[np.ndarray, np.ndarray]]:
    """Ours and the expected, output by output. Lone numbers and scales are constants, as they are in real models."""
    import tensorflow as tf

    from tlc_host.model.module import OnnxModule

    module = OnnxModule(case.model.SerializeToString())
    given, expected = case.data_sets[0]
    inputs = {}
    for value, array in zip(case.model.graph.input, given, strict=False):
        array = np.asarray(array)
        is_static = array.dtype.kind != "f" or not array.ndim or value.name in ("scales", "roi")
        inputs[value.name] = array if is_static else tf.constant(array)
    outputs = module(inputs)
    return [(np.asarray(outputs[name]), e) for name, e in zip(module.outputs, expected, strict=True)]


def test_every_case_of_a_claimed_operator() -> None:
    """860 and more cases, the same within each case's own tolerance; what cannot be trained is refused by name."""
    same, refused = 0, set()
    for name, case in cases().items():
        if name in OTHERWISE:
            continue
        try:
            pairs = run(case)
        except UnsupportedOperator as error:
            assert error.where and error.remedy
            assert case.model.graph.node[0].op_type in error.rule
            refused.add(name)
            continue
        for ours, expected in pairs:
            assert ours.shape == expected.shape, name
            np.testing.assert_allclose(ours, expected, rtol=case.rtol, atol=max(case.atol, 1e-6), err_msg=name)
        same += 1
    assert refused == REFUSED
    assert same >= 860


def test_the_common_operators_are_claimed() -> None:
    """What PyTorch and Keras export for convolutional, dense, recurrent and attention networks."""
    from tlc_host.model.ops import OPERATORS

    common = """Conv ConvTranspose Gemm MatMul BatchNormalization LayerNormalization InstanceNormalization GroupNormalization Relu
        LeakyRelu PRelu Sigmoid Tanh Gelu Erf HardSwish HardSigmoid Clip Elu Selu Softplus MaxPool AveragePool GlobalAveragePool
        GlobalMaxPool Concat Split Slice Pad Resize Upsample Softmax LogSoftmax ReduceMean ReduceSum ReduceMax ReduceMin ReduceL2
        Add Sub Mul Div Pow Sqrt Exp Log Transpose Reshape Flatten Squeeze Unsqueeze Dropout Identity LSTM GRU RNN Gather Expand
        Where Cast Shape Constant ConstantOfShape Einsum DepthToSpace SpaceToDepth"""
    assert set(common.split()) <= set(OPERATORS)


def test_the_page_lists_every_operator() -> None:
    from tlc_host.model.ops import OPERATORS

    page = (Path(__file__).parents[2] / "docs" / "host.md").read_text(encoding="utf-8")
    section = page.split("## Operators")[1].split("\n\n")[2]
    assert re.findall(r"`(\w+)`", section) == sorted(OPERATORS)
    assert f"[{len(OPERATORS)} operators]" in (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
