# SPDX-License-Identifier: Apache-2.0
"""One device, as awaitable calls.

::

    session = await Session.connect("tcp://127.0.0.1:7000", bundle_hash)
    reply = await session.forward(x)                      # int8 in, int8 out
    await session.backward(reply, gradient)               # float32, d loss / d reply.outputs[0]
    await session.step(number, learning_rate, seed)
    await session.close()

A session outlives a broken transport, a lost link and a restarted host daemon: requests that wait for an answer are
asked again with the same number, and the device does nothing twice. It does not outlive a restart of the *device*,
which has forgotten its forward pass and its learned tensors: then every call raises ``DeviceReset`` until
``await session.greet()``.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tlc.errors import (
    BundleMismatch,
    DeviceError,
    DeviceFault,
    DeviceReset,
    DeviceTimeout,
    LinkError,
    ProtocolError,
    TlcError,
)
from tlc_host import messages as m
from tlc_host.capture import captured
from tlc_host.exits import bound_of
from tlc_host.link import EndReason, Link, State
from tlc_host.link.endpoint import Counters
from tlc_host.link.frame import FAULT
from tlc_host.transports import Transport, open_transport

if TYPE_CHECKING:
    from tlc_host.transports.listen import Seat

__all__ = ["Session", "SmashedReply"]

Int8 = npt.NDArray[np.int8]
Float32 = npt.NDArray[np.float32]
SampleHook = Callable[["SmashedReply"], "Float32 | Awaitable[Float32] | None"]

BACKLOG = 8192
RETRY_S = 0.002
COMES_AGAIN_S = 120.0
"""For how long a device that connects to us is waited for: its own waits grow to 30 s."""
COMMON_AND_PARAMS = 28
PATTERN = bytes(range(1, 251))

_log = logging.getLogger("tlc.device")


@dataclass(frozen=True, slots=True)
class SmashedReply:
    """The answer to a forward pass.

    Attributes:
        request: its number; ``backward`` wants it.
        outputs: the output tensors, each (elements,) int8, in the bundle's order.
        ticks: instructions (emulator) or cycles (silicon) that the pass took; a twin's are no measure.
        batch: the batch number it was asked with.
        exited: the one output is that of the head at the cut.
    """

    request: int
    outputs: tuple[Int8, ...]
    ticks: int
    round: int = 0
    step: int = 0
    batch: int = 0
    exited: bool = False


@dataclass(slots=True)
class _Pending:
    messages: list[m.Message]
    future: asyncio.Future[m.Message | SmashedReply]
    answer: type[m.Message]
    parts: dict[int, m.Smashed] = field(default_factory=dict)


class Session:
    """One device. Make it with ``connect``.

    Attributes:
        hello: what the device last said of itself.
        name: the device, for messages.
        sensor: of a twin: gives its application the next sample, reals in the device's layout, and its label, beside the link.
    """

    def __init__(
        self,
        opener: Callable[[], Awaitable[Transport]],
        bundle_hash: bytes,
        *,
        name: str,
        link: Link,
        timeout_s: float,
        reconnect_s: float,
        on_sample: SampleHook | None,
        on_log: Callable[[int, str], None] | None,
        cut: int | None = None,
    ) -> None:
        self._opener = opener
        self._hash = bundle_hash
        self._cut = cut
        self._selects = 0
        self._link = link
        self._timeout = timeout_s
        self._reconnect = reconnect_s
        self._on_sample = on_sample
        self._on_log = on_log or (lambda level, text: _log.log(level, "%s: %s", name, text))
        self._transport: Transport | None = None
        self._seat: Seat | None = None
        self._reader: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._pending: dict[int, _Pending] = {}
        self._outbox: deque[m.Message] = deque()
        self._next_request = secrets.randbelow(0x3FFFFFFF) + 1
        self._token = 0
        self._welcome = 0
        self._greeted = asyncio.Event()
        self._reset: DeviceReset | None = None
        self._crash: asyncio.Future[DeviceFault] | None = None
        self._broken: TlcError | None = None
        self._closed = False
        self._sampled: dict[int, m.Smashed] = {}
        self.hello = m.Hello()
        self.name = name
        self.sensor: Callable[[Float32, int], None] | None = None

    # ---- life ----

    @classmethod
    async def connect(
        cls,
        device: str | Callable[[], Awaitable[Transport]],
        bundle_hash: bytes,
        *,
        name: str = "",
        baud: int = 115200,
        timeout_s: float = 10.0,
        reconnect_s: float = 10.0,
        link: Link | None = None,
        on_sample: SampleHook | None = None,
        on_log: Callable[[int, str], None] | None = None,
        cut: int | None = None,
    ) -> Session:
        """Opens a device, begins a session and greets.

        Args:
            device: a name for ``transports.open_transport``, or a function that opens a transport anew.
            bundle_hash: 32 bytes; the device must hold the same.
            baud: of a serial line.
            timeout_s: longest wait for an answer.
            reconnect_s: for how long a broken transport is opened again; 0: never.
            link: settings of the link.
            on_sample: called with the smashed data of the device's own sample; gives the network's output, (count,)
                float32, which goes to the application's result hook. May be a coroutine function.
            on_log: called with level and text of the device's log lines; else they go to the logger ``tlc.device``.
            cut: which of the bundle's cuts, where it has several; also after the device's resets.

        Raises:
            LinkError: the transport cannot be opened.
            DeviceTimeout: nobody answers.
            BundleMismatch: the device holds another bundle.
            ProtocolError: the device speaks another version.
        """
        seat: Seat | None = None
        if isinstance(device, str):
            spec = device
            if device.startswith("listen://"):
                from tlc_host.transports.listen import take_seat

                seat = await take_seat(device)
                reconnect_s = max(reconnect_s, COMES_AGAIN_S) if reconnect_s else 0

            async def opener() -> Transport:
                return await (seat.open() if seat is not None else open_transport(spec, baud=baud))

            name = name or spec
        else:
            opener = device  # type: ignore[assignment]
        session = cls(
            captured(opener, name or "device"),
            bundle_hash,
            name=name or "device",
            link=link or Link(),
            timeout_s=timeout_s,
            reconnect_s=reconnect_s,
            on_sample=on_sample,
            on_log=on_log,
            cut=cut,
        )
        if seat is not None:
            session._seat = seat
            seat.number = lambda: session._link.session
        try:
            session._transport = await session._opener()
        except BaseException:
            await session.close()
            raise
        session._link.open(session._now())
        session._reader = asyncio.create_task(session._read(), name=f"tlc {session.name}")
        session._flush()
        try:
            await session._wait_greeted()
        except BaseException:
            await session.close()
            raise
        return session

    async def greet(self) -> m.Hello:
        """Takes note of a device's restart: waits until it has said hello, and lets calls through again."""
        self._check(reset=False)
        await self._wait_greeted()
        self._reset = None
        return self.hello

    async def close(self) -> None:
        """Says goodbye and lets go of the transport."""
        if self._closed:
            return
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._link.close()
        if self._transport is not None:
            with contextlib.suppress(LinkError):
                self._transport.write(self._link.output(self._now()))
        for task in [self._reader, *self._tasks]:
            if task is not None and task is not asyncio.current_task():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, TlcError):
                    await task
        if self._transport is not None:
            await self._transport.close()
        if self._seat is not None:
            await self._seat.close()
        self._fail_pending(LinkError("the session was closed", where=self.name))

    async def __aenter__(self) -> Session:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def counters(self) -> Counters:
        """What the host's end of the link has seen."""
        return self._link.counters

    @property
    def waiting(self) -> tuple[int, int]:
        """What has not left or not arrived: bytes before the line, and messages that are not acknowledged."""
        return (self._transport.backlog() if self._transport is not None else 0), self._link.unacknowledged

    @property
    def most_bytes(self) -> int:
        """Largest bulk message that the device takes; 0 while there is no session."""
        return self._link.peer_max_message

    # ---- calls ----

    async def forward(
        self,
        x: Int8 | Sequence[Int8],
        *,
        keep: bool = True,
        exit: float | None = None,
        round: int = 0,
        step: int = 0,
        batch: int = 0,
    ) -> SmashedReply:
        """Runs the device segment.

        Args:
            x: the input tensor (any shape) int8, or one a model input.
            keep: a ``backward`` will follow, so the device takes no sample of its own until then.
            exit: where the head at the cut is surer than that, 0 to 1, the answer is its output alone; 0: whatever it is.
                None: it is not asked.

        Raises:
            DeviceError, DeviceTimeout, DeviceReset, LinkError
        """
        tensors = [x] if isinstance(x, np.ndarray) else list(x)
        request = self._number()
        parts: list[m.Message] = []
        for index, tensor in enumerate(tensors):
            if tensor.dtype != np.int8:
                raise ProtocolError(f"input {index} must be int8, not {tensor.dtype}", where=self.name)
            flags = m.ForwardFlag(0)
            if index == len(tensors) - 1:
                flags |= m.ForwardFlag.RUN | (m.ForwardFlag.KEEP if keep else m.ForwardFlag(0))
                flags |= m.ForwardFlag(0) if exit is None else m.ForwardFlag.EXIT
            parts.append(
                m.Forward(
                    request=request,
                    round=round,
                    step=step,
                    batch=batch,
                    index=index,
                    flags=flags,
                    bound=bound_of(exit or 0.0),
                    tensor=tensor.tobytes(),
                )
            )
        reply = await self._ask(parts, m.Smashed)
        assert isinstance(reply, SmashedReply)
        return reply

    async def infer(self, x: Int8 | Sequence[Int8], *, exit: float | None = None) -> SmashedReply:
        """``forward`` without a ``backward`` to come."""
        return await self.forward(x, keep=False, exit=exit)

    async def set_exit(self, threshold: float) -> None:
        """How sure the head at the cut must be of the device's own samples to answer them itself, 0 to 1: 1, as after a
        reset, never.

        Raises:
            DeviceError: status STATE when there is no such head.
        """
        await self._ask_done(m.Exit(request=self._number(), bound=bound_of(threshold)))

    async def backward(
        self,
        reply: SmashedReply | int,
        gradient: Float32 | Int8,
        *,
        scale: float = 1.0,
        batch: int | None = None,
        round: int = 0,
        step: int = 0,
    ) -> m.Done:
        """Hands in d loss / d ``reply.outputs[0]`` and runs the backward pass.

        Args:
            reply: of the forward pass it belongs to, or that pass's request number.
            gradient: (elements,) float32 reals, or int8 with real = scale * q.

        Raises:
            DeviceError: status STATE when the device's arena holds another forward pass; NUMERIC for NaN.
        """
        if isinstance(reply, SmashedReply):
            forward, batch = reply.request, reply.batch if batch is None else batch
        else:
            forward = reply
        dtype = m.Dtype.S8 if gradient.dtype == np.int8 else m.Dtype.F32
        if dtype == m.Dtype.F32 and gradient.dtype != np.float32:
            raise ProtocolError(f"a gradient is float32 or int8, not {gradient.dtype}", where=self.name)
        message = m.Backward(
            request=self._number(),
            round=round,
            step=step,
            batch=batch or 0,
            forward=forward,
            dtype=dtype,
            scale=scale,
            gradient=gradient.tobytes(),
        )
        return await self._ask_done(message)

    async def step(
        self,
        number: int,
        learning_rate: float,
        seed: int = 0,
        *,
        round: int = 0,
        max_norm: float = 0.0,
        save: bool = False,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> m.Done:
        """Applies the accumulated gradient as step ``number`` (from 1). One that was applied before is acknowledged
        with the flag REPEATED and not applied again.

        Args:
            max_norm: largest norm of the mean gradient; 0: the device's own bound.
            save: and then into the journal; the flag SAVED tells whether that was done.
            momentum: of the velocities that a project compiled with ``--momentum`` keeps.
            weight_decay: of weights, not of biases.
            clip: longest mean gradient of a tensor, to which longer ones are scaled down; 0: any.

        Raises:
            DeviceError: status NUMERIC when training diverged: then the device is back at its journal's last entry, or
                the values in flash. STATE when it updates at once: then there is :meth:`train`.
        """
        return await self._ask_done(
            m.Step(
                request=self._number(),
                round=round,
                step=number,
                learning_rate=learning_rate,
                seed=seed & 0xFFFFFFFF,
                max_norm=max_norm,
                momentum=momentum,
                weight_decay=weight_decay,
                clip=clip,
                flags=m.StepFlag.SAVE if save else m.StepFlag(0),
            )
        )

    async def train(
        self,
        reply: SmashedReply | int,
        lesson: int | Float32 | Int8,
        number: int | None = None,
        learning_rate: float = 0.0,
        seed: int = 0,
        *,
        scale: float = 1.0,
        values: bool = False,
        label: int | None = None,
        batch: int | None = None,
        round: int = 0,
        max_norm: float = 0.0,
        save: bool = False,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        clip: float = 0.0,
    ) -> m.Trained:
        """Goes back from a forward pass and, with a step's ``number``, takes that step at once.

        The only way to train a device that updates inside its backward pass (``--train-batch 1``), and the way to one that
        computes the loss (``--loss``). What is sent twice is done once.

        Args:
            reply: of the forward pass it belongs to, or that pass's request number.
            lesson: a class (int), where the device has a loss; or the gradient of output 0, float32 or int8.
            number: of the step, from 1; None: the gradient is accumulated, for a later step.
            scale: of an int8 gradient: real = scale * q.
            values: ``lesson`` is no gradient, but the float32 values that output 0 should have had.
            label: beside a gradient, to a device with a head at the cut: the class, for that head's loss.

        The rest as for :meth:`step`.

        Raises:
            DeviceError: status ARG when there is no such class, STATE when the device has no loss, or its arena holds
                another pass; NUMERIC when training diverged.
        """
        forward = reply.request if isinstance(reply, SmashedReply) else reply
        if isinstance(reply, SmashedReply) and batch is None:
            batch = reply.batch
        value, data = 0, b""
        if isinstance(lesson, np.ndarray):
            if lesson.dtype not in (np.float32, np.int8) or (values and lesson.dtype != np.float32):
                raise ProtocolError(
                    f"a gradient is float32 or int8, values float32, not {lesson.dtype}", where=self.name
                )
            data = lesson.tobytes()
            kind = m.TrainKind.S8 if lesson.dtype == np.int8 else m.TrainKind.F32
            value = m.Train.scaled(scale) if kind == m.TrainKind.S8 else 0
            if label is not None:
                kind = m.TrainKind.BOTH_S8 if kind == m.TrainKind.S8 else m.TrainKind.BOTH_F32
                if not 0 <= label < 1 << 16:
                    raise ProtocolError(
                        f"a label beside a gradient is a class from 0 to 65535, not {label}", where=self.name
                    )
            kind = m.TrainKind.VALUES if values else kind
        else:
            kind, value = m.TrainKind.LABEL, int(lesson)
            if not 0 <= value < 1 << 32:
                raise ProtocolError(f"a label is a class from 0, not {value}", where=self.name)
        flags = m.StepFlag(0)
        if number is not None:
            flags |= m.StepFlag.APPLY | (m.StepFlag.SAVE if save else m.StepFlag(0))
        message = m.Train(
            request=self._number(),
            round=round,
            step=number or 0,
            batch=batch or 0,
            forward=forward,
            kind=kind,
            flags=flags,
            label=label or 0,
            value=value,
            learning_rate=learning_rate,
            seed=seed & 0xFFFFFFFF,
            max_norm=max_norm,
            momentum=momentum,
            weight_decay=weight_decay,
            clip=clip,
            data=data,
        )
        answer = await self._ask([message], m.Trained)
        assert isinstance(answer, m.Trained)
        return answer

    async def forward_own(self, *, round: int = 0, step: int = 0, batch: int = 0) -> SmashedReply:
        """Runs the device segment on the next sample of the device's own.

        Raises:
            DeviceError: status STATE when it has none.
        """
        message = m.Forward(
            request=self._number(),
            round=round,
            step=step,
            batch=batch,
            flags=m.ForwardFlag.RUN | m.ForwardFlag.KEEP | m.ForwardFlag.OWN,
        )
        reply = await self._ask([message], m.Smashed)
        assert isinstance(reply, SmashedReply)
        return reply

    async def tail(self, reply: SmashedReply, tensor: Int8) -> Int8:
        """Goes on behind the host's part of a U-shaped split: (elements,) int8, the network's output.

        Args:
            reply: of the forward pass it belongs to.
            tensor: int8, what the host's part made of it.

        Raises:
            DeviceError: status STATE when the device has no such part, or its arena holds another pass.
        """
        answer = await self._ask([self._tail(reply, tensor, m.TailKind.OUTPUT)], m.Smashed)
        assert isinstance(answer, SmashedReply)
        return answer.outputs[0]

    async def tail_result(self, reply: SmashedReply, tensor: Int8) -> None:
        """The same, but the output goes to the application's result hook alone."""
        await self._ask_done(self._tail(reply, tensor, m.TailKind.RESULT))

    async def tail_learn(self, reply: SmashedReply, tensor: Int8, label: int | None = None) -> m.Gradient:
        """The same, with loss and backward pass. ``backward`` with the gradient at the cut is to follow.

        Args:
            label: the class; None: the one that the device's own sample came with.

        Returns:
            The loss, and float32 d loss / d ``tensor``, as reals.

        Raises:
            DeviceError: status ARG when there is no such class, STATE when the sample came without a label.
        """
        kind = m.TailKind.OWN if label is None else m.TailKind.LABEL
        answer = await self._ask([self._tail(reply, tensor, kind, label or 0)], m.Gradient)
        assert isinstance(answer, m.Gradient)
        return answer

    def _tail(self, reply: SmashedReply, tensor: Int8, kind: m.TailKind, value: int = 0) -> m.Tail:
        if tensor.dtype != np.int8:
            raise ProtocolError(f"what goes to the tail is int8, not {tensor.dtype}", where=self.name)
        return m.Tail(
            request=self._number(),
            round=reply.round,
            step=reply.step,
            batch=reply.batch,
            forward=reply.request,
            kind=kind,
            value=value,
            tensor=tensor.tobytes(),
        )

    async def select(self, cut: int) -> None:
        """Ends the device's part at another of the bundle's cuts, now and after its resets. The forward pass that its arena
        holds, and the gradients accumulated since the last step, are forgotten, unless it ends there already.

        Args:
            cut: its index in the bundle's list.

        Raises:
            DeviceError: status ARG when the bundle has not so many.
        """
        await self._ask_done(m.Cut(request=self._number(), index=cut))
        self._cut = cut

    async def get_params(self) -> bytes:
        """The learned tensors, as they lie in the device's state (the bundle tells their layout)."""
        reply = await self._ask([m.GetParams(request=self._number())], m.Params)
        assert isinstance(reply, m.Params)
        return reply.data

    async def get_delta(self) -> bytes:
        """The learned tensors as coded differences to the values in flash (:mod:`tlc_host.weights`).

        Raises:
            DeviceError: status FULL when its arena has no room for them; then there is ``get_params``.
        """
        reply = await self._ask([m.GetParams(request=self._number(), coding=m.Coding.DELTA)], m.Params)
        assert isinstance(reply, m.Params)
        return reply.data

    async def set_delta(self, data: bytes, *, step: int = 0) -> bool:
        """Replaces the learned tensors by the values in flash plus coded differences. False: the device has not the room
        for so long a message; then there is ``set_params``."""
        if len(data) > self._link.peer_max_message - COMMON_AND_PARAMS:
            return False
        total = self.hello.param_bytes
        await self._ask_done(
            m.SetParams(request=self._number(), step=step, total=total, coding=m.Coding.DELTA, data=data)
        )
        return True

    async def set_params(self, data: bytes, *, step: int = 0) -> None:
        """Replaces the learned tensors; in pieces, where the device has not the room for all.

        Args:
            step: that they belong to: the device takes the next one for a new one.
        """
        if len(data) != self.hello.param_bytes:
            raise ProtocolError(
                f"the learned tensors have {self.hello.param_bytes} bytes, not {len(data)}", where=self.name
            )
        piece = max(1, self._link.peer_max_message - COMMON_AND_PARAMS)
        for offset in range(0, len(data), piece):
            part = data[offset : offset + piece]
            await self._ask_done(
                m.SetParams(request=self._number(), step=step, offset=offset, total=len(data), data=part)
            )

    async def save(self) -> bool:
        """Writes the learned tensors into the device's journal; False: they were there already.

        Raises:
            DeviceError: status STATE when the device keeps nothing, SIZE when a slot is too small, CORRUPT when its
                flash is worn out.
        """
        done = await self._ask_done(m.Save(request=self._number()))
        return bool(done.flags & m.DoneFlag.SAVED)

    async def journal(self) -> m.Journal:
        """What the device's journal holds."""
        reply = await self._ask([m.GetStats(request=self._number(), what=2)], m.Journal)
        assert isinstance(reply, m.Journal)
        return reply

    async def stats(self) -> m.Stats:
        """Ticks, memory and counters."""
        reply = await self._ask([m.GetStats(request=self._number())], m.Stats)
        assert isinstance(reply, m.Stats)
        return reply

    async def layers(self) -> npt.NDArray[np.uint32]:
        """(layers,) ticks of each layer of the last forward pass."""
        reply = await self._ask([m.GetStats(request=self._number(), what=1)], m.Layers)
        assert isinstance(reply, m.Layers)
        return np.frombuffer(reply.ticks, "<u4")

    async def test(self, send: int, receive: int) -> None:
        """Sends bytes that mean nothing and has others sent back: what the line can carry, without the model.

        Raises:
            DeviceError: status SIZE when ``receive`` is more than the device's arena has.
        """
        await self._ask(
            [m.Test(request=self._number(), count=receive, data=(PATTERN * (send // 250 + 1))[:send])], m.Test
        )

    async def reset_state(self) -> m.Done:
        """The learned tensors back to the values in flash; the step counter to 0, the journal erased."""
        return await self._ask_done(m.ResetState(request=self._number()))

    # ---- asking ----

    def _number(self) -> int:
        number = self._next_request
        self._next_request = number % 0x7FFFFFFE + 1
        return number

    def _check(self, *, reset: bool = True) -> None:
        if self._broken is not None:
            raise self._broken
        if self._closed:
            raise LinkError("the session was closed", where=self.name)
        if reset and self._reset is not None:
            raise self._reset

    async def _ask_done(self, message: m.Message) -> m.Done:
        reply = await self._ask([message], m.Done)
        assert isinstance(reply, m.Done)
        return reply

    async def _ask(self, parts: list[m.Message], answer: type[m.Message]) -> m.Message | SmashedReply:
        self._check()
        future: asyncio.Future[m.Message | SmashedReply] = asyncio.get_running_loop().create_future()
        request = parts[0].request
        self._pending[request] = _Pending(parts, future, answer)
        if self._greeted.is_set():  # else they go out with the greeting
            self._outbox.extend(parts)
            self._flush_soon()
        timer = asyncio.get_running_loop().call_later(self._timeout, self._expire, request)
        try:
            return await future
        finally:
            timer.cancel()
            self._pending.pop(request, None)

    def _expire(self, request: int) -> None:
        pending = self._pending.get(request)
        if pending is None or pending.future.done():
            return
        if self._link.peer_busy:  # one that computes says so; the link gives up one that does so for ever
            asyncio.get_running_loop().call_later(self._timeout, self._expire, request)
            return
        pending.future.set_exception(
            DeviceTimeout(
                f"no answer to {pending.messages[-1].name} within {self._timeout:g} s",
                where=self.name,
                remedy="is the device running, and the line connected?",
            )
        )

    async def _wait_greeted(self) -> None:
        waiter = asyncio.ensure_future(self._greeted.wait())
        crash = self._crash = asyncio.get_running_loop().create_future()
        assert self._reader is not None
        try:
            await asyncio.wait(
                {waiter, self._reader, crash}, timeout=self._timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiter.cancel()
            crash.cancel()
        if not crash.cancelled():
            raise crash.result()
        if self._broken is not None:
            raise self._broken
        if not self._greeted.is_set():
            raise DeviceTimeout(
                f"no greeting within {self._timeout:g} s",
                where=self.name,
                remedy="is the device running this project's firmware, and the line's speed right?",
            )

    def _fail_pending(self, error: TlcError) -> None:
        for pending in self._pending.values():
            if not pending.future.done():
                pending.future.set_exception(error)
        self._outbox.clear()

    def _break(self, error: TlcError) -> None:
        if self._broken is None:
            self._broken = error
        self._greeted.clear()
        self._fail_pending(error)

    # ---- bytes ----

    @staticmethod
    def _now() -> float:
        return time.monotonic() * 1000

    async def _read(self) -> None:
        while self._broken is None and not self._closed:
            assert self._transport is not None
            try:
                data = await self._transport.read()
            except LinkError as error:
                await self._again(error)
                continue
            self._link.receive(data, self._now())
            self._look()
            self._flush_soon()

    async def _again(self, error: LinkError) -> None:
        """Opens a broken transport again; the link's session goes on where it was."""
        end = time.monotonic() + self._reconnect
        wait = 0.05
        assert self._transport is not None
        await self._transport.close()
        self._transport = None
        while time.monotonic() < end:
            try:
                self._transport = await self._opener()
            except LinkError as again:
                error = again
                await asyncio.sleep(wait)
                wait = min(2 * wait, 1.0)
                continue
            self._link.transport_changed()
            self._flush()
            return
        self._break(error)

    def _flush_soon(self) -> None:
        """After what is to run now: those who were just answered may have more to say, and it goes out together."""
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Gives the transport what it can take and looks again when the link wants to."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._soon = None
        if self._closed or self._broken is not None:
            return
        self._feed()
        wait = RETRY_S
        if self._transport is not None:
            try:
                most = getattr(self._transport, "high_water", BACKLOG)
                while (room := most - self._transport.backlog()) > 0:
                    data = self._link.output(self._now(), room)
                    if not data:
                        wait = max(self._link.deadline(self._now()) / 1000, 0.001)
                        break
                    self._transport.write(data)
                    self._feed()
            except LinkError:
                wait = 0.05  # the reader sees it, too, and opens it again
        if self._link.events:
            self._look()
        self._timer = asyncio.get_running_loop().call_later(wait, self._flush)

    def _feed(self) -> None:
        while self._outbox:
            message = self._outbox[0]
            try:
                if not self._link.send(message.TYPE, message.STREAM, message.pack()):
                    return
            except ValueError as error:
                pending = self._pending.get(message.request)
                if pending is not None and not pending.future.done():
                    pending.future.set_exception(ProtocolError(f"{message.name}: {error}", where=self.name))
            self._outbox.popleft()

    # ---- what comes in ----

    def _look(self) -> None:
        while self._link.faults:
            self._take_fault(self._link.faults.popleft())
        while self._link.events:
            event = self._link.events.popleft()
            self._greeted.clear()
            self._outbox.clear()
            self._sampled.clear()
            for pending in self._pending.values():
                pending.parts.clear()
            if event.opened:
                continue
            if event.reason is EndReason.SUPERSEDED:
                self._break(LinkError("another host took this device over", where=self.name, remedy="end one of them"))
                return
            if event.reason is EndReason.VERSION:
                remedy = "build the firmware and the host from the same release"
                self._break(ProtocolError(event.detail, where=self.name, remedy=remedy))
                return
            if self._link.state is not State.OPENING:
                self._link.open(self._now())
        while self._link.messages:
            raw = self._link.messages.popleft()
            try:
                message = m.parse(raw.type, raw.payload)
            except ProtocolError as error:
                self._on_log(logging.WARNING, str(error))
                continue
            self._take(message)
            if self._broken is not None:
                return

    def _take(self, message: m.Message) -> None:
        if isinstance(message, m.Hello):
            self._take_hello(message)
        elif isinstance(message, m.Log):
            self._on_log(message.level, message.text.decode("utf-8", "replace"))
        elif isinstance(message, m.Done) and message.request == self._welcome and message.of == m.Welcome.TYPE:
            self._take_welcomed()
        elif isinstance(message, m.Smashed) and message.flags & m.SmashedFlag.SAMPLE:
            self._take_sample(message)
        elif isinstance(message, m.Error) and (message.request, message.of) in (
            (self._welcome, m.Welcome.TYPE),
            (self._selects, m.Cut.TYPE),
        ):
            what = "welcome" if message.of == m.Welcome.TYPE else "cut"
            self._break(DeviceError(f"refuses the {what}: {message.text.decode('utf-8', 'replace')}", where=self.name))
        else:
            self._take_answer(message)

    def _take_hello(self, hello: m.Hello) -> None:
        if hello.version != m.VERSION:
            self._outbox.append(m.Refuse(reason=m.Status.VERSION, bundle_hash=self._hash))
            self._feed_now()
            self._break(
                ProtocolError(
                    f"the device speaks message version {hello.version}, this host version {m.VERSION}",
                    where=self.name,
                    remedy="build the firmware and the host from the same release",
                )
            )
            return
        if hello.bundle_hash != self._hash:
            self._outbox.append(m.Refuse(reason=m.Status.BUNDLE, bundle_hash=self._hash))
            self._feed_now()
            self._break(
                BundleMismatch(
                    f"the device holds bundle {hello.bundle_hash.hex()}, this host {self._hash.hex()}",
                    where=self.name,
                    remedy="upload the project that this bundle came with (pio run -t upload)",
                )
            )
            return
        crashed = isinstance(self._reset, DeviceFault)
        if not crashed and self._token and (hello.boot != self.hello.boot or hello.token != self._token):
            reason = (
                m.ResetReason(hello.reset).name.lower()
                if hello.reset in m.ResetReason._value2member_map_
                else "unknown"
            )
            self._reset = DeviceReset(
                f"the device restarted (cause: {reason}); its forward pass and unsaved learned tensors are gone",
                where=self.name,
                remedy="greet it again and restore its tensors",
            )
            self._fail_pending(self._reset)
        self.hello = hello
        self._token = secrets.randbelow(0xFFFFFFFF) + 1
        if self._cut is not None:
            self._selects = self._number()
            self._outbox.append(m.Cut(request=self._selects, index=self._cut))
        self._welcome = self._number()
        self._outbox.append(m.Welcome(request=self._welcome, token=self._token, bundle_hash=self._hash))

    def _take_fault(self, wire: bytes) -> None:
        """The last words of a device; one that restarts after them is greeted as after any restart."""
        dump = "".join(c for c in wire.decode("ascii", "replace") if c.isprintable())
        dump = dump[dump.find(FAULT.decode()) :]
        error = DeviceFault(
            f"the device crashed ({dump})",
            where=self.name,
            remedy="tlc symbolize DIR with this line names the source line",
        )
        error.dump = dump
        self._on_log(logging.ERROR, dump)
        self._reset = error
        self._greeted.clear()
        self._fail_pending(error)
        if self._crash is not None and not self._crash.done():  # who waits for a greeting waits in vain
            self._crash.set_result(error)

    def _take_welcomed(self) -> None:
        self.hello = replace(self.hello, token=self._token)
        self._greeted.set()
        for pending in self._pending.values():  # asked before the link broke, and not yet answered: ask again
            if not pending.future.done():
                self._outbox.extend(pending.messages)

    def _feed_now(self) -> None:
        """A last word before the session breaks."""
        self._feed()
        if self._transport is not None:
            with contextlib.suppress(LinkError):
                self._transport.write(self._link.output(self._now(), BACKLOG))

    def _take_sample(self, part: m.Smashed) -> None:
        self._sampled[part.index] = part
        if len(self._sampled) < part.count:
            return
        reply = self._reply(self._sampled)
        self._sampled = {}
        if self._on_sample is not None:
            task = asyncio.get_running_loop().create_task(self._answer_sample(reply, self._on_sample))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer_sample(self, reply: SmashedReply, hook: SampleHook) -> None:
        try:
            given = hook(reply)
            values = await given if inspect.isawaitable(given) else given
        except TlcError as error:
            self._on_log(logging.ERROR, str(error))
            return
        if values is None:
            return
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        self._outbox.append(m.Result(request=reply.request, count=flat.size, values=flat.tobytes()))
        self._flush()

    @staticmethod
    def _reply(parts: dict[int, m.Smashed]) -> SmashedReply:
        last = parts[max(parts)]
        outputs = tuple(np.frombuffer(parts[i].tensor, np.int8) for i in sorted(parts))
        exited = bool(last.flags & m.SmashedFlag.EXIT)
        return SmashedReply(last.request, outputs, last.ticks, last.round, last.step, last.batch, exited)

    def _take_answer(self, message: m.Message) -> None:
        pending = self._pending.get(message.request)
        if pending is None or pending.future.done():
            return  # of a request that was given up
        if isinstance(message, m.Error):
            name = (
                m.Status(message.status).name if message.status in m.Status._value2member_map_ else str(message.status)
            )
            text = message.text.decode("utf-8", "replace")
            error = DeviceError(f"{m.message_name(message.of)} failed: {text} ({name})", where=self.name)
            error.status = message.status
            pending.future.set_exception(error)
        elif isinstance(message, m.Smashed) and pending.answer is m.Smashed:
            pending.parts[message.index] = message
            if len(pending.parts) == message.count:
                pending.future.set_result(self._reply(pending.parts))
        elif type(message) is pending.answer:
            if isinstance(message, m.Done) and message.of != pending.messages[-1].TYPE:
                return
            pending.future.set_result(message)
