# SPDX-License-Identifier: Apache-2.0
"""Small nets of 8 × 8 × 1 images in 10 classes that together hold every operator and form that has a gradient."""

from __future__ import annotations

from collections.abc import Callable

from train_twin import RELU, attrs, constant

from tlc.builder import Builder
from tlc.ops.base import Activation

SHAPE = (8, 8, 1)


def conv_last() -> Builder:
    """A strided, padded convolution, a max-pool with overlaps, average-pool, reshape."""
    net = Builder("conv_last", (1, *SHAPE))
    net.conv2d(6, 3, activation=RELU)
    net.conv2d(10, 3, stride=2, activation=RELU)
    net.node("max_pool2d", [net.last], attrs("max_pool2d", kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1)))
    net.node("average_pool2d", [net.last], attrs("average_pool2d", kernel=(3, 2), strides=(2, 2), pads=(1, 0, 1, 1)))
    net.flatten()
    return net


def dilated_groups() -> Builder:
    """Groups, dilation, uneven kernel, strides and pads; ReLU6, a clamp of its own, the mean."""
    net = Builder("dilated_groups", (1, *SHAPE), seed=1)
    net.conv2d(8, 3, activation=Activation.RELU6)
    weight = net._constant("w", (12, 3, 2, 4), 24)
    options = attrs("conv2d", strides=(2, 1), dilations=(1, 2), pads=(2, 0, 1, 3), groups=2)
    net.node("conv2d", [net.last, weight, net._zeros("b", 12)], options)
    net.node("clamp", [net.last], attrs("clamp", activation=RELU))
    net.mean()
    net.dense(10)
    return net


def depthwise() -> Builder:
    """Depthwise with and without a multiplier, strided, dilated; a layer without a bias."""
    net = Builder("depthwise", (1, *SHAPE), seed=2)
    net.conv2d(5, 3, activation=RELU)
    net.depthwise_conv2d(3, stride=2, activation=RELU)
    weight = net._constant("w", (1, 2, 3, 15), 6)
    net.node("depthwise_conv2d", [net.last, weight], attrs("depthwise_conv2d", dilations=(2, 1), pads=(1, 1, 1, 1)))
    net.conv2d(8, 1, activation=Activation.RELU_N1_TO_1)
    net.flatten()
    net.dense(10)
    return net


def residual() -> Builder:
    """Two branches that meet again in an addition, and one in a subtraction."""
    net = Builder("residual", (1, *SHAPE), seed=3)
    first = net.conv2d(8, 3, stride=2, activation=RELU)
    net.conv2d(8, 3, activation=RELU)
    second = net.conv2d(8, 1)
    third = net.node("add", [first, second], attrs("add", activation=RELU))
    net.conv2d(8, 3)
    net.node("sub", [third, net.last], attrs("sub"))
    net.node("add", [net.last, net.last], attrs("add", activation=RELU))
    net.mean()
    net.dense(10)
    return net


def squeeze_excite() -> Builder:
    """A gate of its own per channel, broadcast; constants added, subtracted, multiplied."""
    net = Builder("squeeze_excite", (1, *SHAPE), seed=4)
    net.conv2d(8, 3, stride=2, activation=RELU)
    image = net.last
    net.node("mean", [image], attrs("mean", axes=(1, 2), keep_dims=True))
    net.conv2d(8, 1)
    net.node("mul", [net.last, constant(net, "half", (8,), 0.3, 0.7)], attrs("mul"))
    gate = net.node(
        "add", [net.last, constant(net, "offset", (1, 1, 1, 8), 0.4, 0.8)], attrs("add", activation=Activation.RELU6)
    )
    net.node("mul", [gate, image], attrs("mul"))
    net.node("sub", [constant(net, "from", (4, 1, 8), 0.5, 1.5), net.last], attrs("sub"))
    net.node("mul", [net.last, net.last], attrs("mul"))
    net.flatten()
    net.dense(10)
    return net


def moves() -> Builder:
    """Transposition, pads, reshapes, a dense layer on rows, means over several runs, the softmax."""
    net = Builder("moves", (1, *SHAPE), seed=5)
    net.conv2d(6, 3, same=False, activation=RELU)
    net.node("transpose", [net.last], attrs("transpose", perm=(0, 3, 1, 2)))
    net.node("pad", [net.last], attrs("pad", pads=((0, 0), (1, 0), (0, 2), (1, 1))))
    net.dense(8, activation=RELU)
    net.node("reshape", [net.last], attrs("reshape", shape=(1, 7, 8, 4, 2)))
    net.node("mean", [net.last], attrs("mean", axes=(2, 4)))
    net.flatten()
    net.dense(10)
    net.softmax()
    return net


def shared() -> Builder:
    """An activation with several readers, two of which are reshapes; the layers' outputs quantized anew."""
    net = Builder("shared", (1, *SHAPE), seed=6)
    image = net.conv2d(4, 3, stride=2, activation=RELU)
    one = net.node("reshape", [image], attrs("reshape", shape=(1, 64)))
    net.dense(10)
    left = net.last
    net.node("reshape", [image], attrs("reshape", shape=(1, 4, 16)))
    net.node("mean", [net.last], attrs("mean", axes=(1,)))
    net.dense(10)
    net.node("add", [left, net.last], attrs("add"))
    right = net.node("quantize", [net.last], attrs("quantize"))
    net.last = one
    net.dense(10)
    net.node("sub", [right, net.last], attrs("sub"))
    return net


NETS: dict[str, Callable[[], Builder]] = {
    make.__name__: make for make in (conv_last, dilated_groups, depthwise, residual, squeeze_excite, moves, shared)
}
