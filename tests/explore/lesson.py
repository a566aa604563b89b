# SPDX-License-Identifier: Apache-2.0
"""What a host asks of a device that learns, and what it must do after a reset of either: the application above the session, as
plain values, which the explorer can copy away and back.

It stands for the loop of tests/host/link_soak.py (``learn``), and for that of ``tlc train`` in outline: each step's samples go
forward and backward, one by one; then comes the step; then the learned tensors are fetched and kept, on what outlives the host. A
device that has restarted is greeted, and its HELLO tells at which step it is: at the last one that was kept, or, with a journal,
at the one after it, whose DONE was never heard; else, and when gradients are accumulated that no living host knows of, it gets
back what was kept.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np

from tlc.errors import DeviceReset
from tlc_host import messages as m
from tlc_host.session import Session, SmashedReply

__all__ = ["FIRST", "Lesson", "Now", "Plan", "learned"]

N = 4
FIRST = bytes([1, 20, 33, 50])
RATE = 0.5


class Now(IntEnum):
    """What is asked, or waited for."""

    GREET = 0
    RESET_STATE = 1
    SET_PARAMS = 2
    FORWARD = 3
    BACKWARD = 4
    STEP = 5
    SAVE = 6
    GET_PARAMS = 7
    DONE = 8
    SAVE_AGAIN = 9
    TRAIN = 10


@dataclass(frozen=True)
class Plan:
    """How many steps, of how many samples; whether the device has a journal; whether gradients and steps are handed in
    together (TRAIN)."""

    steps: int
    batch: int
    journal: bool
    together: bool


def sample(step: int, batch: int) -> np.ndarray[Any, np.dtype[np.int8]]:
    """(4,) int8: what goes forward."""
    return np.array([(step * 3 + batch * 2 + i) % 11 - 5 for i in range(N)], np.int8)


def gradient(y: bytes, step: int, batch: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(4,) float32: what the host makes of what came of it."""
    return np.array([(value * 3 + step + batch) % 5 - 2 for value in y], np.float32)


def learned(plan: Plan) -> dict[tuple[int, int], bytes]:
    """Of an undisturbed device after so many steps, and so many samples of the next: weights, then accumulators; reckoned here."""
    weights, found = [*FIRST], {}
    for step in range(1, plan.steps + 2):
        sums = [0.0] * N
        for batch in range(plan.batch):
            found[step - 1, batch] = bytes(weights) + np.array(sums, np.float32).tobytes()
            x = sample(step, batch).tolist()
            y = bytes((w + v) & 255 for w, v in zip(weights, x, strict=True))
            sums = [a + g * v for a, g, v in zip(sums, gradient(y, step, batch).tolist(), x, strict=True)]
        found[step - 1, plan.batch] = bytes(weights) + np.array(sums, np.float32).tobytes()
        weights = [(5 * w + int(a) + step + 7 * plan.batch) & 63 for w, a in zip(weights, sums, strict=True)]
    return {key: value for key, value in found.items() if key[0] < plan.steps or key[1] == 0}


@dataclass(frozen=True)
class State:
    """All that the application knows. ``kept``, ``weights``: on what outlives it. ``request``: the number of what is asked; 0:
    nothing. ``passed``, ``output``: the forward pass that was answered. ``anew``: what the device holds is to be replaced."""

    now: Now = Now.GREET
    kept: int = 0
    weights: bytes = FIRST
    batch: int = 0
    request: int = 0
    passed: int = 0
    output: bytes = b""
    anew: bool = False


class Lesson:
    """An application over a session, without an event loop: what a call waits for is looked at when something was heard.

    Attributes:
        rule: that the device, or the session, broke; None: none.
        saved: the last step of which the device has said that its journal holds it.
    """

    def __init__(self, session: Session, plan: Plan, state: State, saved: int = 0) -> None:
        self.session = session
        self.plan = plan
        self.state = state
        self.saved = saved
        self.rule: str | None = None
        self._call: Coroutine[Any, Any, Any] | None = None
        self._future: Any = None
        if (
            state.request
        ):  # a copy of one that waits: its call is made again, up to there, in a new session, which says nothing yet
            session._asking._next = state.request
            self._begin()

    def advance(self) -> None:
        """Goes on as far as it can."""
        asking = self.session._asking
        while self.rule is None and self.state.now is not Now.DONE:
            if asking.ended is not None:
                self.rule = f"the session ended: {asking.ended}"
            elif self.state.now is Now.GREET:
                if not asking.ready.is_set():  # Session.connect and greet wait for that
                    return
                asking.reset = None
                self._greeted(self.session.hello)
            else:
                if self._call is None:
                    self.state = replace(self.state, request=asking._next)
                    self._begin()
                if self._future is not None and not self._future.done():
                    return
                self._end()

    # ---- one call ----

    def _begin(self) -> None:
        self._call, self._future = self._ask(), None
        try:
            self._future = self._call.send(None)
        except (StopIteration, DeviceReset) as now:  # at once
            self._done(now)

    def _end(self) -> None:
        if self._call is None:
            return
        try:
            self._call.send(None)
        except (StopIteration, DeviceReset) as now:
            self._done(now)
        except Exception as error:  # whatever it is, it should not have been
            self.rule = f"{self.state.now.name} failed: {error}"

    def _done(self, how: StopIteration | DeviceReset) -> None:
        self._call = self._future = None
        self.state = replace(self.state, request=0)
        if isinstance(how, DeviceReset):
            self.state = replace(self.state, now=Now.GREET)
        else:
            self._answered(how.value)

    def _ask(self) -> Coroutine[Any, Any, Any]:
        state, session = self.state, self.session
        step = state.kept + 1
        match state.now:
            case Now.RESET_STATE:
                self.saved = 0
                return session.reset_state()
            case Now.SET_PARAMS:
                return session.set_params(state.weights, step=state.kept)
            case Now.FORWARD:
                return session.forward(sample(step, state.batch), step=step, batch=state.batch)
            case Now.BACKWARD:
                reply = SmashedReply(state.passed, (), 0, batch=state.batch)
                return session.backward(reply, gradient(state.output, step, state.batch), step=step)
            case Now.TRAIN:
                reply = SmashedReply(state.passed, (), 0, batch=state.batch)
                lesson = gradient(state.output, step, state.batch)
                last = state.batch + 1 == self.plan.batch
                return session.train(reply, lesson, step if last else None, RATE, save=self.plan.journal)
            case Now.STEP:
                return session.step(step, RATE, save=self.plan.journal)
            case Now.SAVE | Now.SAVE_AGAIN:
                return session.save()
            case _:
                return session.get_params()

    # ---- what is asked next ----

    def _greeted(self, hello: m.Hello) -> None:
        """From HELLO on: goes on, or gives back what was kept."""
        state = self.state
        at, samples = hello.last_step, hello.samples
        if at < self.saved:
            self.rule = f"step {self.saved} was saved, and the device is at {at}"
        elif at not in (0, state.kept, state.kept + 1):
            self.rule = f"the device is at step {at}, and {state.kept} was kept"
        elif state.anew or samples or at not in (state.kept, state.kept + 1):
            self._next(Now.RESET_STATE, anew=True)
        elif at == state.kept + 1:
            self._next(Now.GET_PARAMS)
        else:
            self._next_step()

    def _answered(self, value: Any) -> None:
        state = self.state
        step = state.kept + 1
        match state.now:
            case Now.RESET_STATE:
                self._next(Now.SET_PARAMS)
            case Now.SET_PARAMS:
                self.state = replace(state, anew=False)
                if self.plan.journal and state.kept:
                    self._next(Now.SAVE_AGAIN)
                else:
                    self._next_step()
            case Now.SAVE_AGAIN:
                self.saved = state.kept
                self._next_step()
            case Now.FORWARD:
                now = Now.TRAIN if self.plan.together else Now.BACKWARD
                self._next(now, passed=value.request, output=value.outputs[0].tobytes())
            case Now.BACKWARD:
                if value.samples != state.batch + 1:
                    self.rule = f"{state.batch + 1} gradients were sent, and {value.samples} are accumulated"
                more = state.batch + 1 < self.plan.batch
                self._next(Now.FORWARD if more else Now.STEP, batch=state.batch + more, passed=0, output=b"")
            case Now.TRAIN if state.batch + 1 < self.plan.batch:
                self._next(Now.FORWARD, batch=state.batch + 1, passed=0, output=b"")
            case Now.STEP | Now.TRAIN:
                if value.flags & m.DoneFlag.SAVED:
                    self.saved = step
                self._next(Now.SAVE if self.plan.journal and self.saved < step else Now.GET_PARAMS)
            case Now.SAVE:
                self.saved = step
                self._next(Now.GET_PARAMS)
            case Now.GET_PARAMS:
                self._next_step(kept=step, weights=value)

    def _next(self, now: Now, **more: Any) -> None:
        self.state = replace(self.state, now=now, **more)

    def _next_step(self, **more: Any) -> None:
        kept = more.get("kept", self.state.kept)
        self._next(Now.DONE if kept == self.plan.steps else Now.FORWARD, batch=0, passed=0, output=b"", **more)
