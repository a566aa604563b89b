# SPDX-License-Identifier: Apache-2.0
"""Networks as exporters write them, each with the operators that must be left of it after canonicalization."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from onnx_models import Builder


@dataclass(frozen=True)
class Network:
    """A model of one input."""

    model: bytes
    shape: tuple[int, ...]
    operators: str


def keras_image() -> Network:
    """tf2onnx: NHWC input, a transpose, NCHW throughout, a transpose before the flatten."""
    b = Builder((1, 8, 8, 3))
    t = b.node("Transpose", ["x"], perm=[0, 3, 1, 2])
    t = b.node("Relu", [b.conv(t, 4, 3, 3, 3, pads=[1, 1, 1, 1])])
    t = b.node("MaxPool", [t], kernel_shape=[2, 2], strides=[2, 2])
    t = b.node("Transpose", [t], perm=[0, 2, 3, 1])
    t = b.node("Reshape", [t, b.constant(np.array([1, 64]))])
    t = b.node("Add", [b.node("MatMul", [t, b.random(64, 5)]), b.random(5)])
    b.node("Softmax", [t], "y")
    return Network(b.model("y"), (1, 8, 8, 3), "conv2d max_pool2d reshape dense softmax")


def torch_image() -> Network:
    """PyTorch: NCHW input, batch normalization, flatten without a transpose, a ReLU behind it."""
    b = Builder(("batch", 3, 8, 8))
    t = b.node("Relu", [b.batch_norm(b.conv("x", 4, 3, 3, 3, strides=[2, 2], pads=[1, 1, 1, 1], bias=False), 4)])
    t = b.node("Relu", [b.node("Flatten", [b.conv(t, 6, 4, 3, 3)])])
    b.node("Gemm", [t, b.random(5, 24), b.random(5)], "y", transB=1)
    return Network(b.model("y"), (1, 3, 8, 8), "conv2d conv2d reshape dense")


def torch_view() -> Network:
    """PyTorch's x.view(x.size(0), -1): the shape is computed in the graph, and so is a transposed weight."""
    b = Builder(("batch", 2, 5, 5))
    t = b.conv("x", 4, 2, 3, 3)
    size = b.node("Gather", [b.node("Shape", [t]), b.constant(np.array(0))])
    size = b.node("Unsqueeze", [size, b.constant(np.array([0]))])
    t = b.node("Reshape", [t, b.node("Concat", [size, b.constant(np.array([-1]))], axis=0)])
    b.node("MatMul", [t, b.node("Transpose", [b.random(3, 36)])], "y")
    return Network(b.model("y"), (1, 2, 5, 5), "conv2d reshape dense")


def residual() -> Network:
    """The network's NCHW input is added to a convolution of it."""
    b = Builder((1, 4, 6, 6))
    t = b.node("Relu", [b.node("Add", [b.conv("x", 4, 4, 3, 3, pads=[1, 1, 1, 1]), "x"])])
    u = b.node("Add", [t, b.conv(t, 4, 4, 3, 3, auto_pad="SAME_UPPER")])
    t = b.node("GlobalAveragePool", [u])
    b.node("Gemm", [b.node("Flatten", [t]), b.random(4, 3)], "y")
    return Network(b.model("y"), (1, 4, 6, 6), "conv2d add conv2d add mean reshape dense")


def squeeze_excite() -> Network:
    """A gate per channel from the global mean, clipped."""
    b = Builder((1, 3, 6, 6))
    t = b.node("Clip", [b.conv("x", 4, 3, 3, 3), b.constant(np.float32(0)), b.constant(np.float32(6))])
    g = b.node("ReduceMean", [t], axes=[2, 3], keepdims=0)
    g = b.node("Relu", [b.node("Gemm", [g, b.random(4, 4), b.random(4)])])
    g = b.node("Unsqueeze", [g, b.constant(np.array([2, 3]))])
    t = b.node("Mul", [t, g])
    b.conv(t, 2, 4, 1, 1)
    return Network(b.model(b.nodes[-1].output[0]), (1, 3, 6, 6), "conv2d mean dense reshape mul conv2d")


def torch_series() -> Network:
    """PyTorch: 1-D convolutions on (N, C, W), one depthwise, padded beforehand; the mean over time by ReduceMean."""
    b = Builder((1, 3, 20))
    t = b.node("Pad", ["x", b.constant(np.array([0, 0, 2, 0, 0, 1]))])
    t = b.node("Relu", [b.batch_norm(b.conv(t, 6, 3, 4), 6)])
    t = b.node("MaxPool", [t], kernel_shape=[3], strides=[2], pads=[1, 1])
    t = b.node("Relu", [b.conv(t, 6, 6, 3, group=6, dilations=[2])])
    t = b.node("AveragePool", [t], kernel_shape=[2], strides=[2])
    t = b.node("ReduceMean", [t], axes=[-1], keepdims=0)
    b.node("Gemm", [t, b.random(6, 3), b.random(3)], "y")
    return Network(
        b.model("y"), (1, 3, 20), "reshape conv2d max_pool2d depthwise_conv2d average_pool2d reshape mean dense"
    )


def keras_series() -> Network:
    """tf2onnx: 1-D convolutions as 2-D ones, the bias added after a squeeze, an unsqueeze before the next."""
    b = Builder((1, 16, 3))
    axis1, axis2 = b.constant(np.array([1])), b.constant(np.array([2]))
    t = b.node("Transpose", [b.node("Unsqueeze", ["x", axis1])], perm=[0, 3, 1, 2])
    t = b.node("Squeeze", [b.conv(t, 4, 3, 1, 5, bias=False, pads=[0, 2, 0, 2]), axis2])
    t = b.node("Relu", [b.node("Add", [t, b.random(1, 4, 1)])])
    t = b.node("MaxPool", [b.node("Unsqueeze", [t, axis2])], kernel_shape=[1, 2], strides=[1, 2])
    t = b.node("Squeeze", [b.conv(t, 4, 4, 1, 3), axis2])
    t = b.node("Squeeze", [b.node("GlobalAveragePool", [t]), axis2])
    b.node("Gemm", [t, b.random(4, 3)], "y")
    return Network(b.model("y"), (1, 16, 3), "reshape conv2d max_pool2d conv2d reshape mean reshape dense")


def normalised_features() -> Network:
    """Mean and deviation per feature at the input, before a padded convolution."""
    b = Builder((1, 9, 4, 1))
    t = b.node("Sub", ["x", b.random(1, 1, 4, 1)])
    t = b.node("Mul", [t, b.random(1, 1, 4, 1)])
    t = b.node("Reshape", [t, b.constant(np.array([1, 1, 9, 4]))])
    b.node("Relu", [b.conv(t, 3, 1, 3, 3, pads=[1, 1, 1, 1])], "y")
    return Network(b.model("y"), (1, 9, 4, 1), "reshape depthwise_conv2d reshape conv2d")


def normalised_channels() -> Network:
    """Mean and deviation per channel before a padded convolution: the mean does not fit into it."""
    b = Builder((1, 3, 6, 6))
    t = b.node("Sub", ["x", b.random(3, 1, 1)])
    t = b.node("Div", [t, b.constant(np.array([0.2, 0.3, 0.25]).reshape(3, 1, 1))])
    b.conv(t, 3, 3, 3, 3, pads=[1, 1, 1, 1])
    return Network(b.model(b.nodes[-1].output[0]), (1, 3, 6, 6), "depthwise_conv2d conv2d")


def scaled() -> Network:
    """Pixels / 127.5 − 1 before a convolution without padding, and pixels / 255 before a dense layer."""
    b = Builder((1, 3, 6, 6))
    t = b.node("Sub", [b.node("Div", ["x", b.constant(np.float32(127.5))]), b.constant(np.float32(1))])
    t = b.node("Relu", [b.conv(t, 4, 3, 3, 3)])
    t = b.node("Mul", [b.node("Flatten", [t]), b.constant(np.float32(1 / 255))])
    b.node("Gemm", [t, b.random(64, 3)], "y")
    return Network(b.model("y"), (1, 3, 6, 6), "conv2d reshape dense")


def norm_after_relu() -> Network:
    """conv, ReLU, batch normalization, three times: into a dense layer behind a flatten it goes, into a padded
    convolution its scale could go but not its offset."""
    b = Builder((1, 3, 6, 6))
    t = b.batch_norm(b.node("Relu", [b.conv("x", 4, 3, 3, 3, group=1)]), 4)
    t = b.batch_norm(b.node("Relu", [b.conv(t, 4, 4, 3, 3, pads=[1, 1, 1, 1])]), 4)
    t = b.batch_norm(b.node("Relu", [b.conv(t, 8, 4, 3, 3, group=4)]), 8)
    b.node("Gemm", [b.node("Flatten", [t]), b.random(32, 3)], "y")
    return Network(b.model("y"), (1, 3, 6, 6), "conv2d depthwise_conv2d conv2d depthwise_conv2d reshape dense")


def padded_pool() -> Network:
    """Zero padding around what a ReLU gives, then a max-pool (Keras' ResNet stem); one before the ReLU must stay."""
    b = Builder((1, 2, 8, 8))
    pads = b.constant(np.array([0, 0, 1, 1, 0, 0, 1, 1]))
    t = b.node("Relu", [b.conv("x", 3, 2, 3, 3)])
    t = b.node("MaxPool", [b.node("Pad", [t, pads])], kernel_shape=[3, 3], strides=[2, 2])
    b.node("MaxPool", [b.node("Pad", [b.conv(t, 3, 3, 1, 1), pads])], "y", kernel_shape=[3, 3], strides=[2, 2])
    return Network(b.model("y"), (1, 2, 8, 8), "conv2d max_pool2d conv2d pad max_pool2d")


def pools() -> Network:
    """Counted padding, a last window beyond the edge, and both."""
    b = Builder((1, 2, 11, 11))
    t = b.node("AveragePool", ["x"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1], count_include_pad=1)
    t = b.node("MaxPool", [t], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    u = b.node(
        "AveragePool", ["x"], kernel_shape=[4, 3], strides=[3, 3], pads=[1, 1, 1, 0], ceil_mode=1, count_include_pad=1
    )
    b.node("Add", [b.node("GlobalMaxPool", [t]), b.node("GlobalMaxPool", [u])], "y")
    return Network(
        b.model("y"),
        (1, 2, 11, 11),
        "pad average_pool2d max_pool2d pad average_pool2d max_pool2d max_pool2d add reshape",
    )


def segmentation() -> Network:
    """NCHW out: a softmax over the channel axis, and the layout stays with the caller."""
    b = Builder((1, 3, 6, 6))
    b.node("Softmax", [b.node("Relu", [b.conv("x", 4, 3, 3, 3)])], "y", axis=1)
    return Network(b.model("y"), (1, 3, 6, 6), "conv2d softmax")


def time_distributed() -> Network:
    """Dense layers on (N, T, C), arithmetic of many kinds, a true transposition that must stay."""
    b = Builder((1, 5, 4))
    t = b.node("MatMul", ["x", b.random(4, 6)])
    t = b.node("Sub", [b.constant(np.float32(1)), t])
    t = b.node("Add", [t, b.random(5, 6)])
    t = b.node("MatMul", [b.random(3, 5), t])
    t = b.node("Mul", [t, b.random(6)])
    u = b.node("Transpose", [t], perm=[0, 2, 1])
    b.node("MatMul", [u, b.random(3, 2)], "y")
    return Network(b.model("y"), (1, 5, 4), "dense add transpose dense mul dense")


NETWORKS: dict[str, Callable[[], Network]] = {
    maker.__name__: maker
    for maker in (
        keras_image, torch_image, torch_view, residual, squeeze_excite, torch_series, keras_series, normalised_features,
        normalised_channels, scaled, norm_after_relu, padded_pool, pools, segmentation, time_distributed,
    )
}  # fmt: skip
