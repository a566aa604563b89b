# SPDX-License-Identifier: Apache-2.0
"""Graphs of one elementwise, shape or softmax node with random shapes, quantizations and inputs, by seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ckernel import Case
from numpy.typing import NDArray

from tlc.graph import Graph, Node, Quant, Shape, Tensor
from tlc.ops import REGISTRY
from tlc.ops.base import Activation
from tlc.ops.softmax import OUTPUT

Rng = np.random.Generator
SAMPLES = 4


def tf_form(case: Case) -> NDArray[np.float32]:
    """The TensorFlow form's output on the reals of a case's inputs."""
    activations = iter(case.inputs)
    reals = []
    for name in case.node.inputs:
        tensor = case.graph[name]
        assert tensor.quant
        reals.append(tensor.quant.dequantize(next(activations) if tensor.data is None else tensor.data))
    return np.asarray(REGISTRY[case.node.op].tf(case.node, reals))


def one_node(op: str, attrs: dict[str, Any], operands: Sequence[tuple[Shape, Quant, Any]], out: Quant) -> Graph:
    """The graph of one node; an operand is its shape, its quantization, and its integers where it is constant."""
    graph = Graph(f"one_{op}")
    for number, (shape, quant, data) in enumerate(operands):
        graph.add(Tensor(f"x{number}", shape, "int8", quant, data))
        if data is None:
            graph.inputs.append(f"x{number}")
    node = Node("node", op, list(graph.tensors), ["y"], REGISTRY[op].Attrs(**attrs))
    graph.nodes.append(node)
    graph.add(Tensor("y", (1,), "int8", out))
    graph.outputs.append("y")
    graph["y"].shape = REGISTRY[op].infer(graph, node)
    return graph


def quant(rng: Rng, scale: float) -> Quant:
    """A scale about the given one, over two powers of two; any zero point, often an extreme one."""
    zero_point = int(rng.choice([-128, 0, 127, *rng.integers(-128, 128, 5)]))
    return Quant.per_tensor(float(np.float32(scale * 2.0 ** rng.uniform(-1, 1))), zero_point)


def integers(rng: Rng, shape: Shape) -> NDArray[np.int8]:
    """Any integers, or extremes only, or all about one value."""
    kind = rng.integers(4)
    if kind == 0:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    if kind == 1:
        about_one: NDArray[np.int64] = np.clip(rng.integers(-128, 128) + rng.integers(-3, 4, shape), -128, 127)
        return about_one.astype(np.int8)
    return rng.integers(-128, 128, shape).astype(np.int8)


def case(rng: Rng, graph: Graph) -> Case:
    """The graph with some samples."""
    REGISTRY[graph.nodes[0].op].check(graph, graph.nodes[0])
    return Case(graph, graph.nodes[0], [integers(rng, (SAMPLES, *graph[name].shape[1:])) for name in graph.inputs])


def shape(rng: Rng, max_rank: int) -> Shape:
    """Some axes of 1 to 6 behind a batch axis of 1."""
    return (1, *(int(n) for n in rng.integers(1, 7, rng.integers(1, max_rank))))


def binary(op: str, rng: Rng, max_rank: int = 5) -> Case:
    """Broadcasts of either side; the second or the first may be constant, and a constant may have fewer axes."""
    full = shape(rng, max_rank)
    same = rng.random() < 0.3
    shapes = [full if same else tuple(int(n) if rng.random() < 0.6 else 1 for n in full) for _ in range(2)]
    scales = np.exp(rng.uniform(np.log(1e-4), np.log(10.0), 2)) if rng.random() < 0.3 else [0.05, 0.05]
    quants = [quant(rng, scale) for scale in scales]
    a, b = (255 * q.s for q in quants)
    out = quant(rng, (a * b if op == "mul" else a + b) / 255.0)
    constant = int(rng.integers(3))  # 2: neither
    data: list[Any] = [None, None]
    if constant < 2:
        if rng.random() < 0.5:
            shapes[constant] = shapes[constant][int(rng.integers(1, len(full))) :]
        data[constant] = integers(rng, shapes[constant])
    attrs = {"activation": list(Activation)[rng.integers(4)]}
    return case(rng, one_node(op, attrs, list(zip(shapes, quants, data, strict=True)), out))


def softmax(rng: Rng) -> Case:
    """Distributions from flat to one-hot."""
    classes = int(rng.choice([1, 2, 3, 10, 12, 35, 100, 300]))
    scale = float(np.exp(rng.uniform(np.log(1e-4), np.log(2.0))))
    operand = ((1, *rng.integers(1, 4, rng.integers(0, 2)), classes), quant(rng, scale), None)
    return case(rng, one_node("softmax", {"beta": float(rng.choice([1.0, 0.5, 1.7]))}, [operand], OUTPUT))


def unary(op: str, rng: Rng) -> Case:
    """Every integer, at any ratio of scales; the same quantization on both sides now and then."""
    q = quant(rng, 0.05)
    out = q if rng.random() < 0.25 else quant(rng, float(q.s * 2.0 ** rng.uniform(-4, 4)))
    attrs = {"activation": list(Activation)[rng.integers(4)]} if op == "clamp" else {}
    every = np.arange(-128, 128).astype(np.int8).reshape(1, 256)
    graph = one_node(op, attrs, [((1, 256), q, None)], out)
    return Case(graph, graph.nodes[0], [every])


def transpose(rng: Rng) -> Case:
    """Any permutation behind the batch axis."""
    full, q = shape(rng, 5), quant(rng, 0.05)
    perm = (0, *(int(axis) for axis in 1 + rng.permutation(len(full) - 1)))
    return case(rng, one_node("transpose", {"perm": perm}, [(full, q, None)], q))


def pad(rng: Rng, max_rank: int = 5) -> Case:
    """Pads of 0 to 2 on any axis but the batch; zero or another value, also one out of range."""
    full, q = shape(rng, max_rank), quant(rng, 0.05)
    sizes = rng.integers(0, 3, (len(full) - 1, 2)) * (rng.random((len(full) - 1, 1)) < 0.6)
    pads = ((0, 0), *((int(before), int(after)) for before, after in sizes))
    value = float(rng.choice([0.0, 0.0, 1.0, -1e30]))
    return case(rng, one_node("pad", {"pads": pads, "value": value}, [(full, q, None)], q))


CASES: dict[str, Callable[[Rng], Case]] = {
    "add": lambda rng: binary("add", rng),
    "sub": lambda rng: binary("sub", rng),
    "mul": lambda rng: binary("mul", rng),
    "clamp": lambda rng: unary("clamp", rng),
    "quantize": lambda rng: unary("quantize", rng),
    "softmax": softmax,
    "transpose": transpose,
    "pad": pad,
}


def cases(op: str, count: int, seed: int = 0) -> list[Case]:
    """The first cases of an operator."""
    rng = np.random.default_rng([seed, *op.encode()])
    return [CASES[op](rng) for _ in range(count)]
