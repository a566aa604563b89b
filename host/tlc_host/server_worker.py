# SPDX-License-Identifier: Apache-2.0
"""The host segment from an event loop: one thread runs TensorFlow, in the order in which it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tlc_host.server_model import ServerModel, StepResult

__all__ = ["ServerWorker"]

P = ParamSpec("P")
R = TypeVar("R")
Float = NDArray[np.float32]


class ServerWorker:
    """A :class:`~tlc_host.server_model.ServerModel` whose methods are awaited; the event loop goes on meanwhile.

    ::

        async with ServerWorker(ServerModel(directory)) as server:
            result = await server.gradient(smashed, labels)
            await server.apply()

    A call that is cancelled after it began is finished all the same: what it did to the weights holds.
    """

    def __init__(self, model: ServerModel) -> None:
        self.model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tlc-server-model")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for what was asked, without blocking the loop."""
        await asyncio.to_thread(self._thread.shutdown)

    async def gradient(
        self, smashed: NDArray[np.int8], labels: NDArray[Any], *, loss: str = "cross_entropy"
    ) -> StepResult:
        """As of the model."""
        return await self.call(self.model.gradient, smashed, labels, loss=loss)

    async def forward(self, smashed: NDArray[np.int8], *, logits: bool = False) -> Float:
        """As of the model."""
        return await self.call(self.model.forward, smashed, logits=logits)

    async def backward(
        self, smashed: NDArray[Any], gradient: Float, *, logits: bool = False, samples: int | None = None
    ) -> Float:
        """As of the model."""
        return await self.call(self.model.backward, smashed, gradient, logits=logits, samples=samples)

    async def discard(self) -> None:
        """As of the model."""
        await self.call(self.model.discard)

    async def apply(self, learning_rate: float | None = None) -> float:
        """As of the model."""
        return await self.call(self.model.apply, learning_rate)

    async def infer(self, smashed: NDArray[np.int8]) -> list[Float]:
        """As of the model."""
        return await self.call(self.model.infer, smashed)

    async def snapshot(self) -> dict[str, NDArray[Any]]:
        """As of the model."""
        return await self.call(self.model.snapshot)

    async def restore(self, snapshot: Mapping[str, NDArray[Any]]) -> None:
        """As of the model."""
        await self.call(self.model.restore, snapshot)

    async def call(self, method: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Any function in the worker's thread, after what was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, lambda: method(*args, **kwargs))
