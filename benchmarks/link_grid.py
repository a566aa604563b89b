# SPDX-License-Identifier: Apache-2.0
"""The link over bad lines: ``python benchmarks/link_grid.py [--json] [--messages N] [--seed N] [--jobs N]``.

The device's end in C and the host's in Python exchange messages over the seeded channel of ``tests/host/link_simulator.py``,
in simulated time, both ways at once. Every message carries its number and is compared when it comes: none may be lost, come
twice, be out of its stream's order or differ in a byte.

*Faults*: loss, bit errors, repetition, reordering, truncation and garbage in all strengths, on three sizes of link, with
messages of 1 to 3,000 bytes on two streams.

*Goodput*: payload per time against the bound of selective repeat (Bertsekas and Gallager, Data Networks, 2nd ed., section
2.4; Lin, Costello and Miller, "Automatic-repeat-request error-control schemes", IEEE Communications Magazine 22(12), 1984).
A frame with f bytes of payload takes w = f + 28 + 4 bytes, COBS and the delimiter, and arrives with
P = (1 - loss) (1 - bit errors)^(8 w). With no limit on the window P f / w of the line would be payload. For a window of W frames
of which none may be 32 above the oldest there is no closed form, so an ideal sender is simulated. It knows the line's rate and
delay; it learns what became of its frames from the other direction's, which are as long, follow each other without a
gap and are lost, too: one that arrives tells of all that had arrived when it began. What is known to be lost goes again at
once. When the window is full it waits, or repeats the frame of whose copies fewest are undecided (Bruneel and Moeneclaey, "On the
throughput performance of some continuous ARQ strategies with repeated transmissions", IEEE Transactions on Communications
34(3), 1986): the better of the two counts. W is the window without the frames that tensors leave free for the other streams.
The bound is that of the best f among those that the link chooses from.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import struct
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "host"))

from link_simulator import Channel, Device, build_peer  # noqa: E402

from tlc_host.link import Link, State, Stream  # noqa: E402

SHARE = 0.85
RESERVED = {2: 0, 4: 1, 8: 2, 32: 2}  # frames of a window that tensors leave free
MIN_FRAGMENT = 128
LIMIT_MS = 1e9
SPAN = 32
IDEAL_FRAMES = 5_000
IDEAL_RUNS = 8


@dataclass(frozen=True)
class Cell:
    """A line and what goes over it."""

    name: str
    window: int
    fragment: int
    rate: float
    """Bytes a second."""
    delay_ms: float
    faults: dict[str, float] = field(default_factory=dict)
    size: int = 0
    """Bytes of a tensor; 0: 1 to 3,000, and control messages among them."""


@dataclass(frozen=True)
class Result:
    """What came of a cell; goodputs are shares of the line rate, the worse direction's."""

    cell: Cell
    messages: int
    frames: int
    resent: int
    goodput: float
    bound: float
    seconds: float

    @property
    def share(self) -> float:
        return self.goodput / self.bound if self.bound else 0.0


LINKS = {"small": (2, 128), "middle": (8, 256), "large": (32, 1024), "wide": (32, 4096)}
FAULTS: dict[str, dict[str, float]] = {
    "none": {},
    **{f"loss {p:.0%}": {"loss": p} for p in (0.01, 0.1, 0.2, 0.3)},
    **{f"bit errors {p:g}": {"bit_error": p} for p in (1e-6, 1e-5, 1e-4)},
    "loss 30%, bit errors 0.0001": {"loss": 0.3, "bit_error": 1e-4},
    "repeated 30%": {"duplicate": 0.3},
    "reordered 30%": {"reorder": 0.3},
    "truncated 10%": {"truncate": 0.1},
    "garbage 10%": {"garbage": 0.1},
    "all": {"loss": 0.1, "bit_error": 3e-5, "duplicate": 0.1, "reorder": 0.1, "truncate": 0.05, "garbage": 0.05},
    "all, worse": {"loss": 0.3, "bit_error": 1e-4, "duplicate": 0.3, "reorder": 0.3, "truncate": 0.1, "garbage": 0.1},
}
LINES = {
    "UART 921,600": (32, 1024, 92_160.0, 1.0, 1000),
    "UART 921,600, 8 x 256": (8, 256, 92_160.0, 1.0, 1000),
    "UART 115,200, 4 x 256": (4, 256, 11_520.0, 1.0, 1000),
    "2 Mbit/s, 10 ms": (32, 1024, 250_000.0, 10.0, 4000),
}


def fault_cells() -> list[Cell]:
    """Every strength of every fault on every link."""
    return [
        Cell(f"{link}, {name}", window, fragment, 100_000.0, 5.0, faults)
        for link, (window, fragment) in LINKS.items()
        for name, faults in FAULTS.items()
    ]


def goodput_cells() -> list[Cell]:
    """Loss and bit errors on every line."""
    return [
        Cell(line, window, fragment, rate, delay, {"loss": loss, "bit_error": error}, size)
        for line, (window, fragment, rate, delay, size) in LINES.items()
        for loss in (0.0, 0.01, 0.1, 0.3)
        for error in (0.0, 1e-6, 1e-5, 1e-4)
        if error == 0.0 or loss in (0.0, 0.1)
    ]


def wire(count: int) -> int:
    """Bytes on the line of a frame with ``count`` bytes of payload."""
    body = count + 28 + 4
    return body + body // 254 + 2


def ideal(arrives: float, delay: float, window: int, *, repeats: bool = False) -> float:
    """Share of the line's time in which an ideal sender's frames arrive for the first time.

    Args:
        arrives: probability of a frame, either way.
        delay: frames' times from a frame's end to its arrival.
        window: frames that may be unacknowledged.
        repeats: when the window is full, instead of waiting.
    """
    return sum(_ideal(arrives, delay, window, repeats, seed) for seed in range(IDEAL_RUNS)) / IDEAL_RUNS


def _ideal(arrives: float, delay: float, window: int, repeats: bool, seed: int) -> float:
    rng = random.Random(seed)
    fate: deque[tuple[float, int, bool]] = deque()  # when it is decided, which frame, whether it arrived
    again: deque[int] = deque()
    waiting: dict[int, int] = {}  # unacknowledged, in order, and copies undecided
    sent: dict[int, float] = {}
    following = delivered = 0
    now, told = 0.0, rng.random()  # when the next frame of the other direction begins
    while now < IDEAL_FRAMES:
        while told + 1 + delay <= now:
            if rng.random() < arrives:
                while fate and fate[0][0] <= told:
                    _, frame, arrived = fate.popleft()
                    if frame not in waiting:
                        continue
                    waiting[frame] -= 1
                    if arrived:
                        del waiting[frame]
                        delivered += 1
                    elif waiting[frame] == 0:
                        again.append(frame)
            told += 1
        if again:
            frame = again.popleft()
        elif len(waiting) < window and (not waiting or following - next(iter(waiting)) < SPAN):
            frame = following
            waiting[frame] = 0
            following += 1
        elif repeats:
            frame = min(waiting, key=lambda frame: (waiting[frame], sent[frame]))
        else:
            now = told + 1 + delay
            continue
        waiting[frame] += 1
        sent[frame] = now
        fate.append((now + 1 + delay, frame, rng.random() < arrives))
        now += 1
    return delivered / now


def bound(cell: Cell) -> float:
    """Goodput that selective repeat cannot exceed, of the line rate."""
    loss, error = cell.faults.get("loss", 0.0), cell.faults.get("bit_error", 0.0)
    best = 0.0
    fragment = cell.fragment
    while fragment >= MIN_FRAGMENT:
        parts = -(-cell.size // fragment)
        size = sum(wire(min(fragment, cell.size - at)) for at in range(0, cell.size, fragment)) / parts
        arrives = (1 - loss) * (1 - error) ** (8 * size)
        delay = cell.delay_ms * cell.rate / 1000 / size
        share = max(ideal(arrives, delay, cell.window - RESERVED[cell.window], repeats=r) for r in (False, True))
        best = max(best, share * cell.size / parts / size)
        fragment //= 2
    return best


class Exchange:
    """Both ends, the line, and the messages still to come."""

    def __init__(self, library: Any, cell: Cell, count: int, seed: int) -> None:
        rng = random.Random(seed)
        self.cell = cell
        line = {"delay_ms": cell.delay_ms, "byte_ms": 1000 / cell.rate, **cell.faults}
        self.down, self.up = (Channel(random.Random(rng.random()), **line) for _ in range(2))
        self.host = Link(fragment=4096, window=32, random32=lambda: rng.getrandbits(32))
        self.device = Device(library, window=cell.window, fragment=cell.fragment, messages=16, max_message=8192)
        self.pool = rng.randbytes(1 << 16)
        self.now = 0.0
        self.begun = 0.0
        control = 0 if cell.size else count // 2
        self.unsent = [self._plan(rng, control, count - control) for _ in range(2)]
        self.unseen = [[deque(queue) for queue in way] for way in self.unsent]
        self.finished = [0.0, 0.0]

    def _plan(self, rng: random.Random, control: int, bulk: int) -> list[deque[tuple[int, int]]]:
        """Number and size of each message, per stream."""
        size = self.cell.size
        return [
            deque((i, rng.choice((4, 16, 64, rng.randint(4, 64)))) for i in range(control)),
            deque((i, size or rng.choice((4, 100, rng.randint(4, 400), rng.randint(4, 3000)))) for i in range(bulk)),
        ]

    def _payload(self, number: int, size: int) -> bytes:
        at = number * 40503 & 0x7FFF
        return struct.pack("<I", number) + self.pool[at : at + size - 4]

    def _take(self, way: int, stream: int, payload: bytes) -> None:
        queue = self.unseen[way][stream]
        assert queue, f"{self.cell.name}: a message more than was sent"
        number, size = queue.popleft()
        if payload != self._payload(number, size):
            came = struct.unpack_from("<I", payload)[0]
            raise AssertionError(f"{self.cell.name}: message {came} of {len(payload)} bytes, not {number} of {size}")
        if not any(self.unseen[way]):
            self.finished[way] = self.now

    def _step(self) -> None:
        now, host, device = self.now, self.host, self.device
        arrived = False
        for data in self.down.get(now):
            device.receive(data, now)
            arrived = True
        for data in self.up.get(now):
            host.receive(data, now)
            arrived = True
        if arrived:
            while (found := device.next()) is not None:
                self._take(0, found[1], found[2])
            while host.messages:
                message = host.messages.popleft()
                self._take(1, int(message.stream), message.payload)
            self._fill()
        while self.down.free_at <= now and (data := host.output(now, 1)):
            self.down.put(data, now)
        while self.up.free_at <= now and (data := device.output(now)):
            self.up.put(data, now)
        following = float(int(now) + 1)
        for channel in (self.down, self.up):
            if channel.queue:
                following = min(following, channel.queue[0][0])
            if channel.free_at > now:
                following = min(following, channel.free_at)
        self.now = max(following, now)

    def _fill(self) -> None:
        host, device = self.host, self.device
        if host.state is not State.OPEN or host.session != device.session:
            return
        self.begun = self.begun or self.now
        for stream, queue in enumerate(self.unsent[0]):
            while queue and host.send(32, Stream(stream), self._payload(*queue[0])):
                queue.popleft()
        for stream, queue in enumerate(self.unsent[1]):
            while queue and device.send(32, stream, self._payload(*queue[0])):
                queue.popleft()

    def run(self) -> Result:
        """Until every message has come, and a while longer in which nothing more may."""
        started = time.monotonic()
        count = sum(len(queue) for way in self.unsent for queue in way)
        volume = [sum(size for queue in way for _, size in queue) for way in self.unsent]
        self.host.open(0.0)
        while any(queue for way in self.unseen for queue in way):
            self._step()
            assert self.now < LIMIT_MS, f"{self.cell.name}: it does not end"
            assert self.host.state in (State.OPEN, State.OPENING), f"{self.cell.name}: {self.host.events}"
        end = self.now + 3000
        while self.now < end:
            self._step()
        line = self.cell.rate / 1000
        goodputs = [bytes_ / (done - self.begun) / line for bytes_, done in zip(volume, self.finished, strict=True)]
        counters = self.device.counters
        return Result(
            self.cell,
            count,
            self.down.frames + self.up.frames,
            counters["resent"] + self.host.counters.resent,
            min(goodputs),
            bound(self.cell) if self.cell.size else 0.0,
            time.monotonic() - started,
        )


def build(directory: Path) -> Any:
    """The C end, with room for sixteen messages each way."""
    return build_peer(directory, "-DTLC_LINK_INCOMING=16", "-DTLC_LINK_OUTGOING=18")


def run(library: Any, cells: Sequence[Cell], messages: int, seed: int) -> list[Result]:
    """Each cell with its share of ``messages``, both ways together."""
    return [run_cell(library, cell, messages // len(cells), seed * 1000 + at) for at, cell in enumerate(cells)]


def run_cell(library: Any, cell: Cell, messages: int, seed: int) -> Result:
    """A cell with so many ``messages``, both ways together."""
    return Exchange(library, cell, max(1, messages // 2), seed).run()


_built: Any = None  # a process's own


def _load(directory: Path) -> None:
    global _built
    own = directory / str(os.getpid())
    own.mkdir()
    _built = build(own)


def _run_cell(cell: Cell, messages: int, seed: int) -> Result:
    return run_cell(_built, cell, messages, seed)


def run_all(cells: Sequence[Cell], messages: int, seed: int, jobs: int) -> list[Result]:
    """As :func:`run`, in processes of their own, and says how far it is."""
    results: dict[int, Result] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        ProcessPoolExecutor(jobs, initializer=_load, initargs=(Path(directory),)) as pool,
    ):
        each = messages // len(cells)
        futures = {pool.submit(_run_cell, cell, each, seed * 1000 + at): at for at, cell in enumerate(cells)}
        for future in as_completed(futures):
            results[futures[future]] = future.result()
            print(f"\r{len(results)} of {len(cells)} cells", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return [results[at] for at in range(len(cells))]


def report(faults: Sequence[Result], goodputs: Sequence[Result]) -> str:
    """Markdown."""
    lines = ["| line | loss | bit errors | goodput | bound | share |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for result in goodputs:
        cell = result.cell
        loss, error = cell.faults["loss"], cell.faults["bit_error"]
        lines.append(
            f"| {cell.name} | {loss:.0%} | {error:g} | {result.goodput:.1%} | {result.bound:.1%} | {result.share:.1%} |"
        )
    messages = sum(r.messages for r in (*faults, *goodputs))
    frames, resent = (sum(getattr(r, name) for r in (*faults, *goodputs)) for name in ("frames", "resent"))
    seconds = sum(r.seconds for r in (*faults, *goodputs))
    lines += [
        "",
        f"{messages:,} messages in {len(faults) + len(goodputs)} cells ({len(faults)} of faults, {len(goodputs)} of "
        f"goodput), {frames:,} frames, {resent:,} sent again, {seconds:.0f} s: none lost, none twice, none wrong.",
    ]
    if goodputs:
        worst = min(goodputs, key=lambda r: r.share)
        lines.append(f"Lowest share of the bound: {worst.share:.1%} ({worst.cell.name}, {worst.cell.faults}).")
    return "\n".join(lines)


def main() -> int:
    """The command; 1: a goodput is further than 15% below its bound."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000, help="in all (%(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    given = parser.parse_args()
    cells = [cell for cell in fault_cells() + goodput_cells() if given.only in cell.name]
    if not cells:
        parser.error(f"no cell's name contains {given.only!r}")
    results = run_all(cells, given.messages, given.seed, given.jobs)
    faults, goodputs = [r for r in results if not r.cell.size], [r for r in results if r.cell.size]
    if given.json:
        print(json.dumps([{**asdict(r), "share": r.share} for r in (*faults, *goodputs)], indent=1))
    else:
        print(report(faults, goodputs))
    return int(any(result.share < SHARE for result in goodputs))


if __name__ == "__main__":
    sys.exit(main())
