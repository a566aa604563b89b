# SPDX-License-Identifier: Apache-2.0
"""``--train auto``: scores, exact costs, the selection, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train_models import NETS, SHAPE
from train_twin import integer, smooth

from command_line import refused, succeeds
from small_models import CLASSES, small
from tlc.errors import DataError, FitError, UsageError
from tlc.learning import Learning
from tlc.passes.backward import differentiate
from tlc.passes.schedule import schedule
from tlc.passes.select_auto import Budget, Selector, backward_macs
from tlc.program import Learned, rows_shape
from tlc.reference_train import ReferenceTrainer


def selector(name: str) -> Selector:
    graph = integer(NETS[name](), smooth(SHAPE, 16, seed=7))
    frozen = schedule(graph)

    def cost(learned: dict[str, str]) -> tuple[int, bool]:
        program = schedule(graph, differentiate(graph, learned))
        return program.arena_bytes + program.state_bytes - frozen.arena_bytes - frozen.state_bytes, True

    return Selector(graph, cost)


def made_up(chooser: Selector, seed: int = 0) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    return {name: float(rng.exponential()) for name in chooser.tensors}


# ---- scores -------------------------------------------------------------------------------------------------------------


def loss(module: Any, image: np.ndarray, label: int) -> float:
    logits = module({"input": image[None]}, [module.logits])[module.logits].numpy().ravel().astype(np.float64)
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def test_scores_are_the_mean_squares_of_finite_differences() -> None:
    pytest.importorskip("tensorflow")
    from tlc.learn.module import GraphModule
    from tlc.learn.sensitivity import fisher_scores

    graph = small()
    for tensor in graph.tensors.values():  # moderate logits: differences that float32 can show
        if tensor.data is not None:
            tensor.data = (tensor.data * 0.3).astype(np.float32)
    rng = np.random.default_rng(0)
    images, labels = rng.random((3, 8, 8, 1), np.float32), np.array([0, 4, 2])
    bias = graph.nodes[-2].inputs[2]
    first = graph.nodes[0].inputs[2]
    scores = fisher_scores(graph, {graph.inputs[0]: images}, labels, [bias, first])
    module, step = GraphModule(graph), 1e-3
    for name in (bias, first):
        squares = np.zeros(graph[name].elements)
        for image, label in zip(images, labels, strict=True):
            for index in range(graph[name].elements):
                sides = []
                for sign in (1, -1):
                    moved = graph.data(name).copy()
                    moved[index] += sign * step
                    module.load({name: moved})
                    sides.append(loss(module, image, int(label)))
                squares[index] += ((sides[0] - sides[1]) / (2 * step)) ** 2
        module.load({name: graph.data(name)})
        assert scores[name] == pytest.approx(np.sqrt(squares / 3).sum(), rel=1e-2)


def test_a_sample_is_squared_by_itself() -> None:
    """Opposite gradients do not cancel: of two samples the squares are added, element by element."""
    pytest.importorskip("tensorflow")
    from tlc.learn.sensitivity import fisher_channels

    graph = small()
    images = np.random.default_rng(1).random((2, 8, 8, 1), np.float32)
    name = graph.nodes[-2].inputs[2]  # a bias: one element to a channel
    both = fisher_channels(graph, {"input": images}, np.array([1, 3]), {name: 0})[name]
    each = [fisher_channels(graph, {"input": images[[i]]}, np.array([(1, 3)[i]]), {name: 0})[name] for i in (0, 1)]
    assert both == pytest.approx(np.sqrt((each[0] ** 2 + each[1] ** 2) / 2), rel=1e-4)


def test_scores_add_up_over_elements() -> None:
    """Whichever axis the channels are of, the sum is the same: roots are taken element by element, not channel by channel."""
    pytest.importorskip("tensorflow")
    from tlc.learn.sensitivity import fisher_channels

    graph = small()
    images, labels = np.random.default_rng(2).random((4, 8, 8, 1), np.float32), np.array([0, 1, 2, 3])
    name = graph.nodes[-2].inputs[1]
    sums = [fisher_channels(graph, {"input": images}, labels, {name: axis})[name].sum() for axis in (0, 1)]
    assert sums[0] == pytest.approx(sums[1], rel=1e-4)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_labels_out_of_range(label: int) -> None:
    pytest.importorskip("tensorflow")
    from tlc.learn.sensitivity import fisher_scores

    graph = small()
    with pytest.raises(DataError, match=f"label {label} is no class"):
        fisher_scores(graph, {"input": np.zeros((1, 8, 8, 1), np.float32)}, np.array([label]), [])


# ---- costs --------------------------------------------------------------------------------------------------------------


def test_backward_macs_count_what_is_computed() -> None:
    graph = selector("depthwise").graph
    last, before = graph.nodes[-1], graph.nodes[-3]
    macs = backward_macs(graph, differentiate(graph, {last.inputs[1]: last.name}))
    assert macs == graph[last.inputs[1]].elements
    assert backward_macs(graph, differentiate(graph, {last.inputs[2]: last.name})) == graph[last.output].elements
    # One layer further: the last one's input gradient, and the additions of the bias.
    further = backward_macs(graph, differentiate(graph, {before.inputs[2]: before.name}))
    assert further == macs + graph[before.output].elements


@pytest.mark.parametrize("name", NETS)
def test_rows_tell_the_marginal_cost(name: str) -> None:
    chooser = selector(name)
    names = list(chooser.tensors)
    chosen = frozenset(names[-2:])
    for row in chooser.rows(chosen, None):
        other = chooser.cost(chosen ^ {row.tensor})
        assert row.chosen == (row.tensor in chosen)
        assert row.bytes == (1 if row.chosen else -1) * (chooser.cost(chosen).bytes - other.bytes)


# ---- selection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.3, 0.5, 1.0])
def test_a_budget_is_kept(name: str, share: float) -> None:
    chooser = selector(name)
    full = chooser.cost(chooser.tensors)
    budget = Budget(int(full.bytes * share))
    for chosen in (chooser.best(made_up(chooser), budget), chooser.random(3, budget)):
        assert chosen
        assert chooser.cost(chosen).bytes <= budget.bytes
    if share == 1.0:
        assert chooser.best(made_up(chooser), budget) == frozenset(chooser.tensors)


@pytest.mark.parametrize("seed", range(4))
def test_near_the_best_there_is(seed: int) -> None:
    chooser = selector("conv_last")
    scores = made_up(chooser, seed)
    budget = Budget(chooser.cost(chooser.tensors).bytes // 2)
    every = [set(c) for n in range(1, len(scores) + 1) for c in combinations(scores, n)]
    optimum = max(sum(scores[n] for n in names) for names in every if chooser.cost(names).within(budget))
    assert sum(scores[n] for n in chooser.best(scores, budget)) >= 0.8 * optimum


def test_macs_are_kept() -> None:
    chooser = selector("residual")
    names = list(chooser.tensors)
    budget = Budget(10**9, chooser.cost(names).macs // 3)
    assert 0 < chooser.cost(chooser.best(made_up(chooser), budget)).macs <= budget.macs


@pytest.mark.parametrize("make", [lambda c, b: c.best(made_up(c), b), lambda c, b: c.random(0, b)])
def test_the_smallest_budget_that_would_fit(make: Callable[[Selector, Budget], frozenset[str]]) -> None:
    chooser = selector("depthwise")
    least = min(chooser.cost([name]).bytes for name in chooser.tensors)
    assert make(chooser, Budget(least))
    with pytest.raises(FitError, match=f"the smallest that would is {least:,} bytes"):
        make(chooser, Budget(least - 1))
    macs = min(chooser.cost([name]).macs for name in chooser.tensors)
    with pytest.raises(FitError, match=f"the smallest that would is {macs:,}$"):
        make(chooser, Budget(10**9, macs - 1))


def test_a_tenth_more() -> None:
    chooser = selector("residual")
    scores = made_up(chooser)
    budget = Budget(chooser.cost(chooser.tensors).bytes // 4)
    training = chooser.auto(scores, budget)
    assert training.next is not None
    assert training.next["budget"]["ram_bytes"] == budget.bytes + budget.bytes // 10
    more = (set(training.chosen) | set(training.next["added"])) - set(training.next["removed"])
    assert chooser.cost(more).bytes == training.next["used"]["ram_bytes"] <= training.next["budget"]["ram_bytes"]
    assert training.next["gain"] == pytest.approx(
        sum(scores[n] for n in more) - sum(scores[n] for n in training.chosen)
    )


def test_random_is_seeded() -> None:
    chooser = selector("residual")
    budget = Budget(chooser.cost(chooser.tensors).bytes // 2)
    found = [chooser.random(seed, budget) for seed in (1, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_nothing_to_learn() -> None:
    from tlc.builder import Builder

    net = Builder("pool", (1, 6, 6, 2))
    net.max_pool2d(2)
    with pytest.raises(UsageError, match="no layer with weights"):
        Selector(net.graph(), lambda learned: (0, True))


def test_the_layout_of_the_state() -> None:
    graph = selector("depthwise").graph
    learned = differentiate(graph, dict(selector("depthwise").tensors)).learned
    params = ReferenceTrainer(graph, differentiate(graph, learned)).params()
    for name, node in learned.items():
        kind = "weight" if graph[name].dtype == "int8" else "bias"
        assert rows_shape(graph, Learned(name, kind, node, graph[name].elements, 0, 0)) == params[name].shape


# ---- the command --------------------------------------------------------------------------------------------------------


def compile_small(models: Path, out: Path, *options: object) -> dict[str, object]:
    data = models / "x.npz"
    shared = ("compile", models / "small.onnx", "--board", "qemu-m4", "--cut", "none", "--calib", data, "--json")
    return succeeds(*shared, "--out", out, *options).json


def test_compile_keeps_to_the_budget_and_repeats_itself(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    frozen = compile_small(models, tmp_path / "frozen")
    options = ("--train", "auto", "--train-ram", "2.5K", "--seed", 1)
    one, two = (compile_small(models, tmp_path / name, *options) for name in ("one", "two"))
    training = one["training"]
    assert training["budget"] == {"ram_bytes": 2500, "macs": None}
    assert 0 < training["used"]["ram_bytes"] == one["ram_bytes"] - frozen["ram_bytes"] <= 2500
    bundle = json.loads((tmp_path / "one" / "bundle.json").read_text())
    assert [entry["name"] for entry in bundle["learned"]] == [r["tensor"] for r in training["rows"] if r["chosen"]]
    assert one["bundle_hash"] == two["bundle_hash"] and training == two["training"]
    assert json.loads((tmp_path / "one" / "report.json").read_text())["training"] == training
    assert frozen["training"] is None


def test_the_table(models: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    data = models / "x.npz"
    done = succeeds(
        "compile",
        models / "small.onnx",
        "--board",
        "qemu-m4",
        "--calib",
        data,
        "--train",
        "auto",
        "--out",
        tmp_path / "o",
    )
    assert "what learns" in done.out and "10% more RAM would buy nothing" in done.out


@pytest.mark.parametrize(
    ("data", "options", "code", "says"),
    [
        ("x.npy", ("--train", "auto"), 1, ("no labels", "'y'")),
        (None, ("--train", "auto"), 1, ("labelled samples", "--calib")),
        ("x.npz", ("--train", "random", "--train-ram", "10"), 1, ("nothing can learn in 10 bytes", "the smallest")),
        ("x.npz", ("--train", "full", "--train-ram", "1K"), 1, ("where 1,000 are allowed", "--train auto")),
        ("x.npz", ("--train", "full", "--train-macs", "5"), 1, ("backward MACs where 5", "--train auto")),
        ("x.npz", ("--train-ram", "1K"), 2, ("nothing learns", "--train auto")),
    ],
)
def test_refusals(
    data: str | None, options: tuple[str, ...], code: int, says: tuple[str, ...], models: Path, tmp_path: Path
) -> None:
    calib = ("--calib", models / data) if data else ()
    shared = ("compile", models / "small.onnx", "--board", "qemu-m4", "--cut", "none", "--out", tmp_path / "o")
    refused(tmp_path, code, *shared, *calib, *options, says=says)


def test_plan_sees_no_data(models: Path, tmp_path: Path) -> None:
    refused(tmp_path, 2, "plan", models / "small.onnx", "--board", "qemu-m4", "--train", "auto", says=("--train last",))


def test_the_optimizers_memory_is_in_the_cost() -> None:
    """What a selection takes beside its integers: sums over samples, velocities, residuals; none of it, interleaved."""
    graph = integer(NETS["depthwise"](), smooth(SHAPE, 16, seed=7))
    frozen = schedule(graph)

    def chooser(learning: Learning) -> Selector:
        def cost(learned: dict[str, str]) -> tuple[int, bool]:
            program = schedule(graph, differentiate(graph, learned, learning))
            return program.arena_bytes + program.state_bytes - frozen.arena_bytes - frozen.state_bytes, True

        return Selector(graph, cost, learning=learning)

    many, one, moving = (chooser(learning) for learning in (Learning(), Learning("1"), Learning(momentum=True)))
    everything = list(many.tensors)
    elements = sum(graph[name].elements for name in everything)
    assert moving.cost(everything).bytes - many.cost(everything).bytes in range(4 * elements - 15, 4 * elements + 16)
    assert one.cost(everything).bytes < many.cost(everything).bytes - elements
    scores = made_up(many)
    budget = Budget(many.cost(everything).bytes // 2)
    for each in (many, one, moving):
        assert each.cost(each.best(scores, budget)).bytes <= budget.bytes
