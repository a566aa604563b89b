# SPDX-License-Identifier: Apache-2.0
"""Breadth-first exploration of a world that can be copied away and back, and the host's link in a form for it."""

from __future__ import annotations

import copyreg
import hashlib
import math
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tlc_host.link import Link, Stream
from tlc_host.link.frame import encode, parse
from tlc_host.link.loss import REMEMBER
from tlc_host.link.session_state import ARMS, Counters

_STREAMS = tuple(Stream)


def _stream(number: int) -> Stream:
    return _STREAMS[number]


copyreg.pickle(memoryview, lambda view: (memoryview, (bytes(view),)))
copyreg.pickle(Stream, lambda stream: (_stream, (int(stream),)))  # faster than by its name

NOW = 1_000_000.0
TICK = 1100.0
DEAD = 10_000.0


class World(Protocol):
    """What is explored. An *action* is a name; ``fair`` gives the one that a world without faults takes next, None at the
    goal. ``wrong`` says which rule the state breaks."""

    def save(self) -> Any: ...
    def load(self, saved: Any) -> None: ...
    def key(self) -> bytes: ...
    def actions(self) -> Sequence[str]: ...
    def do(self, action: str) -> None: ...
    def fair(self) -> str | None: ...
    def wrong(self) -> str | None: ...


@dataclass
class Explored:
    """What was found."""

    states: int = 0
    transitions: int = 0
    depth: int = 0
    goals: int = 0
    longest_way: int = 0
    complete: bool = True
    seconds: float = 0.0
    broken: str | None = None
    trace: tuple[str, ...] = ()


def digest(memory: bytes | bytearray, *parts: Hashable) -> bytes:
    """16 bytes that stand for a state."""
    found = hashlib.blake2b(memory, digest_size=16)
    found.update(repr(parts).encode())
    return found.digest()


def explore(world: World, most: int = 10**9, *, fair_steps: int = 400) -> Explored:
    """Every state that the world can reach from where it is, or about the first ``most``.

    In each of them ``wrong`` must say nothing, and from each of them the fair continuation must come to the goal.
    """
    begun = time.monotonic()
    found = Explored()
    root = world.key()
    came: dict[bytes, tuple[bytes, str]] = {root: (b"", "")}
    onward: dict[bytes, bytes] = {}  # the fair successor; b"": the goal

    def trace(state: bytes, *more: str) -> tuple[str, ...]:
        actions: list[str] = []
        while state != root:
            state, action = came[state]
            actions.append(action)
        return (*reversed(actions), *more)

    level: list[tuple[bytes, Any]] = [(root, world.save())]
    left: list[tuple[bytes, Any]] = []
    while level and found.broken is None:
        following: list[tuple[bytes, Any]] = []
        for state, saved in level:
            if len(came) > most:
                left.append((state, saved))
                continue
            world.load(saved)
            fair = world.fair()
            actions = list(world.actions())
            if fair is None:
                onward[state] = b""
                found.goals += 1
            assert fair is None or fair in actions, (fair, actions)
            for number, action in enumerate(actions):
                if number:
                    world.load(saved)
                world.do(action)
                found.transitions += 1
                rule = world.wrong()
                if rule:
                    found.broken, found.trace = rule, trace(state, action)
                    break
                reached = world.key()
                if action == fair:
                    onward[state] = reached
                if reached not in came:
                    came[reached] = (state, action)
                    following.append((reached, world.save()))
            if found.broken:
                break
        level = following
        found.depth += 1
    found.states = len(came)
    left += level
    found.complete = not left and found.broken is None
    for state, saved in left if found.broken is None else ():  # not explored: their fair way is walked
        world.load(saved)
        here = state
        for _ in range(fair_steps):
            if here in onward:
                break
            action_ = world.fair()
            if action_ is None:
                onward[here] = b""
                break
            world.do(action_)
            found.transitions += 1
            onward[here] = world.key()
            here = onward[here]
            rule = world.wrong()
            if rule:
                found.broken, found.trace = rule, trace(state, "and then the fair way")
                break
        if found.broken:
            break
    far: dict[bytes, int] = {b"": 0}
    for start in came if found.broken is None else ():
        path: list[bytes] = []
        state = start
        while state not in far:
            path.append(state)
            far[state] = -1
            state = onward.get(state, state)
        if far[state] < 0:
            found.broken, found.trace = "without faults it never comes to the goal", trace(start)
            break
        for step, passed in enumerate(reversed(path), 1):
            far[passed] = far[state] + step
    found.longest_way = max(far.values())
    found.seconds = time.monotonic() - begun
    return found


# ---- the host's end ----


def without_counter(wire: bytes) -> bytes:
    """A frame with its counter set to 0: no receiver looks at it, and it makes equal states unlike."""
    frame = parse(wire[:-1])
    assert frame is not None
    frame.counter = 0
    return encode(frame)


def _past(at: float) -> float:
    age = NOW - at
    return NOW if age < 1000 else NOW - TICK if age < DEAD else NOW - DEAD


def _future(at: float) -> float:
    return NOW if at <= NOW else NOW + 1 if at < math.inf else at


def normalize(link: Link) -> None:
    """The same as ``normalize`` in explored.h, for the host's end."""
    link.counters = Counters()
    link._open_ms = _future(link._open_ms)
    link._open_tries = 0
    link._polled_ms = NOW
    session = link._session
    if session is None:
        return
    session.progress_ms = _past(session.progress_ms) if session.sent else NOW
    session.said_ms = _past(session.said_ms)
    session.heard_ms = NOW if NOW - session.heard_ms < DEAD else NOW - DEAD
    session.look_ms = _future(session.look_ms) if session.sent else 0.0
    session.ack_ms = _future(session.ack_ms) if session.ack_pending else 0.0
    session.ack_pending = min(session.ack_pending, 2)
    session.samples, session.srtt, session.rttvar, session.backoff = 0, 0.0, 0.0, 0
    session.arrived, session.seen, session.arm, session.probe = [1.0] * ARMS, [0] * ARMS, 0, 0
    session.lossy = session.reordered = REMEMBER
    session.hail, session.shut_ms, session.idle_bytes, session.least_ms = False, None, 0, 0.0
    session.epoch_ms, session.epoch_shut_ms, session.epoch_bytes, session.epoch_frames = 0.0, 0.0, 0, 0
    for sent in session.sent.values():
        sent.sent_ms = _past(sent.sent_ms)
        sent.tries = min(sent.tries, 2)
    counters = [(session.counter - sent.counter) & 0xFFFF for sent in session.sent.values()]
    if session.acked_counter is not None:
        counters.append((session.counter - session.acked_counter) & 0xFFFF)
    closed, to, last = {}, 1000, 0
    for gap in sorted(set(counters)):
        to -= min(gap - last, 3)
        closed[gap], last = to, gap
    for sent in session.sent.values():
        sent.counter = closed[(session.counter - sent.counter) & 0xFFFF]
    if session.acked_counter is not None:
        session.acked_counter = closed[(session.counter - session.acked_counter) & 0xFFFF]
    session.counter = 1000


def let_pass(link: Link, dead: bool) -> None:
    """Every timer is due now."""
    ms = DEAD if dead else TICK
    link._open_ms -= ms
    session = link._session
    if session is None:
        return
    for name in ("progress_ms", "heard_ms", "said_ms", "look_ms", "ack_ms"):
        setattr(session, name, getattr(session, name) - ms)
    for sent in session.sent.values():
        sent.sent_ms -= ms


def key_of(link: Link, name: Callable[[int], int]) -> Hashable:
    """All of a normalized link that its behaviour depends on; ``name`` stands for session numbers, with which messages begin."""
    session = link._session
    if session is None:
        return link.state.value, link._open_ms
    return (
        (link.state.value, link._open_ms, session.lost, session.look_ms),
        [
            (q, s.offset, s.bytes, s.counter, s.sent_ms, s.tries, s.lost, s.late, s.message.stream, s.message.number)
            for q, s in session.sent.items()
        ],
        [[(m.number, m.next, m.in_flight) for m in queue] for queue in session.queues.values()],
        (session.acked, session.send_sequence, session.acked_counter, session.credit_limit, session.credit_used),
        list(session.send_number.values()),
        list(session.take_number.values()),
        [
            [
                (n, m.type, m.received, name(int.from_bytes(m.data[:4], "little")), bytes(m.data[4:]))
                for n, m in sorted(waiting.items())
            ]
            for waiting in session.incoming.values()
        ],
        (session.blocked, session.progress_ms, session.held, session.take_sequence, session.take_bitmap, session.grant),
        (session.ack_pending, session.ack_now, session.ack_ms, session.heard_ms, session.said_ms, session.busy),
    )
