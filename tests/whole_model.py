# SPDX-License-Identifier: Apache-2.0
"""A small seeded model with every operator of the device."""

from __future__ import annotations

from tlc.builder import Builder
from tlc.graph import Graph
from tlc.ops import REGISTRY
from tlc.ops.base import Activation


def whole_model() -> Graph:
    """Every operator that the device knows, but those that canonicalization folds away; (1, 10, 8, 2) → 6 classes."""
    net = Builder("whole", (1, 10, 8, 2), seed=4)
    net.conv2d(8, 3, activation=Activation.RELU6)
    first = net.max_pool2d(2)
    net.depthwise_conv2d(3, activation=Activation.RELU)
    second = net.conv2d(8, (3, 1), groups=2)
    joined = net.node("add", [first, second], REGISTRY["add"].Attrs())
    gate = net.node("sub", [joined, first], REGISTRY["sub"].Attrs(activation=Activation.RELU))
    net.node("mul", [joined, gate], REGISTRY["mul"].Attrs())
    net.node("clamp", [net.last], REGISTRY["clamp"].Attrs(activation=Activation.RELU))
    net.node("transpose", [net.last], REGISTRY["transpose"].Attrs(perm=(0, 2, 1, 3)))
    net.node("pad", [net.last], REGISTRY["pad"].Attrs(pads=((0, 0), (1, 0), (0, 2), (0, 0))))
    net.node("average_pool2d", [net.last], REGISTRY["average_pool2d"].Attrs(kernel=(2, 2), strides=(1, 1)))
    net.mean()
    net.dense(6)
    net.softmax()
    return net.graph()
