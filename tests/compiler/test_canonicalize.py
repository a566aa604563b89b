# SPDX-License-Identifier: Apache-2.0
"""Each rewrite of the canonical form: what it must change, what it must leave, and that values stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx_models import Builder, operators, run_graph, run_onnx, samples
from onnx_zoo import NETWORKS

from tlc.build import attributes, emit
from tlc.errors import ModelError
from tlc.frontends.onnx import read_onnx
from tlc.graph import Graph, Node, Origin, Quant, Tensor
from tlc.layout import Move, apply, inverse, origin_after, shape_after, shortest
from tlc.ops.base import Activation
from tlc.passes.base import Pass, Result, check_graph
from tlc.passes.canonicalize import canonicalize, canonicalize_with_lines
from tlc.passes.canonicalize.absorb_layout import AbsorbLayout
from tlc.passes.canonicalize.affine_to_depthwise import AffineToDepthwise
from tlc.passes.canonicalize.fold_affine import MAX_SPREAD, FoldAffineAfter, FoldAffineBefore
from tlc.passes.canonicalize.fold_batch_norm import FoldBatchNorm
from tlc.passes.canonicalize.fuse_activation import FuseActivation, intersection
from tlc.passes.canonicalize.fuse_pad import FusePad
from tlc.passes.canonicalize.hoist_elementwise import HoistElementwise
from tlc.passes.canonicalize.merge_moves import MergeMoves
from tlc.passes.canonicalize.permute_dense import PermuteDense
from tlc.passes.canonicalize.restore_names import RestoreNames
from tlc.reference_float import run_float

RNG = np.random.default_rng(0)


class Sketch:
    """A graph under construction: each call gives the name of the new tensor."""

    def __init__(self, *shape: int) -> None:
        self.graph = Graph("sketch")
        self.graph.add(Tensor("x", shape, origin=Origin("x", shape, tuple(range(len(shape))))))
        self.graph.inputs = ["x"]

    def __call__(self, op: str, *inputs: Any, **attrs: Any) -> str:
        rng = np.random.default_rng(len(self.graph.tensors))
        names = []
        for given in inputs:
            if isinstance(given, tuple):  # random weights of that shape
                given = rng.uniform(0.5, 1.5, given) * rng.choice([-1, 1], given)
            if isinstance(given, str):
                names.append(given)
            else:
                names.append(self.graph.constant("c", np.asarray(given, np.float32)).name)
        name = f"t{len(self.graph.nodes)}"
        tensor = emit(self.graph, op, names, attributes(op, **attrs), name=name)
        tensor.origin = Origin(name, tensor.shape, tuple(range(len(tensor.shape))))
        return tensor.name

    def returns(self, *names: str) -> Graph:
        self.graph.outputs = list(names)
        return self.graph


def applied(step: Pass, graph: Graph) -> Graph:
    """The graph after a pass; values and the graph that came in must be what they were."""
    before = [(n.op, tuple(n.inputs), tuple(n.outputs), n.attrs) for n in graph.nodes]
    result = step(graph)
    assert before == [(n.op, tuple(n.inputs), tuple(n.outputs), n.attrs) for n in graph.nodes]
    assert check_graph(result.graph) is None
    x = samples(graph["x"].shape)
    for wanted, value in zip(run_graph(graph, x), run_graph(result.graph, x), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(wanted).max())))
    assert result.modified == bool(result.line) or step.name == "restore_names"
    return result.graph


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_left(name: str) -> None:
    network = NETWORKS[name]()
    graph, lines = canonicalize_with_lines(read_onnx(network.model))
    assert " ".join(operators(graph)) == network.operators
    assert lines
    again, lines = canonicalize_with_lines(graph)
    assert not lines
    assert operators(again) == operators(graph)


# ---- batch normalization, affine ------------------------------------------------------------------------------------


def test_batch_norm_becomes_arithmetic() -> None:
    s = Sketch(1, 4, 4, 3)
    y = s("batch_norm", "x", (3,), (3,), (3,), np.array([0.5, 1, 2]), epsilon=0.01)
    assert operators(applied(FoldBatchNorm(), s.returns(y))) == ["mul", "add"]


@pytest.mark.parametrize("op", ["conv2d", "depthwise_conv2d", "dense"])
@pytest.mark.parametrize("bias", [True, False])
def test_affine_after_a_layer(op: str, bias: bool) -> None:
    s = Sketch(1, 5, 5, 3)
    shape = {"conv2d": (6, 3, 3, 3), "depthwise_conv2d": (1, 3, 3, 6), "dense": (6, 3)}[op]
    t = s(op, "x", shape, *([(6,)] if bias else []))
    t = s("mul", t, (6,))
    t = s("sub", np.ones(6), t)
    t = s("sub", t, np.float32(2.0))
    t = s("add", (1, 1, 1, 6), t, activation=Activation.RELU)
    graph = applied(FoldAffineAfter(), s.returns(t))
    assert operators(graph) == [op]
    assert graph.nodes[0].attrs.activation is Activation.RELU


def test_what_does_not_fold_after_a_layer() -> None:
    s = Sketch(1, 5, 5, 3)
    relu = s("conv2d", "x", (4, 3, 3, 3), activation=Activation.RELU)
    scaled = s("mul", relu, (4,))  # behind an activation
    conv = s("conv2d", scaled, (4, 1, 1, 4))
    rows = s("mul", conv, (3, 1, 1))  # varies along H
    other = s("conv2d", rows, (4, 1, 1, 4))
    twice = s("add", other, (4,))  # `other` is read twice
    graph = s.returns(s("add", twice, other))
    assert not FoldAffineAfter()(graph).modified


@pytest.mark.parametrize("groups", [1, 3])
def test_affine_before_a_convolution(groups: int) -> None:
    s = Sketch(1, 5, 5, 6)
    t = s("add", s("mul", "x", (6,)), (1, 1, 1, 6))
    t = s("conv2d", t, (6, 3, 3, 6 // groups), (6,), groups=groups)
    assert operators(applied(FoldAffineBefore(), s.returns(t))) == ["conv2d"]


def test_affine_before_depthwise_and_dense_behind_a_flatten() -> None:
    s = Sketch(1, 5, 5, 2)
    t = s("sub", (2,), s("mul", "x", (2,)))
    t = s("depthwise_conv2d", t, (1, 3, 3, 4))
    t = s("mul", s("add", t, (4,), activation=Activation.RELU), (4,))
    t = s("reshape", s("add", t, (3, 3, 4)), shape=(1, 36))
    t = s("dense", t, (5, 36))
    assert operators(applied(FoldAffineBefore(), s.returns(t))) == ["depthwise_conv2d", "add", "reshape", "dense"]


def test_an_offset_does_not_fold_into_padding_but_a_scale_does() -> None:
    s = Sketch(1, 5, 5, 3)
    offset = s("conv2d", s("add", "x", (3,)), (4, 3, 3, 3), pads=(1, 1, 1, 1))
    assert not FoldAffineBefore()(s.returns(offset)).modified
    s = Sketch(1, 5, 5, 3)
    scale = s("conv2d", s("mul", "x", (3,)), (4, 3, 3, 3), pads=(1, 1, 1, 1))
    assert operators(applied(FoldAffineBefore(), s.returns(scale))) == ["conv2d"]


def test_scales_that_differ_too_much_stay_outside_the_weights() -> None:
    for ratio, folds in ((MAX_SPREAD, True), (MAX_SPREAD * 1.01, False)):
        s = Sketch(1, 5, 5, 2)
        t = s("conv2d", s("mul", "x", np.array([1.0, ratio])), (4, 3, 3, 2))
        assert FoldAffineBefore()(s.returns(t)).modified is folds


def test_affine_per_feature_becomes_depthwise() -> None:
    s = Sketch(1, 7, 5, 2)
    t = s("mul", s("sub", "x", (5, 1)), (1, 1, 5, 2), activation=Activation.RELU6)
    graph = applied(AffineToDepthwise(), s.returns(t))
    assert operators(graph) == ["reshape", "depthwise_conv2d", "reshape"]
    assert graph[graph.nodes[1].inputs[1]].shape == (1, 1, 1, 10)
    s = Sketch(1, 6)
    assert operators(applied(AffineToDepthwise(), s.returns(s("mul", "x", (6,))))) == [
        "reshape",
        "depthwise_conv2d",
        "reshape",
    ]


def test_arithmetic_that_is_no_normalisation_stays() -> None:
    s = Sketch(1, 7, 5, 2)
    t = s("mul", "x", np.float32(3.0), activation=Activation.RELU)
    t = s("add", t, (7, 5, 2), activation=Activation.RELU)
    assert not AffineToDepthwise()(s.returns(t)).modified


# ---- activations, padding -------------------------------------------------------------------------------------------


def test_activations_fuse_where_there_is_one_reader() -> None:
    s = Sketch(1, 6, 6, 2)
    t = s("clamp", s("conv2d", "x", (3, 3, 3, 2)), activation=Activation.RELU)
    t = s("clamp", s("max_pool2d", t, kernel=(2, 2), strides=(2, 2)), activation=Activation.RELU6)
    t = s("clamp", t, activation=Activation.RELU)
    graph = applied(FuseActivation(), s.returns(t))
    assert [n.attrs.activation for n in graph.nodes] == [Activation.RELU, Activation.RELU6]
    s = Sketch(1, 4)
    t = s("dense", "x", (4, 4))
    assert not FuseActivation()(s.returns(s("clamp", t, activation=Activation.RELU), t)).modified


def test_intersections() -> None:
    x = np.linspace(-8, 8, 161)
    for first in Activation:
        for second in Activation:
            both = intersection(first, second)
            wanted = np.clip(np.clip(x, *first.bounds), *second.bounds)
            if both is None:
                assert not any(np.array_equal(np.clip(x, *a.bounds), wanted) for a in Activation)
            else:
                np.testing.assert_array_equal(np.clip(x, *both.bounds), wanted)


def test_padding_goes_into_convolutions() -> None:
    s = Sketch(1, 1, 9, 2)
    t = s("pad", "x", pads=((0, 0), (0, 0), (2, 1), (0, 0)))
    t = s("conv2d", t, (3, 1, 3, 2), pads=(0, 1, 0, 0))
    graph = applied(FusePad(), s.returns(t))
    assert graph.nodes[-1].attrs.pads == (0, 3, 0, 1)
    s = Sketch(1, 9, 2)
    t = s("reshape", s("pad", "x", pads=((0, 0), (2, 1), (0, 0))), shape=(1, 1, 12, 2))
    graph = applied(FusePad(), s.returns(s("depthwise_conv2d", t, (1, 1, 3, 2))))
    assert operators(graph) == ["reshape", "depthwise_conv2d"]


def test_padding_that_must_stay() -> None:
    around = ((0, 0), (1, 1), (1, 1), (0, 0))
    for value, pads in ((1.0, around), (0.0, ((0, 0), (1, 1), (1, 1), (0, 1)))):
        s = Sketch(1, 6, 6, 2)
        t = s("pad", "x", pads=pads, value=value)
        channels = s.graph[t].shape[3]
        assert not FusePad()(s.returns(s("conv2d", t, (3, 3, 3, channels)))).modified
    s = Sketch(1, 6, 6, 2)
    t = s("max_pool2d", s("pad", "x", pads=around), kernel=(3, 3), strides=(1, 1))
    assert not FusePad()(s.returns(t)).modified
    s = Sketch(1, 6, 6, 2)
    t = s("pad", s("clamp", "x", activation=Activation.RELU), pads=around)
    graph = applied(FusePad(), s.returns(s("max_pool2d", t, kernel=(3, 3), strides=(1, 1))))
    assert operators(graph) == ["clamp", "max_pool2d"]


# ---- layout ---------------------------------------------------------------------------------------------------------


def test_chains_of_moves_get_short() -> None:
    s = Sketch(1, 4, 5, 1)
    t = s("transpose", "x", perm=(0, 3, 1, 2))
    t = s("reshape", s("clamp", s("transpose", t, perm=(0, 2, 3, 1)), activation=Activation.RELU), shape=(1, 20))
    graph = applied(MergeMoves(), s.returns(s("reshape", t, shape=(1, 5, 4))))
    assert operators(graph) == ["clamp", "reshape"]
    s = Sketch(1, 4, 5, 1)
    t = s("transpose", "x", perm=(0, 3, 1, 2))  # moves an axis of 1 only
    assert operators(applied(MergeMoves(), s.returns(t))) == ["reshape"]


def test_a_shared_transpose_is_not_doubled() -> None:
    s = Sketch(1, 4, 5, 3)
    t = s("transpose", s("clamp", "x", activation=Activation.RELU), perm=(0, 3, 1, 2))
    u = s("reshape", t, shape=(1, 3, 20))
    graph = s.returns(s("mul", t, t), u)
    assert operators(applied(MergeMoves(), graph)).count("transpose") == 1


def test_arithmetic_rises_above_moves() -> None:
    s = Sketch(1, 4, 5, 3)
    t = s("transpose", s("conv2d", "x", (3, 1, 1, 3)), perm=(0, 3, 1, 2))
    t = s("add", t, (3, 1, 1))
    t = s("clamp", s("reshape", t, shape=(1, 60)), activation=Activation.RELU)
    t = s("mul", s("reshape", t, shape=(1, 3, 20)), (3, 1))
    graph = applied(HoistElementwise(), s.returns(t))
    assert operators(graph)[:3] == ["conv2d", "add", "clamp"]
    # Above one reshape alone the constant would have 60 values; above both together it has 3 again.
    graph = applied(HoistElementwise(), applied(MergeMoves(), graph))
    assert operators(graph)[:4] == ["conv2d", "add", "clamp", "mul"]
    assert graph[graph.nodes[3].inputs[1]].elements == 3


def test_arithmetic_of_two_moved_tensors() -> None:
    s = Sketch(1, 4, 5, 3)
    perm = (0, 3, 1, 2)
    a, b = s("clamp", "x", activation=Activation.RELU), s("clamp", "x", activation=Activation.RELU_N1_TO_1)
    gate = s("reshape", s("mean", "x", axes=(1, 2), keep_dims=False), shape=(1, 3, 1, 1))
    t = s("add", s("transpose", a, perm=perm), s("transpose", b, perm=perm))
    t = s("mul", gate, t)
    graph = applied(HoistElementwise(), s.returns(s("sub", t, t)))
    assert operators(graph)[-2:] == ["sub", "transpose"]
    assert operators(MergeMoves()(graph).graph).count("transpose") == 1


@pytest.mark.parametrize("keep", [True, False])
def test_operators_that_transposes_pass(keep: bool) -> None:
    s = Sketch(1, 4, 5, 3)
    t = s("transpose", "x", perm=(0, 2, 1, 3))
    t = s("softmax", s("dense", t, (6, 3)))
    t = s("pad", t, pads=((0, 0), (1, 0), (0, 2), (0, 0)), value=0.5)
    t = s("mean", t, axes=(1,), keep_dims=keep)
    graph = applied(HoistElementwise(), s.returns(t))
    assert operators(graph) == ["dense", "softmax", "pad", "mean", "transpose"]


def test_means_that_drop_axes_of_a_transpose() -> None:
    s = Sketch(1, 2, 3, 4, 5)
    t = s("mean", s("transpose", "x", perm=(0, 2, 3, 1, 4)), axes=(4,), keep_dims=False)
    graph = applied(HoistElementwise(), s.returns(t))
    assert operators(graph) == ["mean", "transpose"]


def test_a_transpose_before_a_flatten_goes_into_the_weights() -> None:
    s = Sketch(1, 4, 5, 3)
    t = s("reshape", s("transpose", "x", perm=(0, 3, 1, 2)), shape=(1, 60))
    graph = applied(PermuteDense(), s.returns(s("dense", t, (7, 60), (7,))))
    assert operators(graph) == ["reshape", "dense"]


def test_layouts_at_the_edge_become_origins() -> None:
    s = Sketch(1, 3, 4, 5)
    t = s("transpose", s("mul", "x", np.float32(2)), perm=(0, 2, 3, 1))
    t = s("transpose", s("conv2d", t, (2, 1, 1, 3)), perm=(0, 3, 1, 2))
    graph = canonicalize(applied(AbsorbLayout(), s.returns(t)))
    assert operators(graph) == ["conv2d"]
    assert graph["x"].shape == (1, 4, 5, 3)
    assert graph["x"].origin == Origin("x", (1, 3, 4, 5), (0, 2, 3, 1))
    assert graph[graph.outputs[0]].origin == Origin(t, (1, 2, 4, 5), (0, 2, 3, 1))


def test_an_input_that_an_unknown_operator_reads_keeps_its_layout() -> None:
    b = Builder((1, 3, 6, 6))
    b.node("Erf", ["x"], "erf")
    b.conv("x", 4, 3, 3, 3)
    graph = canonicalize(read_onnx(b.model("erf", "t1")))
    assert graph["x"].shape == (1, 3, 6, 6)


def test_names_come_back() -> None:
    s = Sketch(1, 4)
    a = s("dense", "x", (4, 4))
    b = s("dense", a, (4, 4))
    graph = s.returns(b)
    for name, wanted in ((a, b), (b, "out")):
        graph[name].origin = Origin(wanted, (1, 4), (0, 1))
    named = applied(RestoreNames(), graph)
    assert [n.output for n in named.nodes] == [b, "out"]
    assert all(name == tensor.name for name, tensor in named.tensors.items())


def test_random_chains() -> None:
    """The shortest form of random chains does what the chain does, and has one transpose at most."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        extents = rng.choice([1, 2, 3, 4, 6], rng.integers(1, 4))
        start = (1, *(int(n) for n in extents))
        shape, moves = start, []
        for _ in range(rng.integers(1, 6)):
            if rng.random() < 0.5:
                move = Move("transpose", (0, *(int(a) + 1 for a in rng.permutation(len(shape) - 1))))
            else:
                merged = [int(n) for n in shape[1:]]
                at = int(rng.integers(len(merged)))
                choice = rng.integers(3)
                if choice == 0 and at + 1 < len(merged):
                    merged[at : at + 2] = [merged[at] * merged[at + 1]]
                elif choice == 1 and merged[at] % 2 == 0:
                    merged[at : at + 1] = [2, merged[at] // 2]
                else:
                    merged.insert(at, 1)
                move = Move("reshape", (1, *merged))
            moves.append(move)
            shape = shape_after(shape, [move])
        x = np.arange(np.prod(start)).reshape(start)
        y = apply(moves, x)
        for first in (True, False):
            form = shortest(start, moves, transpose_first=first)
            np.testing.assert_array_equal(apply(form, x), y)
            if form != moves:
                assert sum(move.kind == "transpose" for move in form) <= 1
                assert len(form) <= 3
        np.testing.assert_array_equal(apply(inverse(start, moves), y), x)
        origin = origin_after(Origin("t", start, tuple(range(len(start)))), start, moves)
        if origin is not None:
            np.testing.assert_array_equal(origin.from_file(x, y.shape), y)
            np.testing.assert_array_equal(origin.to_file(y), x)


# ---- the whole ------------------------------------------------------------------------------------------------------


def random_network(seed: int) -> tuple[bytes, tuple[int, ...]]:
    """A random chain of what exporters write, with skips."""
    b = Builder((1, 3, 8, 8) if seed % 2 else (1, 8, 8, 3), seed=seed)
    rng = np.random.default_rng(seed)
    t = "x" if seed % 2 else b.node("Transpose", ["x"], perm=[0, 3, 1, 2])
    channels = 3
    skips: dict[int, str] = {}
    for _ in range(rng.integers(4, 10)):
        kind = rng.integers(10)
        if kind < 3:
            out = int(rng.integers(2, 6))
            t = b.conv(t, out, channels, 3, 3, pads=[1, 1, 1, 1], bias=bool(rng.random() < 0.5))
            channels = out
        elif kind == 3:
            t = b.conv(t, channels, channels, 3, 3, group=channels, pads=[1, 1, 1, 1])
        elif kind == 4:
            t = b.batch_norm(t, channels)
        elif kind == 5:
            t = b.node("Relu", [t])
        elif kind == 6:
            op = ("Add", "Mul", "Sub")[rng.integers(3)]
            shape = ((channels, 1, 1), (1, 1, 1), (8, 1), (1, channels, 1, 1))[rng.integers(4)]
            sides = [t, b.random(*shape)]
            t = b.node(op, sides if rng.random() < 0.7 else sides[::-1])
        elif kind == 7:
            back = b.node("Transpose", [t], perm=[0, 2, 3, 1])
            flat = b.node("Reshape", [back, b.constant(np.array([1, 64, channels]))])
            same = b.node("Relu", [flat]) if rng.random() < 0.5 else flat
            wide = b.node("Reshape", [same, b.constant(np.array([1, 8, 8, channels]))])
            t = b.node("Transpose", [wide], perm=[0, 3, 1, 2])
        elif kind == 8 and channels in skips:
            t = b.node("Add", [t, skips[channels]])
        else:
            t = b.node("MaxPool", [t], kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        if rng.random() < 0.4:
            skips[channels] = t
    if rng.random() < 0.5:
        t = b.node("Relu", [b.node("Flatten", [t])])
        b.node("Gemm", [t, b.random(channels * 64, 3, scale=0.1)], "y")
    else:
        b.node("ReduceMean", [t], "y", axes=[2, 3], keepdims=int(rng.integers(2)))
    return b.model("y"), (1, 3, 8, 8) if seed % 2 else (1, 8, 8, 3)


@pytest.mark.parametrize("seed", range(40))
def test_random_networks(seed: int) -> None:
    model, shape = random_network(seed)
    graph = canonicalize(read_onnx(model))
    assert "transpose" not in operators(graph)
    assert "batch_norm" not in operators(graph)
    x = samples(shape)
    (wanted,), (value,) = run_onnx(model, x), run_graph(graph, x)
    np.testing.assert_allclose(value, wanted, rtol=1e-3, atol=2e-5 * float(np.abs(wanted).max()))


def test_integer_graphs_keep_their_arithmetic() -> None:
    quant = Quant.per_tensor(0.5, 3)
    graph = Graph("g")
    graph.add(Tensor("x", (1, 2, 3), "int8", quant))
    graph.inputs = ["x"]
    attrs = attributes("reshape", shape=(1, 6))
    flat = emit(graph, "reshape", ["x"], attrs, name="flat", dtype="int8", quant=quant)
    back = emit(
        graph, "reshape", [flat.name], attributes("reshape", shape=(1, 3, 2)), name="b", dtype="int8", quant=quant
    )
    relu = attributes("clamp", activation=Activation.RELU)
    first = emit(graph, "clamp", [back.name], relu, name="first", dtype="int8", quant=Quant.per_tensor(0.4, -5))
    second = emit(graph, "clamp", [first.name], relu, name="second", dtype="int8", quant=Quant.per_tensor(0.3, -9))
    graph.outputs = [second.name]
    result = canonicalize(graph)
    assert operators(result) == ["reshape", "clamp", "clamp"]
    assert [result[n.output].dtype for n in result.nodes] == ["int8"] * 3
    assert result[result.nodes[0].output].quant is quant


def test_a_pass_raises_in_its_own_name() -> None:
    class Breaks(Pass):
        name = "breaks"

        def call(self, graph: Graph) -> Result:
            result = graph.copy()
            result.nodes.append(Node("late", "reshape", ["nowhere"], ["z"]))
            return Result(result, True)

    s = Sketch(1, 4)
    with pytest.raises(ModelError, match="pass breaks: ensures that 'nowhere'"):
        Breaks()(s.returns(s("dense", "x", (4, 4))))


def test_dead_code_goes() -> None:
    s = Sketch(1, 4)
    s("dense", "x", (4, 4))
    graph = canonicalize(s.returns(s("softmax", s("dense", "x", (4, 4)))))
    assert operators(graph) == ["dense", "softmax"]
    assert len([t for t in graph.tensors.values() if t.is_constant]) == 1
    assert run_float(graph, {"x": samples((1, 4))})
