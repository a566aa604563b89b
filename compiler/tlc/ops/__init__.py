# SPDX-License-Identifier: Apache-2.0
"""The operators, by name."""

from __future__ import annotations

from tlc.ops.add import Add
from tlc.ops.average_pool2d import AveragePool2d
from tlc.ops.base import Operator
from tlc.ops.batch_norm import BatchNorm
from tlc.ops.clamp import Clamp
from tlc.ops.conv2d import Conv2d
from tlc.ops.dense import Dense
from tlc.ops.depthwise_conv2d import DepthwiseConv2d
from tlc.ops.max_pool2d import MaxPool2d
from tlc.ops.mean import Mean
from tlc.ops.mul import Mul
from tlc.ops.opaque import Opaque
from tlc.ops.pad import Pad
from tlc.ops.quantize import Quantize
from tlc.ops.reshape import Reshape
from tlc.ops.softmax import Softmax
from tlc.ops.sub import Sub
from tlc.ops.transpose import Transpose

REGISTRY: dict[str, Operator] = {
    op.name: op
    for op in (
        Add(),
        AveragePool2d(),
        BatchNorm(),
        Clamp(),
        Conv2d(),
        Dense(),
        DepthwiseConv2d(),
        MaxPool2d(),
        Mean(),
        Mul(),
        Opaque(),
        Pad(),
        Quantize(),
        Reshape(),
        Softmax(),
        Sub(),
        Transpose(),
    )
}
