# SPDX-License-Identifier: Apache-2.0
"""The training step: the generated C and the NumPy reference, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from train_models import NETS, SHAPE
from train_twin import build_twin, integer, layers, smooth

from tlc.graph import Graph
from tlc.reference_train import ReferenceTrainer
from tlc.twin import Twin

STEPS = 100


def int8_net(name: str) -> tuple[Graph, np.ndarray]:
    images = smooth(SHAPE, 64, seed=7)
    graph = integer(NETS[name](), images)
    quant = graph["input"].quant
    assert quant is not None
    return graph, quant.quantize(images)


def follow(graph: Graph, twin: Twin, trainer: ReferenceTrainer, images: np.ndarray, batch: int, steps: int) -> None:
    """Trains both on the same gradients: float32 ones and int8 ones with a scale by turns."""
    rng = np.random.default_rng(batch)
    top = graph[graph.outputs[0]]
    first = trainer.params()
    for step in range(1, steps + 1):
        for _ in range(batch):
            image = images[rng.integers(len(images))][None]
            (ours,), (theirs,) = trainer.forward(image), twin.forward(image)
            assert np.array_equal(ours, theirs), f"forward of step {step}"
            gradient = rng.standard_normal(top.shape).astype(np.float32) * np.float32(0.1)
            if step % 2:
                gradient = np.float32(0.003) * rng.integers(-127, 128, top.shape).astype(np.float32)
            twin.backward(gradient)
            trainer.backward(gradient)
        twin.update(0.01, step, 5)
        trainer.update(0.01, step, 5)
        params = twin.params()
        for name, value in trainer.params().items():
            assert np.array_equal(value.ravel(), params[name].ravel()), f"{name} after step {step}"
    for name, value in trainer.params().items():
        assert not np.array_equal(value, first[name]), f"{name} did not learn"


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NETS)
def test_every_layer_learns_alike(name: str, batch: int, tmp_path: Path) -> None:
    graph, images = int8_net(name)
    library, plan = build_twin(graph, layers(graph), tmp_path / "project")
    follow(graph, library.create(), ReferenceTrainer(graph, plan), images, batch, STEPS if batch == 1 else STEPS // 4)
