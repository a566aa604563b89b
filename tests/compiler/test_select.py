# SPDX-License-Identifier: Apache-2.0
"""``--train SPEC``."""

from __future__ import annotations

import pytest

from tlc.builder import Builder
from tlc.errors import UsageError
from tlc.graph import Graph
from tlc.ops.base import Activation
from tlc.passes.select import learnable, parse_spec


def net() -> Graph:
    """conv2d, depthwise_conv2d without a bias, dense."""
    builder = Builder("net", (1, 6, 6, 2))
    builder.conv2d(4, 3, activation=Activation.RELU)
    builder.depthwise_conv2d(3)
    builder.flatten()
    builder.dense(3)
    graph = builder.graph()
    graph.nodes[1].inputs.pop()
    return graph


ALL = {
    "conv2d_weight": "conv2d",
    "conv2d_bias": "conv2d",
    "depthwise_weight": "depthwise_conv2d",
    "dense_weight": "dense",
    "dense_bias": "dense",
}


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ("none", []),
        ("full", list(ALL)),
        ("last", ["dense_weight", "dense_bias"]),
        ("bias", ["conv2d_bias", "dense_bias"]),
        ("dense_bias", ["dense_bias"]),
        ("dense.bias", ["dense_bias"]),
        ("conv2d.*", ["conv2d_weight", "conv2d_bias"]),
        ("*_weight", ["conv2d_weight", "depthwise_weight", "dense_weight"]),
        ("last, conv2d.bias", ["conv2d_bias", "dense_weight", "dense_bias"]),
        ("d?nse.[bw]*", ["dense_weight", "dense_bias"]),
    ],
)
def test_names(spec: str, names: list[str]) -> None:
    found = parse_spec(net(), spec)
    assert list(found) == names  # in the graph's order, whatever the spec's
    assert found == {name: ALL[name] for name in names}


@pytest.mark.parametrize(
    ("spec", "tells"),
    [
        ("dence_bias", "'dense_bias'"),
        ("depthwise_conv2d.bias", "'depthwise_conv2d.weight'"),
        ("dens.*", "'dense"),
        ("zzzzzz", "the first names are 'conv2d_weight'"),
        ("none,last", "'none' stands alone"),
        ("last,,bias", "empty name"),
        ("", "empty name"),
        ("input", "names nothing"),
    ],
)
def test_wrong_names(spec: str, tells: str) -> None:
    with pytest.raises(UsageError, match="--train") as error:
        parse_spec(net(), spec)
    assert tells in str(error.value)


def test_nothing_to_learn() -> None:
    builder = Builder("pool", (1, 6, 6, 2))
    builder.max_pool2d(2)
    with pytest.raises(UsageError, match="no layer with weights"):
        parse_spec(builder.graph(), "full")
    assert parse_spec(builder.graph(), "none") == {}


def test_roles() -> None:
    assert learnable(net())["dense_bias"] == ("dense", "bias")
