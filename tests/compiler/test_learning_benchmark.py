# SPDX-License-Identifier: Apache-2.0
"""``benchmarks/learning`` on a task of seconds: scikit-learn's digits of 8 × 8, and the same with their rows upside down."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.learning.__main__ import Run, cached
from benchmarks.learning.methods import METHODS, SHARE, batches
from benchmarks.learning.table import tables
from benchmarks.learning.task import Set, Setting, Task

from tlc.builder import Builder
from tlc.graph import Graph
from tlc.ops.base import Activation

pytest.importorskip("tensorflow")
STEPS = 150


def setting(seed: int) -> Setting:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    whole = Set((x[order] / 16).astype(np.float32).reshape(-1, 8, 8, 1), y[order].astype(np.int64))
    flipped = Set(np.ascontiguousarray(whole.x[:, ::-1]), whole.y)
    return Setting(whole[:800], flipped[800:900], flipped[800:1300], {"flipped": flipped[1300:]})


def network(seed: int) -> Graph:
    net = Builder("digits", (1, 8, 8, 1), seed)
    net.conv2d(12, 3, activation=Activation.RELU)
    net.max_pool2d(2)
    net.conv2d(16, 3, activation=Activation.RELU)
    net.flatten()
    net.dense(32, activation=Activation.RELU)
    net.dense(10)
    return net.graph()


TASK = Task("digits", "digits, flipped", setting, network, epochs=6, steps=STEPS)


def test_a_device_learns_what_it_was_not_trained_for(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    run = Run(TASK, 0, tmp_path / "cache", tmp_path)
    rates = {"none": 0.0, "auto": 0.03, "full": 0.3, "float": 0.3}
    results = [cached(run, METHODS[name], rate) for name, rate in rates.items()]
    none, auto, full, real = (row["accuracy"]["flipped"] for row in results)
    assert none < 60
    assert auto > none + 30
    assert full > auto
    assert abs(full - real) < 5
    sizes = [row.get("extra_ram", 0) for row in results]
    assert sizes[0] == 0
    assert 0 < sizes[1] <= sizes[2] // SHARE
    assert 0 < results[1]["backward_macs"] < results[2]["backward_macs"]
    text = tables(results, {"digits": TASK}, 8)
    assert f"| digits, flipped | {none:.1f} | {auto:.1f} | {full:.1f} | {real:.1f} |" in text
    # A second run measures nothing that it has.
    path = tmp_path / "cache" / "digits-none-0.json"
    path.write_text(json.dumps({**results[0], "accuracy": {"flipped": 12.5}}))
    assert cached(run, METHODS["none"], 0.0)["accuracy"] == {"flipped": 12.5}


def test_every_sample_comes_once_in_a_round() -> None:
    drawn = np.concatenate(list(batches(20, 10, seed=3)))
    assert len(drawn) == 80
    for start in range(0, 80, 20):
        assert sorted(drawn[start : start + 20]) == list(range(20))
    assert np.array_equal(drawn, np.concatenate(list(batches(20, 10, seed=3))))
