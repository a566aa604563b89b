# SPDX-License-Identifier: Apache-2.0
"""One file per algorithm, each reading like the steps in its paper. :data:`ALGORITHMS` has them by name."""

from __future__ import annotations

from tlc.errors import ConfigError, nearest
from tlc_host.algorithms.adasplit import AdaSplit
from tlc_host.algorithms.base import Algorithm
from tlc_host.algorithms.clustered import ClusteredFL
from tlc_host.algorithms.cpsl import CPSL
from tlc_host.algorithms.distillation import OnlineDistillation
from tlc_host.algorithms.early_exit import EarlyExit
from tlc_host.algorithms.edgesplit import EdgeSplit
from tlc_host.algorithms.epsl import EPSL
from tlc_host.algorithms.fedasync import FedAsync
from tlc_host.algorithms.fedavg import FedAvg
from tlc_host.algorithms.fedprox import FedProx
from tlc_host.algorithms.gossip import Gossip
from tlc_host.algorithms.local import Local
from tlc_host.algorithms.multihop import MultiHop
from tlc_host.algorithms.psl import PSL
from tlc_host.algorithms.splitfed_v1 import SplitFedV1
from tlc_host.algorithms.splitfed_v2 import SplitFedV2
from tlc_host.algorithms.tinyreptile import TinyReptile
from tlc_host.algorithms.transfer import Transfer
from tlc_host.algorithms.ushaped import UShaped
from tlc_host.algorithms.vsl import VSL

__all__ = ["ALGORITHMS", "find"]

ALGORITHMS: dict[str, type[Algorithm]] = {
    algorithm.name: algorithm
    for algorithm in (
        *(VSL, UShaped, MultiHop, PSL, EPSL, EdgeSplit, CPSL, SplitFedV1, SplitFedV2, AdaSplit, EarlyExit),
        *(FedAvg, FedProx, FedAsync, ClusteredFL, Gossip, TinyReptile, OnlineDistillation, Transfer, Local),
    )
}
"""By the names that ``--algorithm`` takes."""


def find(name: str, where: str = "--algorithm") -> type[Algorithm]:
    """An algorithm by its name.

    Raises:
        ConfigError: there is none; names the nearest.
    """
    try:
        return ALGORITHMS[name]
    except KeyError:
        raise ConfigError(f"no algorithm '{name}'", where=where, remedy=nearest(name, ALGORITHMS)) from None
