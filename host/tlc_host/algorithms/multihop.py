# SPDX-License-Identifier: Apache-2.0
"""Multi-hop split learning: Vepakomma et al., arXiv 1812.00564, the extended vanilla configuration; its pipelining is Tirana et al.,
arXiv 2402.00208.

L is cut over a chain of servers, L = L_K ∘ … ∘ L_1. In a batch of parallel split learning (psl.py), or of one device:

1. the devices send z_n = T_n(x_n) to the first server, each server sends what its part makes of it to the next;
2. the last one has the labels: it takes the gradient of the mean loss, and sends back that at its input;
3. each server before it takes the gradient on through its part, in reverse order; the first one returns g_n to the devices;
4. every L_k and T_n takes a step.

The result is that of one server, up to the rounding of sums: what is split is the work. Here the servers are parts of one process, each a
model of its own with its own optimizer, which knows of the others only what crosses the hops: `host_clip` is for each. After every round their
weights and what the optimizers keep go into the host segment, so that checkpoints and ``host.trained.onnx`` hold them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tlc.errors import ConfigError, nearest
from tlc_host.algorithms import base
from tlc_host.algorithms.base import Float, Int8, Slot, Tally, split_rows
from tlc_host.algorithms.psl import PSL
from tlc_host.cohort import Member

if TYPE_CHECKING:
    from tlc_host.model.trainer import Trainer

__all__ = ["MultiHop", "hops"]


class MultiHop(PSL):
    """Parallel split learning with the host part cut over a chain of servers."""

    name = "multihop"
    title = "Multi-hop split learning"
    paper = "Vepakomma et al., arXiv 1812.00564; Tirana et al., arXiv 2402.00208"

    class Settings(base.Settings):
        """Adds where L is cut."""

        hops: tuple[str, ...] = Field(
            (), description="Tensors of host.onnx at which one server hands over to the next; none: one server."
        )

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.chain: list[Trainer] = []

    async def round(self) -> None:
        """As in PSL; the servers' weights come from the host segment, and go back there."""
        await self.server.call(self.hand_out)
        await super().round()
        await self.server.call(self.gather)

    async def learn(self, slot: Slot, z: Mapping[Member, Int8], tally: Tally) -> dict[Member, Float]:
        """Steps 1 to 3."""
        if not z:
            return {}
        labels = np.concatenate([slot.parts[member].labels for member in z])
        loss, correct, gradient = await self.server.call(self.along, np.concatenate(list(z.values())), labels)
        tally.add(loss, correct, len(labels))
        return split_rows(gradient * np.float32(len(labels)), z)

    def along(self, z: Int8, labels: Any) -> tuple[float, int, Float]:
        """There and back: the mean loss, how many were right, and its gradient at z."""
        edge = self.bundle.outputs[0]
        sent = [edge.to_file(z)]
        for server in self.chain[:-1]:
            sent.append(server.forward(sent[-1]))
        result = self.chain[-1].gradient(sent[-1], labels)
        back = result.gradient
        for server, x in zip(self.chain[-2::-1], sent[-2::-1], strict=True):
            back = server.backward(x, back)
        return result.loss, result.correct, edge.origin.from_file(back, edge.shape)

    async def apply(self, tally: Tally) -> None:
        """L_k ← L_k − η ∇L_k on every server."""
        if tally.samples:
            for server in self.chain:
                await self.server.call(server.apply, self.settings.host_rate)

    def hand_out(self) -> None:
        """The host segment's weights, and what its optimizer keeps, to the servers."""
        if not self.chain:
            from tlc_host.model.trainer import Trainer

            model = self.server.model
            parts = hops(model.onnx(), self.settings.hops, str(model.directory / model.bundle.host_file))
            self.chain = [Trainer(part, model.settings, f"hop {number + 1}") for number, part in enumerate(parts)]
        state = self.state_of_all()
        for server in self.chain:
            server.discard()
            server.restore({name: state[name] for name in server.state()})

    def gather(self) -> None:
        """The servers' weights, and what their optimizers keep, to the host segment."""
        state = self.state_of_all()
        for server in self.chain:
            state |= server.state()
        self.server.model.restore(state)

    def state_of_all(self) -> dict[str, NDArray[Any]]:
        """The host segment's; its training may not have begun."""
        self.server.model.weights()
        return self.server.model.snapshot()


def hops(model: bytes, tensors: tuple[str, ...], where: str = "host.onnx") -> list[bytes]:
    """A model cut at some of its tensors, in order, into a chain of models.

    Raises:
        ConfigError: there is no such tensor, or more than that one crosses the cut.
    """
    import onnx
    from onnx import shape_inference
    from onnx.utils import Extractor

    proto = shape_inference.infer_shapes(onnx.load_model_from_string(model))
    made = [name for node in proto.graph.node for name in node.output]
    places = []
    for tensor in tensors:
        if tensor not in made:
            raise ConfigError(f"no tensor '{tensor}'", where=f"hops of {where}", remedy=nearest(tensor, made))
        places.append(made.index(tensor))
    if places != sorted(set(places)):
        raise ConfigError(f"{', '.join(tensors)} are not in the order of the network", where="hops", remedy="sort them")
    constants = {tensor.name for tensor in proto.graph.initializer}
    (first,) = [value.name for value in proto.graph.input if value.name not in constants]
    ends = [first, *tensors, proto.graph.output[0].name]
    parts = []
    for begin, end in itertools.pairwise(ends):
        inside = _between(proto, begin, end)
        if first in inside - {begin} or (begin not in inside):
            raise ConfigError(
                f"more than '{begin}' crosses into the part that makes '{end}'",
                where=f"hops of {where}",
                remedy="take a tensor through which everything passes",
            )
        part = Extractor(proto).extract_model([begin], [end])
        part.metadata_props.extend(proto.metadata_props)
        parts.append(part.SerializeToString())
    return parts


def _between(proto: Any, begin: str, end: str) -> set[str]:
    """Names that ``end`` needs, going back no further than ``begin``."""
    needed = {end}
    for node in reversed(proto.graph.node):
        if needed & set(node.output) and begin not in node.output:
            needed.update(name for name in node.input if name)
    return needed
