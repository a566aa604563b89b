# SPDX-License-Identifier: Apache-2.0
"""The two real ends of a link, C and Python, over a line on which everything may happen; for the explorer.

A line holds up to ``room`` frames each way; an end says what it has to say as soon as there is room. Each may be delivered, before others that were sent earlier, too; delivered
and stay there to come again; or be lost. The device may be reset, the host begin anew, either may be deaf for longer than
a session lives: so often as the settings say. Time passes on either side by itself.
"""

from __future__ import annotations

import ctypes
import pickle
import struct
import subprocess
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import states
from states import NOW

from tlc_host.link import EndReason, Link, State, Stream
from tlc_host.link.frame import FrameType, parse

HERE = Path(__file__).resolve().parent
FIRMWARE = HERE.parents[1] / "firmware"
STREAMS = (Stream.CONTROL, Stream.BULK, Stream.LOG)


def build(directory: Path, name: str, sources: Sequence[str], changed: Sequence[Path] = ()) -> ctypes.CDLL:
    """Compiles the device's side as a shared library; ``changed``: files in place of the firmware's of the same name."""
    library = directory / f"{name}.so"
    instead = {path.name: path for path in changed}
    files = [HERE / f"{name}.c", *(path for pattern in sources for path in sorted(FIRMWARE.glob(pattern)))]
    files = [instead.get(path.name, path) for path in files]
    flags = ["-std=c99", "-O0" if changed else "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = ["gcc", *flags, "-I", str(FIRMWARE / "include"), "-o", str(library), *map(str, files)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.explored_bytes.restype = ctypes.c_size_t
    return loaded


@dataclass(frozen=True)
class Settings:
    """What may happen, and what is said: messages in a session as (stream, bytes), the host's and the device's."""

    room: int = 2
    resets: int = 1
    restarts: int = 1
    silences: int = 0
    duplicates: bool = True
    host_says: tuple[tuple[int, int], ...] = ((1, 150), (0, 20))
    device_says: tuple[tuple[int, int], ...] = ((1, 150), (0, 20))
    messages: int = 1


class Nonces:
    """So far apart that the device, which adds its count of OPENs, never makes the same session number of two: those of a host
    are random, and two alike one in 2^32."""

    def __init__(self) -> None:
        self.last = 0

    def __call__(self) -> int:
        self.last += 1
        return self.last << 12


def fill(count: int, session: int, what: int) -> bytes:
    """As ``fill`` in explored_link.c."""
    data = bytearray((what * 31 + i) & 0xFF for i in range(count))
    data[:5] = struct.pack("<IB", session, what)
    return bytes(data)


@dataclass
class Host:
    """The host's end and its application."""

    link: Link
    nonces: Nonces
    session: int = 0
    said: int = 0
    bulk: int = 0
    control: int = 0
    down: tuple[bytes, ...] = ()
    up: tuple[bytes, ...] = ()
    left: tuple[int, int, int] = (0, 0, 0)  # resets, restarts, silences that may still happen
    boot: int = 1
    rule: str | None = None


def _named(wire: bytes, name: Callable[[int], int]) -> Hashable:
    """A frame with its session numbers and nonces named, and without the device's boot number, which nobody here reads."""
    frame = parse(wire[:-1])
    assert frame is not None
    payload = frame.payload
    session = name(frame.session)
    if frame.type in (FrameType.OPEN, FrameType.ACCEPT):
        payload = name(int.from_bytes(payload[:4], "little")).to_bytes(4, "little") + bytes(4) + payload[8:]
    elif frame.type == FrameType.ANNOUNCE:
        payload = b""
    elif frame.type >= FrameType.MESSAGE and frame.offset == 0:
        payload = name(int.from_bytes(payload[:4], "little")).to_bytes(4, "little") + payload[4:]
    numbers = (frame.credit, frame.sequence, frame.acknowledge, frame.selective, frame.message)
    return frame.type, frame.stream, frame.flags, session, numbers, frame.offset, frame.length, payload


class LinkWorld:
    """A :class:`states.World`."""

    def __init__(self, library: ctypes.CDLL, settings: Settings) -> None:
        self.c = library
        for name in ("output", "names", "seeds"):
            getattr(library, f"explored_{name}").restype = ctypes.c_size_t
        library.explored_session.restype = ctypes.c_uint32
        self.settings = settings
        self.memory = ctypes.create_string_buffer(library.explored_bytes() + 16)
        self.at = ctypes.c_void_p((ctypes.addressof(self.memory) + 15) // 16 * 16)
        self.frame = ctypes.create_string_buffer(1024)
        script = [stream << 12 | count for stream, count in settings.device_says]
        self.script = (ctypes.c_uint16 * 4)(*script, *[0] * (4 - len(script)))
        offsets = (ctypes.c_uint32 * 64)()
        self.names = list(offsets[: library.explored_names(self.at, offsets)])
        self.seeds = list(offsets[: library.explored_seeds(self.at, offsets)])
        self.begin = self.at.value - ctypes.addressof(self.memory)
        self.nonces = Nonces()
        link = self._link(0)
        self.host = Host(link, self.nonces, left=(settings.resets, settings.restarts, settings.silences))
        link.open(NOW)
        self.reset()
        self._send()
        states.normalize(link)

    def _link(self, nonce: int) -> Link:
        self.nonces.last = nonce
        link = Link(fragment=128, window=2, max_message=4096, random32=self.nonces)
        link._polled_ms = NOW
        return link

    def reset(self) -> None:
        assert self.c.explored_init(self.at, self.host.boot, self.settings.messages, self.script) == 0

    # ---- states ----

    def save(self) -> Any:
        host, link = self.host, self.host.link
        assert not link.events and not link.messages
        session = pickle.dumps(link._session, 5) if link._session else b""
        said = (host.session, host.said, host.bulk, host.control, host.down, host.up, host.left, host.boot, host.rule)
        return self.memory.raw, host.nonces.last, said, session, (link.state, link._nonce, link._open_ms, link._end)

    def load(self, saved: Any) -> None:
        memory, nonce, said, session, opening = saved
        ctypes.memmove(self.memory, memory, len(memory))
        link = self._link(nonce)
        link.state, link._nonce, link._open_ms, link._end = opening
        link._session = pickle.loads(session) if session else None
        self.host = Host(link, self.nonces, *said)

    def key(self) -> bytes:
        """Session numbers and nonces are named in the order in which they are met: worlds that differ only in them behave
        alike, and a new one is never equal to one that is still known anywhere."""
        host, link = self.host, self.host.link
        names = {0: 0}

        def name(value: int) -> int:
            return names.setdefault(value, len(names))

        end = link._end and (name(link._end[0]), link._end[1])
        first = (name(link._nonce), name(link.session), end, name(host.session))
        memory = bytearray(self.memory.raw[self.begin :])
        for at in self.seeds:
            memory[at : at + 4] = bytes(4)
        for at in self.names:
            memory[at : at + 4] = name(int.from_bytes(memory[at : at + 4], "little")).to_bytes(4, "little")
        lines = [[_named(wire, name) for wire in line] for line in (host.down, host.up)]
        rest = (first, host.said, host.bulk, host.control, lines, host.left)
        return states.digest(memory, states.key_of(link, name), rest)

    def wrong(self) -> str | None:
        device = self.c.explored_wrong(self.at)
        if device:
            return ("", "another session's message", "a message out of order or twice", "a damaged message")[device]
        return self.host.rule

    # ---- what may happen ----

    def actions(self) -> Sequence[str]:
        host = self.host
        actions: list[str] = []
        for name, line in (("down", host.down), ("up", host.up)):
            for at in range(len(line)):
                if line[at] in line[:at]:
                    continue  # the same as the one before
                actions += [f"{name} {at}", f"lose {name} {at}"]
                if self.settings.duplicates:
                    actions.append(f"copy {name} {at}")
        actions += ["both wait", "host waits", "device waits"]
        resets, restarts, silences = host.left
        actions += ["device resets"] * (resets > 0) + ["host restarts"] * (restarts > 0)
        return actions + ["host is deaf", "device is deaf"] * (silences > 0)

    def fair(self) -> str | None:
        """Frames are delivered in their order; when none is left to be sent, time passes."""
        host = self.host
        if self.is_done():
            return None
        if host.down:
            return "down 0"
        if host.up:
            return "up 0"
        return "both wait"

    def is_done(self) -> bool:
        host, settings = self.host, self.settings
        return bool(
            host.link.session
            and host.link.session == self.c.explored_session(self.at)
            and self.c.explored_done(self.at)
            and host.said == len(settings.host_says)
            and not host.link.unacknowledged
            and host.bulk + host.control == len(settings.device_says)
            and self.c.explored_got(self.at) == sum(1 if stream == 1 else 256 for stream, _ in settings.host_says)
        )

    def do(self, action: str) -> None:
        words = action.split()
        host = self.host
        if words[0] in ("down", "up", "lose", "copy"):
            self._line(words)
        elif action.endswith(("waits", "wait", "deaf")):
            dead = action.endswith("deaf")
            if action[0] in "bh":
                states.let_pass(host.link, dead)
            if action[0] in "bd":
                self.c.explored_pass(self.at, int(dead))
        elif action == "device resets":
            host.boot += 1
            self.reset()
        else:
            host.link = self._link(host.nonces.last)
            host.link.open(NOW)
        resets, restarts, silences = host.left
        host.left = (
            resets - (action == "device resets"),
            restarts - (action == "host restarts"),
            silences - action.endswith("deaf"),
        )
        self.look()
        self._send()
        if host.link.events:  # the session was given up: nothing is left to be looked at in a state
            self.look()
            self._send()
        states.normalize(host.link)

    def _send(self) -> None:
        host = self.host
        while len(host.down) < self.settings.room and (wire := host.link.output(NOW, 1)):
            host.down = (*host.down, states.without_counter(wire))
            self.look()  # it may be that the session was given up
        while len(host.up) < self.settings.room and (count := self.c.explored_output(self.at, self.frame)):
            host.up = (*host.up, states.without_counter(self.frame.raw[:count]))

    def _line(self, words: list[str]) -> None:
        host = self.host
        at = int(words[-1])
        down = words[-2] == "down"
        line = host.down if down else host.up
        wire = line[at]
        if words[0] != "copy":
            line = line[:at] + line[at + 1 :]
            if down:
                host.down = line
            else:
                host.up = line
        if words[0] == "lose":
            return
        if down:
            self.c.explored_receive(self.at, wire, ctypes.c_size_t(len(wire)))
        else:
            host.link.receive(wire, NOW)

    # ---- the host's application ----

    def look(self) -> None:
        host = self.host
        link = host.link
        while link.events:
            event = link.events.popleft()
            if not event.opened:
                if event.reason is EndReason.SUPERSEDED:
                    host.rule = "the only host was told that another took over"
                link.open(NOW)
        if link.session != host.session:
            host.session, host.said, host.bulk, host.control = link.session, 0, 0, 0
        while link.messages:
            message = link.messages.popleft()
            stream = int(message.stream)
            place = [i for i, (s, _) in enumerate(self.settings.device_says) if s == stream]
            seen = host.bulk if stream == 1 else host.control
            if seen >= len(place):
                host.rule = "the device's message came twice"
                return
            wanted = fill(self.settings.device_says[place[seen]][1], link.session, place[seen])
            if message.payload != wanted:
                host.rule = "the device's message is another one, or damaged"
            if stream == 1:
                host.bulk += 1
            else:
                host.control += 1
        while link.state is State.OPEN and host.said < len(self.settings.host_says):
            stream, count = self.settings.host_says[host.said]
            same = sum(s == stream for s, _ in self.settings.host_says[: host.said])
            what = same if stream == 1 else 8 + same
            if not link.send(16 + host.said, STREAMS[stream], fill(count, link.session, what)):
                break
            host.said += 1
