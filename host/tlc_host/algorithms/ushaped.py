# SPDX-License-Identifier: Apache-2.0
"""U-shaped split learning: Vepakomma et al., arXiv 1812.00564, the configuration without label sharing.

The device has both ends of the network, T and V, the server the part L between: ŷ = V(L(T(x))). Devices take turns, as in
vanilla split learning (vsl.py). In a turn, for each sample of a batch, four messages:

1. the device runs T on a sample of its own and sends z = T(x);
2. the server sends u = L(z), as int8 with the scale that the compiler chose;
3. the device runs V, takes the gradient of the loss against the label that only it knows, takes it on through V and sends dloss/du;
4. the server takes it on through L and returns g = dloss/dz, which the device takes on through T.

After the batch V, L and T take an SGD step. T and V go to the next device.

No label is in any frame, and no output: the server learns each sample's loss, and whether the device was right, for its progress.
Samples are the device's own; only twins are given theirs by this process, beside the link.
"""

from __future__ import annotations

import numpy as np

from tlc_host.algorithms.base import Tally
from tlc_host.algorithms.vsl import VSL
from tlc_host.cohort import Member
from tlc_host.shards import Shard

__all__ = ["UShaped"]


class UShaped(VSL):
    """Vanilla split learning with the last layers, and the labels, on the device."""

    name = "ushaped"
    title = "U-shaped split learning"
    paper = "Vepakomma et al., arXiv 1812.00564"
    ushaped = True

    async def batch(self, member: Member, batch: Shard) -> Tally:
        """One optimizer step on both sides, in the steps above."""
        tally = Tally()
        device, bundle = member.device, self.bundle
        assert bundle.tail is not None
        edge = bundle.tail.input
        device.give(batch)
        for _ in range(len(batch)):
            z = await device.forward_own()
            u = edge.to_device(await self.server.forward(z))
            gradient, loss, right = await device.forward_tail(u)
            tally.add(loss, int(right), 1)
            g = await self.server.backward(z, edge.origin.to_file(gradient))
            await device.backward(g.astype(np.float32))
        await self.server.apply(self.settings.host_rate)
        await device.step(self.settings.lr)
        return tally
