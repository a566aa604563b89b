# SPDX-License-Identifier: Apache-2.0
"""A whole device (firmware/src/device with link and journal) and a whole host (the real :class:`tlc_host.session.Session` over the real
link), over a line on which anything may happen; for the explorer.

The line holds up to ``room`` frames each way. They arrive in order; each may be lost, where ``loses`` says so. The device may be
reset, also while it writes its flash, after any of its operations; the host begun anew with what it kept; either may be deaf for
longer than a session lives; the line may break, with all that is on it: so often as the settings say.

The session's own code runs here without an event loop: its coroutines are taken up to where they wait, by hand, and a copy of a
state makes the waiting call again (lesson.py). Left out of it are the waits in ``connect`` and ``greet`` (an event is looked at
instead), the reader's loop (bytes are handed to the link, and ``_look`` is called, as it does) and the calls' own time limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import functools
import pickle
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import states
from lesson import Lesson, Now, Plan, State, learned
from link_world import Nonces
from states import NOW

from tlc_host import messages as m
from tlc_host.link import Link
from tlc_host.link.frame import FrameType, parse
from tlc_host.session import Session, greeting, wire
from tlc_host.session import session as session_module

DEVICE = (
    "src/device/*.c",
    "src/ctx.c",
    "src/link/*.c",
    "src/journal/*.c",
    "src/train/schedule.c",
    "src/train/take_grad.c",
)
"""Sources of the firmware."""
HASH = bytes([9]) + bytes(31)
GENERATION = 1 << 20
FIRST_TOKEN = 0x50000000
NEVER = 0xFFFFFFFF


@dataclass(frozen=True)
class Messages:
    """What may happen. ``patient``: nobody's time-out comes while something is on the line. ``cuts``: how often the power may
    fail while the flash is written. ``amid``: a host may begin anew, or give its session up, while the device computes, too.
    ``buffers``: the device's messages have a place of their own, else they arrive in the arena. ``entropy``: its boots differ in
    their number."""

    steps: int = 1
    batch: int = 1
    room: int = 1
    amid: bool = False
    buffers: bool = False
    entropy: bool = True
    loses: bool = False
    patient: bool = True
    journal: bool = False
    together: bool = False
    resets: int = 0
    cuts: int = 0
    restarts: int = 0
    silences: int = 0
    breaks: int = 0

    @property
    def plan(self) -> Plan:
        """For the application."""
        return Plan(self.steps, self.batch, self.journal, self.together)


class Still:
    """An event loop that never does anything: who waits is looked at."""

    class Handle:
        """Of what will not be called."""

        def cancel(self) -> None:
            """Nor now."""

        def when(self) -> float:
            """Long ago: it is never set anew."""
            return 0.0

    def get_debug(self) -> bool:
        """As of an event loop."""
        return False

    def create_future(self) -> asyncio.Future[Any]:
        """As of an event loop."""
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def call_soon(self, *_: Any, **__: Any) -> Handle:
        """As of an event loop."""
        return self.Handle()

    call_later = call_at = call_soon

    def time(self) -> float:
        """As of an event loop."""
        return NOW / 1000

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Of an error that nobody has asked for: a state that was copied away holds it."""


class Tokens:
    """In place of ``secrets``: tokens that were not used before."""

    def __init__(self) -> None:
        self.last = FIRST_TOKEN

    def randbelow(self, _: int) -> int:
        """One less than the token."""
        self.last += 1
        return self.last - 1


@contextlib.contextmanager
def still() -> Iterator[Tokens]:
    """Time stands at NOW, nothing runs by itself, and what is random is counted."""
    tokens = Tokens()
    now: Callable[[], float] = lambda: NOW  # noqa: E731
    changed: list[tuple[Any, str, Any]] = [
        (wire, "now_ms", now),
        (session_module, "now_ms", now),
        (greeting, "secrets", SimpleNamespace(randbelow=tokens.randbelow)),
    ]
    before = [(module, name, getattr(module, name)) for module, name, _ in changed]
    for module, name, value in changed:
        setattr(module, name, value)
    asyncio._set_running_loop(Still())  # type: ignore[arg-type]
    try:
        yield tokens
    finally:
        asyncio._set_running_loop(None)
        for module, name, value in before:
            setattr(module, name, value)


class Line:
    """The transport: the host's way onto the line, in frames."""

    name = "explored"

    def __init__(self, room: int) -> None:
        self.high_water = room
        self.down: tuple[bytes, ...] = ()
        self.up: tuple[bytes, ...] = ()

    def backlog(self) -> int:
        """Frames on their way to the device."""
        return len(self.down)

    def write(self, data: bytes) -> None:
        """Frames, whole."""
        self.down += tuple(states.without_counter(frame + b"\0") for frame in data.split(b"\0")[:-1])


async def _no_transport() -> Any:
    raise AssertionError


@dataclass
class Left:
    """What may still happen, and how often it did."""

    resets: int
    cuts: int
    restarts: int
    silences: int
    breaks: int
    boot: int = 1
    lives: int = 1

    def all(self) -> tuple[int, ...]:
        """As plain values."""
        return self.resets, self.cuts, self.restarts, self.silences, self.breaks, self.boot, self.lives


NAMES = {m.Backward.TYPE: (16,), m.Train.TYPE: (16,), m.Welcome.TYPE: (16,), m.Hello.TYPE: (28, 40, 44)}
"""Where messages hold numbers of which only matters which are equal; all do at 0."""


@functools.lru_cache(maxsize=1 << 16)
def _split(kind: int, payload: bytes) -> tuple[bytes, tuple[int, ...]]:
    """A message's bytes without those numbers, and they."""
    found, rest = [], bytearray(payload)
    for at in (0, *NAMES.get(kind, ())):
        found.append(int.from_bytes(rest[at : at + 4], "little"))
        rest[at : at + 4] = bytes(4)
    return bytes(rest), tuple(found)


@functools.lru_cache(maxsize=1 << 16)
def _parsed(data: bytes) -> tuple[Hashable, tuple[int, ...]]:
    """The same of a frame."""
    frame = parse(data[:-1])
    assert frame is not None
    payload = frame.payload
    numbers: tuple[int, ...] = (frame.session,)
    if frame.type in (FrameType.OPEN, FrameType.ACCEPT):
        numbers = (frame.session, int.from_bytes(payload[:4], "little"))
        payload = payload[8:]
    elif frame.type == FrameType.ANNOUNCE:
        payload = b""
    elif frame.type >= FrameType.MESSAGE:
        payload, more = _split(frame.type, payload)
        numbers = (frame.session, *more)
    at = (frame.credit, frame.sequence, frame.acknowledge, frame.selective, frame.message, frame.offset, frame.length)
    return (frame.type, int(frame.stream), int(frame.flags), at, payload), numbers


MEANWHILE = ctypes.CFUNCTYPE(None)
WORK = (m.Forward.TYPE, m.Backward.TYPE, m.Train.TYPE)


class MessageWorld:
    """A :class:`states.World`; inside of :func:`still`."""

    def __init__(self, library: ctypes.CDLL, settings: Messages, tokens: Tokens) -> None:
        self.c = library
        for name in ("receive", "sent", "session", "names", "seeds"):
            getattr(library, f"explored_{name}").restype = ctypes.c_uint32
        self.settings = settings
        self.tokens = tokens
        self.nonces = Nonces()
        self.wanted = learned(settings.plan)
        self.memory = ctypes.create_string_buffer(library.explored_bytes() + 16)
        self.at = ctypes.c_void_p((ctypes.addressof(self.memory) + 15) // 16 * 16)
        self.begin = (self.at.value or 0) - ctypes.addressof(self.memory)
        self.end = self.begin + library.explored_bytes()
        self.frame = ctypes.create_string_buffer(1024)
        self.offsets = (ctypes.c_uint32 * 64)()
        self.seeds = list(self.offsets[: library.explored_seeds(self.at, self.offsets)])
        s = settings
        self.left = Left(s.resets, s.cuts, s.restarts, s.silences, s.breaks)
        self.rule: str | None = None
        self.line = Line(settings.room)
        self.c.explored_new(self.at, int(settings.journal), int(settings.buffers))
        self.meanwhile = MEANWHILE(self._meanwhile)
        self.what = ""  # is to happen while the device computes
        self.failed: Exception | None = None
        self._start()
        self.lesson = self._host(State())
        self.tokens.last = FIRST_TOKEN
        self.session._asking._next = 1
        self.link.open(NOW)
        self._settle()

    @property
    def session(self) -> Session:
        """The host's."""
        return self.lesson.session

    @property
    def link(self) -> Link:
        """The host's end of the link."""
        return self.session._wire.link

    def _new(self) -> Session:
        link = Link(fragment=128, window=2, max_message=4096, random32=self.nonces)
        link._polled_ms = NOW
        session = Session(
            _no_transport,
            HASH,
            name="explored",
            link=link,
            timeout_s=10.0,
            reconnect_s=10.0,
            on_sample=None,
            on_log=lambda level, text: None,
        )
        session._wire.transport = self.line  # type: ignore[assignment]
        return session

    def _host(self, state: State, saved: int = 0) -> Lesson:
        return Lesson(self._new(), self.settings.plan, state, saved)

    def _start(self) -> None:
        """The device does."""
        self.c.explored_start(self.at, self.left.boot if self.settings.entropy else 1)
        self._take_sent()

    # ---- states ----

    def save(self) -> Any:
        lesson, link = self.lesson, self.link
        asking, greets, out = lesson.session._asking, lesson.session._greeting, lesson.session._wire.outbox
        assert not link.events and not link.messages
        session = pickle.dumps(link._session, 5) if link._session else b""
        return (
            self.memory.raw[self.begin : self.end],
            (self.nonces.last, self.tokens.last, self.left.all(), self.line.down, self.line.up, self.rule),
            (lesson.state, lesson.saved, lesson.rule),
            (asking._next, asking.ready.is_set(), asking.reset, asking.ended, tuple(out)),
            (greets.hello, greets.most_bytes, greets._token, greets._welcome),
            (session, link.state, link._nonce, link._open_ms, link._end),
        )

    def load(self, saved: Any) -> None:
        memory, world, known, asked, greeted, under = saved
        ctypes.memmove(self.at, memory, len(memory))
        self.nonces.last, self.tokens.last, left, self.line.down, self.line.up, self.rule = world
        self.left = Left(*left)
        session = self._new()
        link, asking, greets = session._wire.link, session._asking, session._greeting
        pickled, link.state, link._nonce, link._open_ms, link._end = under
        link._session = pickle.loads(pickled) if pickled else None
        greets.hello, greets.most_bytes, greets._token, greets._welcome = greeted
        state, confirmed, rule = known
        lesson = self.lesson = Lesson(session, self.settings.plan, state, confirmed)
        lesson.rule = rule
        asking._next, ready, asking.reset, asking.ended, out = asked
        if ready:
            asking.ready.set()
        session._wire.outbox.extend(out)

    def key(self) -> bytes:
        """Numbers of sessions, requests and tokens, and nonces, are named in the order in which they are met."""
        lesson, link = self.lesson, self.link
        asking, greets = lesson.session._asking, lesson.session._greeting
        names = {0: 0}

        def name(value: int) -> int:
            return names.setdefault(value, len(names))

        def named(kind: int, payload: bytes) -> Hashable:
            rest, numbers = _split(kind, payload)
            return kind, rest, [name(number) for number in numbers]

        memory = bytearray(self.memory.raw[self.begin : self.end])
        for at in self.seeds:
            memory[at : at + 4] = bytes(4)
        for at in self.offsets[: self.c.explored_names(self.at, self.offsets)]:
            memory[at : at + 4] = name(int.from_bytes(memory[at : at + 4], "little")).to_bytes(4, "little")
        end = link._end and (name(link._end[0]), link._end[1])
        state = lesson.state
        ready = asking.ready.is_set()
        hello = greets.hello
        at_step = (hello.last_step, hello.samples) if not ready or state.now is Now.GREET else ()
        host: list[Hashable] = [
            (name(link._nonce), name(link.session), end, self.left.all()),
            (replace(state, request=name(state.request), passed=name(state.passed)), lesson.saved),
            (ready, asking.reset is not None, asking.ended is not None, hello.boot, at_step),
            (name(greets._token), name(hello.token), name(greets._welcome)),
            tuple(repr(named(said.TYPE, said.pack())) for said in lesson.session._wire.outbox),
        ]
        for line in (self.line.down, self.line.up):
            parts = [_parsed(data) for data in line]
            host.append(repr([(frame, [name(number) for number in numbers]) for frame, numbers in parts]))
        session = link._session
        if session is not None:
            queued = [said for queue in session.queues.values() for said in queue]
            queued += [sent.message for sent in session.sent.values()]
            host.append(repr([named(said.type, bytes(said.payload)) for said in queued]))
        host.append(repr(states.key_of(link, name)))
        return states.digest(memory, *host)

    # ---- rules ----

    def wrong(self) -> str | None:
        rule = self.rule or self.lesson.rule
        if rule:
            return rule
        wrong = self.c.explored_wrong(self.at)
        if wrong:
            return ("", "a step out of order", "the device does not come to rest", "the device does not start")[wrong]
        self.c.explored_learned(self.at, self.frame)
        raw = self.frame.raw
        step, samples = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:8], "little")
        if (step, samples) not in self.wanted:
            return f"the device is at step {step} with {samples} gradients, which never was"
        if raw[8:28] != self.wanted[step, samples]:
            return f"at step {step} with {samples} gradients the device holds other values than undisturbed"
        state = self.lesson.state
        if state.weights != self.wanted[state.kept, 0][:4]:
            return f"the host keeps other values of step {state.kept} than undisturbed"
        if state.now is Now.DONE and step != self.settings.steps and (self.settings.journal or self.left.boot == 1):
            return "the host has all steps, and the device has not"
        return None

    # ---- what may happen ----

    def actions(self) -> Sequence[str]:
        down, up, left = self.line.down, self.line.up, self.left
        actions: list[str] = []
        if down and len(up) < self.settings.room:  # one whose line is full reads nothing
            actions.append("down")
            if left.cuts and self._operations():
                actions += [f"down, power fails at {i}" for i in range(self._operations())]
            if self.settings.amid and _parsed(down[0])[0][0] in WORK:  # type: ignore[index]
                actions += ["down, host restarts meanwhile"] * (left.restarts > 0)
                actions += ["down, host is deaf meanwhile"] * (left.silences > 0)
        if up:
            actions.append("up")
        if self.settings.loses:
            actions += ["lose down"] * bool(down) + ["lose up"] * bool(up)
        if not self.settings.patient:
            actions += ["host waits"] + ["both wait", "device waits"] * (len(up) < self.settings.room)
        elif not down and not up:
            actions.append("both wait")
        actions += ["device resets"] * (left.resets > 0) + ["host restarts"] * (left.restarts > 0)
        actions += ["line breaks"] * (left.breaks > 0)
        return actions + ["host is deaf", "device is deaf"] * (left.silences > 0)

    def fair(self) -> str | None:
        """All is delivered; when nothing is left to be sent, time passes."""
        if self.lesson.state.now is Now.DONE:
            return None
        if self.line.up:
            return "up"
        return "down" if self.line.down else "both wait"

    def _operations(self) -> int:
        """Of the flash, that the next frame will make the device do."""
        before = self.memory.raw
        frame = self.line.down[0]
        count = int(self.c.explored_receive(self.at, frame, len(frame), ctypes.c_uint32(NEVER), None))
        ctypes.memmove(self.memory, before, len(before))
        return count

    def do(self, action: str) -> None:
        line, left = self.line, self.left
        match action.split():
            case ["down"]:
                self._receive(NEVER)
            case ["down,", "power", "fails", "at", operation]:
                self._receive(int(operation) + 1)
                left.cuts -= 1
                left.boot += 1
                self._start()
            case ["down,", *what, "meanwhile"]:
                self.what = " ".join(what)
                self._receive(NEVER, self.meanwhile)
            case ["up"]:
                self._up()
            case ["lose", "down"]:
                line.down = line.down[1:]
            case ["lose", "up"]:
                line.up = line.up[1:]
            case ["device", "resets"]:
                left.resets -= 1
                left.boot += 1
                self._start()
            case ["host", "restarts"]:
                self._restart()
            case ["line", "breaks"]:
                left.breaks -= 1
                line.down = line.up = ()
                self.link.transport_changed()
            case [who, *what]:
                dead = what[-1] == "deaf"
                left.silences -= dead
                if who in ("host", "both"):
                    states.let_pass(self.link, dead)
                if who in ("device", "both"):
                    self.c.explored_pass(self.at, int(dead))
                    self._take_sent()
        self._settle()

    def _restart(self) -> None:
        """Of the host: only what it kept is left to it."""
        self.left.restarts -= 1
        self.left.lives += 1
        state = self.lesson.state
        self.lesson = self._host(State(kept=state.kept, weights=state.weights), self.lesson.saved)
        self.session._asking._next = self.left.lives * GENERATION
        self.link.open(NOW)

    def _up(self) -> None:
        frame, self.line.up = self.line.up[0], self.line.up[1:]
        self.link.receive(frame, NOW)
        self._look()

    def _receive(self, operations: int, meanwhile: Any = None) -> None:
        frame, self.line.down = self.line.down[0], self.line.down[1:]
        self.c.explored_receive(self.at, frame, len(frame), ctypes.c_uint32(operations), meanwhile)
        self._take_sent()
        if self.failed is not None:
            raise self.failed

    def _meanwhile(self) -> None:
        """Called by the device while it computes: C knows nothing of errors."""
        try:
            self._begin_anew()
        except Exception as error:
            self.failed = error

    def _begin_anew(self) -> None:
        """A new session begins, and all is said that can be said while the device computes."""
        self._take_sent()
        if self.what == "host restarts":
            self._restart()
        else:
            self.left.silences -= 1
            states.let_pass(self.link, True)
        self._settle()
        while self.line.up or self.line.down:
            if self.line.up:
                self._up()
            else:
                frame, self.line.down = self.line.down[0], self.line.down[1:]
                self.c.explored_pump(self.at, frame, len(frame))
                self._take_sent()
            self._settle()

    def _take_sent(self) -> None:
        which = 0
        while count := self.c.explored_sent(self.at, which, self.frame):
            self.line.up += (states.without_counter(self.frame.raw[:count]),)
            which += 1

    def _look(self) -> None:
        asking, greets = self.session._asking, self.session._greeting
        boot, told = greets.hello.boot, asking.reset
        self.session._look()
        if asking.reset is not told and greets.hello.boot == boot and (self.settings.entropy or self.left.boot == 1):
            self.rule = "the host is told of a reset that never was"
        self.lesson.advance()

    def _settle(self) -> None:
        """The host says what there is room for."""
        self.lesson.advance()
        for _ in range(3):  # what a session that ended makes it say is said the next time
            self.session._wire.flush()
            self.lesson.advance()
        states.normalize(self.link)
