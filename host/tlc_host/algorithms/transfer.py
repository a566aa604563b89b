# SPDX-License-Identifier: Apache-2.0
"""Transfer learning to each device, with correlation alignment: Sun and Saenko, "Deep CORAL", arXiv 1607.01719; the survey's
equation 3 with R_S and R_n the covariances of the features of source and device.

The network was trained on the host. Each device adapts its own T (all of it, or what it was compiled to learn), L stays as it is:

1. z = T(x) of a batch; the gradient of α · loss(L(z), y) as far as there are labels (α = ``supervised``);
2. plus λ times that of the CORAL loss between the batch's features and the source's,

       l = ‖R_S − R_n‖²_F / 4d²,    dl/dZ = Zc (R_n − R_S) / (d² (b − 1)),   Zc the centred rows of Z, d features

3. T_n ← T_n − η ∇.

Nothing is averaged: every device ends with a T of its own. The source's covariance comes from a file of source samples, run through
the twin as it was compiled. CORAL needs a batch's features together, so it takes ``exchange = "batch"``, and no labels at all
with ``supervised = 0``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from tlc.bundle import Bundle
from tlc_host.algorithms import base
from tlc_host.algorithms.base import Float, Int8, Tally, require_outputs
from tlc_host.algorithms.fedavg import FedAvg
from tlc_host.shards import Shard, load_shard

__all__ = ["Transfer", "coral"]


class Transfer(FedAvg):
    """Every device adapts its own part to its own samples."""

    name = "transfer"
    title = "Transfer learning with CORAL"
    paper = "Sun and Saenko, arXiv 1607.01719"

    class Settings(base.Settings):
        """Adds the weights of the two terms, and the source."""

        supervised: float = Field(1.0, ge=0, description="Weight α of the labelled loss; 0: adapt without labels.")
        coral: float = Field(0.0, ge=0, description="Weight λ of the CORAL loss.")
        source: Path | None = Field(None, description="Samples that the network was trained on: .npz as for --train.")

        @model_validator(mode="after")
        def _together(self) -> Transfer.Settings:
            if self.coral and (self.source is None or self.exchange != "batch" or self.batch < 2):
                raise ValueError("coral needs source = FILE, exchange = batch, and a batch of 2 or more")
            return self

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.source: NDArray[np.float64] | None = None

    @classmethod
    def require(cls, bundle: Bundle, where: str) -> None:
        """As of the base; and the features must come to the host."""
        require_outputs(cls.name, bundle, where)
        super().require(bundle, where)

    async def round(self) -> None:
        """Each device by itself."""
        if self.settings.coral and self.source is None:
            self.source = await self.server.call(self.source_covariance)
        await self.cohort.each(self.cohort.present, self.turn)

    async def local_gradient(self, part: Shard, z: Int8, tally: Tally) -> Float:
        """Steps 1 and 2."""
        g = await super().local_gradient(part, z, tally) * np.float32(self.settings.supervised)
        if self.source is not None:
            _, more = coral(self.features(z), self.source)
            g = g + np.float32(self.settings.coral * len(z)) * more.reshape(g.shape).astype(np.float32)
        return g

    def features(self, z: Int8) -> NDArray[np.float64]:
        """(samples, d) dequantized."""
        edge = self.bundle.outputs[0]
        return ((z.astype(np.float64) - edge.zero_point) * edge.scale).reshape(len(z), -1)

    def source_covariance(self) -> NDArray[np.float64]:
        """R_S: (d, d)."""
        from tlc.twin import TwinLibrary

        twin = TwinLibrary(self.server.model.directory, cut=self.bundle.cut).create()
        z = twin.forward(load_shard(self.settings.source, self.bundle).inputs)[0]
        return np.cov(self.features(z), rowvar=False)


def coral(features: NDArray[np.float64], source: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """The CORAL loss of (samples, d) features against a (d, d) covariance, and its gradient (samples, d)."""
    count, d = features.shape
    centred = features - features.mean(axis=0)
    apart = centred.T @ centred / (count - 1) - source
    return float((apart**2).sum() / (4 * d * d)), centred @ apart / (d * d * (count - 1))
