# SPDX-License-Identifier: Apache-2.0
"""Seeded random configurations of the operators that have windows or weights, as cases of one node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ckernel import Case
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Quant, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation

KINDS = ("random", "lowest", "highest", "edges")
ACTIVATIONS = (Activation.NONE, Activation.RELU, Activation.RELU6, Activation.NONE, Activation.RELU_N1_TO_1)


def values(rng: np.random.Generator, shape: Sequence[int], kind: str) -> NDArray[np.int8]:
    """int8 data: random, all -128, all 127, or only the extremes."""
    if kind == "lowest":
        return np.full(shape, -128, np.int8)
    if kind == "highest":
        return np.full(shape, 127, np.int8)
    if kind == "edges":
        return rng.choice(np.array([-128, -127, 0, 127], np.int8), tuple(shape))
    return rng.integers(-128, 128, tuple(shape), np.int8)


def layer(
    rng: np.random.Generator,
    op: str,
    attrs: Any,
    x_shape: Sequence[int],
    w_shape: Sequence[int],
    *,
    kind: str = "random",
    per_channel: bool = True,
    bias: bool = True,
    samples: int = 2,
) -> Case:
    """A node with weights; the output's scale spreads the accumulators over and a little beyond the int8 range."""
    graph = Graph(op)
    node = Node("layer", op, ["x", "w"], ["y"], attrs)
    axis = REGISTRY[op].weight_axis(node)
    assert axis is not None
    channels = w_shape[axis]
    zero_point = int(_pick(rng, (-128, 127, 0, rng.integers(-128, 128))))
    x_quant = Quant.per_tensor(float(rng.uniform(0.003, 0.1)), zero_point)
    graph.add(Tensor("x", tuple(x_shape), "int8", x_quant))
    graph.inputs = ["x"]
    scales = rng.uniform(0.001, 0.02, channels if per_channel else 1).astype(np.float32)
    w = values(rng, w_shape, kind)
    graph.add(Tensor("w", w.shape, "int8", Quant(scales, 0, axis if per_channel else None), w))
    products = w.size // channels
    if bias:
        spread = max(1, int(40 * 70 * np.sqrt(products)))
        data = rng.integers(-spread, spread, channels, np.int32)
        unit = np.float32(x_quant.s) * scales
        graph.add(Tensor("b", (channels,), "int32", Quant(unit, 0, 0 if per_channel else None), data))
        node.inputs.append("b")
    largest = x_quant.s * float(scales.max()) * 74 * 74 * np.sqrt(products)
    y_quant = Quant.per_tensor(float(largest / rng.uniform(20, 300)), int(rng.integers(-128, 128)))
    return _finish(rng, graph, node, y_quant, x_shape, kind, samples)


def tie_case(op: str, multiplier: float) -> Case:
    """A layer whose accumulators are its biases, at and next to every boundary between two outputs.

    Where the multiplier is a power of two, the boundaries are ties; where it is tiny, they tell its last bits.
    """
    boundaries = np.rint((np.arange(-127, 127) + 0.5) / multiplier).astype(np.int64)
    bias = (boundaries[:, None] + np.arange(-2, 3)).ravel().astype(np.int32)
    channels = len(bias)
    shapes = {
        "dense": ((1, 2), (channels, 2)),
        "conv2d": ((1, 1, 1, 2), (channels, 1, 1, 2)),
        "depthwise_conv2d": ((1, 1, 1, 1), (1, 1, 1, channels)),
    }
    x_shape, w_shape = shapes[op]
    rng = np.random.default_rng(5)
    case = layer(rng, op, REGISTRY[op].Attrs(), x_shape, w_shape, per_channel=False)
    graph = case.graph
    x_quant, w_quant = graph["x"].quant, graph["w"].quant
    assert x_quant and w_quant
    graph["x"].quant = Quant.per_tensor(0.125 if multiplier == 2.0**-6 else x_quant.s, 7)
    graph["w"].quant = Quant.per_tensor(0.25) if multiplier == 2.0**-6 else w_quant
    x_quant, w_quant = graph["x"].quant, graph["w"].quant
    assert x_quant and w_quant
    graph["y"].quant = Quant.per_tensor(x_quant.s * w_quant.s / multiplier)
    graph["b"].data, graph["b"].quant = bias, Quant.per_tensor(x_quant.s * w_quant.s)
    return Case(graph, case.node, [np.full((1, *x_shape[1:]), 7, np.int8)])


def plain(
    rng: np.random.Generator,
    op: str,
    attrs: Any,
    x_shape: Sequence[int],
    *,
    kind: str = "random",
    samples: int = 2,
    same: bool = False,
) -> Case:
    """A node with one input and no weights; ``same``: one scale and zero point on both sides."""
    graph = Graph(op)
    node = Node("layer", op, ["x"], ["y"], attrs)
    x_quant = Quant.per_tensor(float(rng.uniform(0.01, 0.1)), int(rng.integers(-128, 128)))
    graph.add(Tensor("x", tuple(x_shape), "int8", x_quant))
    graph.inputs = ["x"]
    other = Quant.per_tensor(float(x_quant.s * rng.uniform(0.2, 1.5)), int(rng.integers(-128, 128)))
    y_quant = x_quant if REGISTRY[op].same_quant or same else other
    return _finish(rng, graph, node, y_quant, x_shape, kind, samples)


def _finish(
    rng: np.random.Generator, graph: Graph, node: Node, y_quant: Quant, x_shape: Sequence[int], kind: str, samples: int
) -> Case:
    graph.add(Tensor("y", (), "int8", y_quant))
    graph["y"].shape = REGISTRY[node.op].infer(graph, node)
    graph.nodes = [node]
    graph.outputs = ["y"]
    REGISTRY[node.op].check(graph, node)
    return Case(graph, node, [values(rng, (samples, *x_shape[1:]), kind)])


def _window(rng: np.random.Generator, x: Sequence[int], *, dilated: bool) -> dict[str, Any] | None:
    """Kernel, strides, dilations and pads that leave at least one output; None where they do not."""
    kernel = tuple(int(n) for n in rng.integers(1, 5, 2))
    if rng.random() < 0.4:
        kernel = (3, 3)
    strides = tuple(int(n) for n in rng.integers(1, 4, 2)) if rng.random() < 0.5 else (1, 1)
    dilations = tuple(int(n) for n in rng.integers(1, 4, 2)) if dilated and rng.random() < 0.3 else (1, 1)
    style = rng.integers(3)
    pads: tuple[int, ...] = (0, 0, 0, 0)
    if style == 1:  # TFLite's SAME
        total = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, k, s, d in zip(x[1:3], kernel, strides, dilations, strict=True)
        ]
        pads = (total[0] // 2, total[1] // 2, total[0] - total[0] // 2, total[1] - total[1] // 2)
    if style == 2:
        pads = tuple(int(rng.integers(0, k + 2 if dilated else k)) for k in (*kernel, *kernel))
    fits = all(n + pads[i] + pads[i + 2] >= (kernel[i] - 1) * dilations[i] + 1 for i, n in enumerate(x[1:3]))
    return {"kernel": kernel, "strides": strides, "dilations": dilations, "pads": pads} if fits else None


def _pick(rng: np.random.Generator, options: Sequence[Any]) -> Any:
    return options[int(rng.integers(len(options)))]


def conv2d_cases(seed: int, count: int) -> list[Case]:
    """Any kernel, stride, dilation, padding and groups."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < count:
        groups = int(_pick(rng, (1, 1, 1, 2, 3)))
        x = (1, int(rng.integers(1, 12)), int(rng.integers(1, 12)), groups * int(rng.integers(1, 9)))
        window = _window(rng, x, dilated=True)
        if window is None:
            continue
        kernel = window.pop("kernel")
        attrs = REGISTRY["conv2d"].Attrs(**window, groups=groups, activation=_pick(rng, ACTIVATIONS))
        w = (groups * int(rng.integers(1, 6)), *kernel, x[3] // groups)
        options: dict[str, Any] = {
            "per_channel": rng.random() < 0.7,
            "bias": rng.random() < 0.8,
            "kind": KINDS[len(cases) % 7 % 4],
        }
        cases.append(layer(rng, "conv2d", attrs, x, w, **options))
    return cases


def depthwise_conv2d_cases(seed: int, count: int) -> list[Case]:
    """Any kernel, stride, dilation, padding and channel multiplier."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < count:
        x = (1, int(rng.integers(1, 12)), int(rng.integers(1, 12)), int(rng.integers(1, 9)))
        window = _window(rng, x, dilated=True)
        if window is None:
            continue
        kernel = window.pop("kernel")
        attrs = REGISTRY["depthwise_conv2d"].Attrs(**window, activation=_pick(rng, ACTIVATIONS))
        w = (1, *kernel, x[3] * int(_pick(rng, (1, 1, 2, 3))))
        options: dict[str, Any] = {
            "per_channel": rng.random() < 0.7,
            "bias": rng.random() < 0.8,
            "kind": KINDS[len(cases) % 7 % 4],
        }
        cases.append(layer(rng, "depthwise_conv2d", attrs, x, w, **options))
    return cases


def dense_cases(seed: int, count: int) -> list[Case]:
    """One row or several, per channel and per tensor."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    for number in range(count):
        inner = int(rng.integers(1, 70))
        x = _pick(rng, ((1, inner), (1, inner), (1, int(rng.integers(1, 5)), inner)))
        attrs = REGISTRY["dense"].Attrs(activation=_pick(rng, ACTIVATIONS))
        options: dict[str, Any] = {
            "per_channel": rng.random() < 0.5,
            "bias": rng.random() < 0.8,
            "kind": KINDS[number % 7 % 4],
        }
        cases.append(layer(rng, "dense", attrs, x, (int(rng.integers(1, 14)), inner), **options))
    return cases


def pool_cases(op: str, seed: int, count: int) -> list[Case]:
    """Any kernel, stride and padding smaller than the kernel."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    while len(cases) < count:
        x = (1, int(rng.integers(1, 12)), int(rng.integers(1, 12)), int(rng.integers(1, 9)))
        window = _window(rng, x, dilated=False)
        if window is None:
            continue
        window.pop("dilations")
        attrs = REGISTRY[op].Attrs(**window, activation=_pick(rng, ACTIVATIONS))
        if any(pad >= window["kernel"][i % 2] for i, pad in enumerate(window["pads"])):
            continue
        cases.append(plain(rng, op, attrs, x, kind=KINDS[len(cases) % 7 % 4]))
    return cases


def mean_cases(seed: int, count: int) -> list[Case]:
    """Over height and width, one of them, channels, several runs; rank 2 to 5; dimensions kept or not."""
    rng = np.random.default_rng(seed)
    cases: list[Case] = []
    shapes = (
        ((6, 7, 5), (1, 2)),
        ((1, 17, 8), (1, 2)),
        ((1, 17, 8), (2,)),
        ((5, 4, 3), (1,)),
        ((5, 4, 3), (3,)),
        ((5, 4, 3), (1, 3)),
        ((5, 4, 3), (1, 2, 3)),
        ((13, 8), (1,)),
        ((33,), (1,)),
        ((4, 2, 5, 3), (1, 3)),
        ((4, 2, 5, 3), (2, 4)),
        ((1, 1, 6), (1, 2)),
    )
    for number in range(count):
        shape, axes = shapes[number % len(shapes)]
        attrs = REGISTRY["mean"].Attrs(axes, bool(rng.integers(2)))
        same = number // len(shapes) % 3 == 2
        cases.append(plain(rng, "mean", attrs, (1, *shape), kind=KINDS[number % 5 % 4], same=same))
    return cases


TIES = [(op, multiplier) for op in ("dense", "conv2d", "depthwise_conv2d") for multiplier in (2.0**-6, 2.9e-7)]
SWEEPS: dict[str, Callable[[int, int], list[Case]]] = {
    "conv2d": conv2d_cases,
    "depthwise_conv2d": depthwise_conv2d_cases,
    "dense": dense_cases,
    "max_pool2d": lambda seed, count: pool_cases("max_pool2d", seed, count),
    "average_pool2d": lambda seed, count: pool_cases("average_pool2d", seed, count),
    "mean": mean_cases,
}
