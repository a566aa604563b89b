# SPDX-License-Identifier: Apache-2.0
"""Incremental learning vector quantization (ILVQ), a head of few labelled prototypes: the definition in NumPy, and the device's C.

Rules: Xu, Shen and Zhao, "An incremental learning vector quantization algorithm for pattern classification", Neural Computing and
Applications 21 (2012). :class:`Ilvq` and :class:`DeviceIlvq` (``firmware/src/heads/ilvq.c``) give the same bytes: distances are
squared and summed in float32 from the first element to the last, and every choice among equals has a rule.
"""

from __future__ import annotations

import ctypes
import functools
import zlib
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tlc.errors import ConfigError, DataError
from tlc.hostbuild import build_sources
from tlc.resources import firmware_dir

__all__ = ["DeviceIlvq", "Head", "Ilvq", "IlvqSettings", "merged"]

Float = NDArray[np.float32]

MAGIC = 0x51564C49
MOST = np.float32(1e9)
MOST_WINS = 1 << 24
PUSH = np.float32(0.01)
NONE = np.finfo(np.float32).max
HEADER_WORDS = 5
STATUS = {
    1: "a setting is out of range, or two heads do not fit together",
    2: "it holds no prototypes",
    3: "the bytes are of a head of another size",
    4: "the bytes are damaged",
    7: "a value is not finite, or beyond 1e9",
    8: "as many classes as prototypes: there is no room for another class",
}


@dataclass(frozen=True)
class IlvqSettings:
    """What a head is made with.

    Args:
        dim: values of a vector, 1 to 4096.
        capacity: most prototypes, 2 to 1024.
        age_limit: an edge older than this goes; 1 to 253.
        period: samples between two removals of what is of no use; 0: never.
        prune: with one neighbour and fewer wins than this part of the mean a prototype goes.

    Raises:
        ConfigError: one is out of range.
    """

    dim: int
    capacity: int = 50
    age_limit: int = 25
    period: int = 300
    prune: float = 0.1

    def __post_init__(self) -> None:
        limits = {"dim": (1, 4096), "capacity": (2, 1024), "age_limit": (1, 253), "period": (0, 65535), "prune": (0, 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"'{name}' is {getattr(self, name)}, not {low} to {high}", where="ILVQ head")

    @property
    def words(self) -> int:
        """Words of 4 bytes of the state (``TLC_ILVQ_WORDS``)."""
        n = self.capacity
        return HEADER_WORDS + n * self.dim + n + (n + 1) // 2 + (n * (n - 1) // 2 + 3) // 4


class Head(Protocol):
    """What the definition and the device's C have in common."""

    settings: IlvqSettings

    @property
    def prototypes(self) -> int:
        """How many are in use."""

    def learn(self, x: ArrayLike, label: int) -> None:
        """One labelled sample, (dim)."""

    def classify(self, x: ArrayLike) -> NDArray[np.int64]:
        """Labels (samples) of the prototypes that are nearest to x (samples, dim)."""

    def share(self, parts: int) -> None:
        """Divides the wins, of which one at least remains."""

    def to_bytes(self) -> bytes:
        """The sealed state, as it lies in the device's memory."""


class Ilvq:
    """The definition.

    Args:
        settings: of the head.
        state: what :meth:`to_bytes` gave; None: it knows nothing.

    Raises:
        DataError: the state is damaged, or of another size.
    """

    def __init__(self, settings: IlvqSettings, state: bytes | None = None) -> None:
        self.settings = settings
        n = settings.capacity
        self.count = self.samples = 0
        self.vectors = np.zeros((n, settings.dim), np.float32)
        self.wins = np.zeros(n, np.int64)
        self.labels = np.zeros(n, np.int64)
        self.ages = np.zeros((n, n), np.uint8)  # symmetric; 0: no edge, else its age + 1
        if state is not None:
            self._restore(state)

    @property
    def prototypes(self) -> int:
        """How many are in use."""
        return self.count

    def learn(self, x: ArrayLike, label: int) -> None:
        """One labelled sample.

        Args:
            x: (dim) values.
            label: its class, 0 to 65535.

        Raises:
            DataError: a value is not finite, or beyond 1e9; or a new class has no room.
        """
        value = _sound(x, (self.settings.dim,))
        self.samples += 1
        first, second, to_first, to_second = self._nearest(value)
        try:
            if (
                second < 0
                or label not in self.labels[: self.count]
                or to_first > self._threshold(first)
                or to_second > self._threshold(second)
            ):
                self._place(value, label, 1)
            else:
                self._adapt(value, label, first, second)
        finally:
            if self.settings.period and self.samples % self.settings.period == 0:
                self._remove_useless()

    def classify(self, x: ArrayLike) -> NDArray[np.int64]:
        """Labels (samples) of the prototypes that are nearest to x (samples, dim).

        Raises:
            DataError: as :meth:`learn`; or there are no prototypes.
        """
        values = _sound(x, (len(np.asarray(x)), self.settings.dim))
        if not self.count:
            raise _error(2)
        return np.array([self.labels[self._nearest(value)[0]] for value in values], np.int64)

    def absorb(self, other: Ilvq) -> None:
        """Takes over the prototypes of another head of the same dim."""
        if other is self or other.settings.dim != self.settings.dim:
            raise _error(1)
        for i in range(other.count):
            self._place(other.vectors[i], int(other.labels[i]), int(other.wins[i]))
        self.samples += other.samples

    def share(self, parts: int) -> None:
        """Divides the wins, of which one at least remains."""
        if parts > 1:
            self.wins[: self.count] = np.maximum(self.wins[: self.count] // parts, 1)

    def to_bytes(self) -> bytes:
        """The sealed state, as it lies in the device's memory."""
        n = self.settings.capacity
        sizes = self.settings.dim << 16 | n
        head = np.array([MAGIC, sizes, self.count, self.samples & 0xFFFFFFFF], "<u4").tobytes()
        low = [self.ages[b, a] for b in range(n) for a in range(b)]
        parts = [self.vectors.astype("<f4"), self.wins.astype("<u4"), self.labels.astype("<u2")]
        parts += [np.zeros(n % 2, "<u2"), np.array(low, np.uint8), np.zeros(-len(low) % 4, np.uint8)]
        body = b"".join(part.tobytes() for part in parts)
        return head + zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little") + body

    def _restore(self, state: bytes) -> None:
        n, dim = self.settings.capacity, self.settings.dim
        if len(state) != 4 * self.settings.words:
            raise _error(3)
        magic, sizes, count, samples, crc = (int(word) for word in np.frombuffer(state, "<u4", HEADER_WORDS))
        if magic != MAGIC:
            raise _error(2)
        if sizes != (dim << 16 | n):
            raise _error(3)
        if crc != zlib.crc32(state[20:], zlib.crc32(state[:16])) or count > n:
            raise _error(4)
        self.count, self.samples = count, samples
        self.vectors[:] = np.frombuffer(state, "<f4", n * dim, 20).reshape(n, dim)
        self.wins[:] = np.frombuffer(state, "<u4", n, 20 + 4 * n * dim)
        self.labels[:] = np.frombuffer(state, "<u2", n, 20 + 4 * n * (dim + 1))
        low = np.frombuffer(state, np.uint8, n * (n - 1) // 2, 20 + 4 * (n * (dim + 1) + (n + 1) // 2))
        rows, columns = np.tril_indices(n, -1)
        self.ages[rows, columns] = self.ages[columns, rows] = low

    def _distances(self, x: Float) -> Float:
        """(count) squared distances of the prototypes to x."""
        total = np.zeros(self.count, np.float32)
        for k in range(self.settings.dim):
            apart = self.vectors[: self.count, k] - x[k]
            total += apart * apart
        return total

    def _nearest(self, x: Float) -> tuple[int, int, np.float32, np.float32]:
        """Winner, runner-up and their distances; of equal ones the lower index, -1 where there is none."""
        apart = self._distances(x)
        order = np.argsort(apart, kind="stable")[:2]
        found = [(int(i), apart[i]) for i in order if apart[i] < NONE]
        found += [(-1, NONE)] * (2 - len(found))
        return found[0][0], found[1][0], found[0][1], found[1][1]

    def _threshold(self, i: int) -> np.float32:
        """Distance to the nearest of other classes that is not below the mean distance to neighbours of its own."""
        apart = self._distances(self.vectors[i])
        own = self.labels[: self.count] == self.labels[i]
        neighbours = np.flatnonzero(own & (self.ages[i, : self.count] != 0))
        total = np.float32(0)
        for k in neighbours:
            total = total + apart[k]
        within = total / np.float32(len(neighbours)) if len(neighbours) else np.float32(0)
        others = apart[~own & (apart >= within) & (apart < NONE)]
        if len(others):
            return np.float32(others.min())
        return np.float32(within) if len(neighbours) else NONE

    def _move(self, i: int, x: Float, rate: np.float32) -> None:
        self.vectors[i] += rate * (x - self.vectors[i])

    def _adapt(self, x: Float, label: int, winner: int, second: int) -> None:
        ages = self.ages[winner, : self.count]
        ages[:] = np.where((ages == 0) | (ages > self.settings.age_limit), 0, ages + np.uint8(1))
        ages[second] = 1
        self.ages[: self.count, winner] = ages
        self.wins[winner] = min(self.wins[winner] + 1, MOST_WINS)
        rate = np.float32(1) / np.float32(self.wins[winner])
        self._move(winner, x, rate if self.labels[winner] == label else -rate)
        for k in np.flatnonzero((ages != 0) & (self.labels[: self.count] != label)):
            self._move(int(k), x, -(rate * PUSH))

    def _place(self, x: Float, label: int, wins: int) -> None:
        """A new prototype; where there is no room the two nearest of one class become one."""
        if self.count == self.settings.capacity:
            least, pair = NONE, (-1, -1)
            apart = self._distances(x)
            for k in np.flatnonzero(self.labels[: self.count] == label):
                if apart[k] < least:
                    least, pair = apart[k], (int(k), -1)
            for j in range(1, self.count):
                apart = self._distances(self.vectors[j])[:j]
                apart = np.where(self.labels[:j] == self.labels[j], apart, NONE)
                i = int(apart.argmin())
                if apart[i] < least:
                    least, pair = apart[i], (i, j)
            if pair[0] < 0:
                raise _error(8)
            if pair[1] < 0:
                self._merge(pair[0], x, wins)
                return
            self._merge_pair(*pair)
        self.vectors[self.count], self.labels[self.count], self.wins[self.count] = x, label, wins
        self.count += 1

    def _merge(self, i: int, x: Float, wins: int) -> None:
        total = int(self.wins[i]) + wins
        self._move(i, x, np.float32(wins) / np.float32(total))
        self.wins[i] = min(total, MOST_WINS)

    def _merge_pair(self, i: int, j: int) -> None:
        """j becomes part of i < j, which keeps the younger of two edges."""
        self._merge(i, self.vectors[j].copy(), int(self.wins[j]))
        ours, theirs = self.ages[i].copy(), self.ages[j]
        take = (theirs != 0) & ((ours == 0) | (theirs < ours))
        take[[i, j]] = False
        ours[take] = theirs[take]
        self.ages[i] = self.ages[:, i] = ours
        self._drop(j)

    def _drop(self, i: int) -> None:
        """The last one takes the place of the one that goes."""
        self.count -= 1
        last = self.count
        if i != last:
            self.vectors[i], self.wins[i], self.labels[i] = self.vectors[last], self.wins[last], self.labels[last]
            edges = self.ages[last].copy()
            edges[i] = edges[last] = 0
            self.ages[i] = self.ages[:, i] = edges
        self.vectors[last], self.wins[last], self.labels[last] = 0, 0, 0
        self.ages[last] = self.ages[:, last] = 0

    def _remove_useless(self) -> None:
        total = np.float32(0)
        for wins in self.wins[: self.count]:
            total = total + np.float32(wins)
        mean = total / np.float32(self.count)
        for i in reversed(range(self.count)):
            neighbours = int(np.count_nonzero(self.ages[i, : self.count]))
            least = {0: np.float32(0.5) * mean, 1: np.float32(self.settings.prune) * mean}.get(
                neighbours, np.float32(0)
            )
            if np.float32(self.wins[i]) < least and (self.labels[: self.count] == self.labels[i]).sum() > 1:
                self._drop(i)


class _Config(ctypes.Structure):
    """tlc_ilvq_config_t."""

    _fields_ = (
        ("dim", ctypes.c_uint16),
        ("capacity", ctypes.c_uint16),
        ("age_limit", ctypes.c_uint8),
        ("period", ctypes.c_uint16),
        ("prune", ctypes.c_float),
    )


class _Head(ctypes.Structure):
    """tlc_ilvq_t."""

    _fields_ = (("config", _Config), *((name, ctypes.c_void_p) for name in ("header", "v", "w", "l", "a")))


class DeviceIlvq:
    """The firmware's own C, built for this machine.

    Args:
        settings: of the head.
        state: what :meth:`to_bytes` gave; None: it knows nothing.

    Raises:
        ToolchainError: there is no C compiler.
        DataError: the state is damaged, or of another size.
    """

    def __init__(self, settings: IlvqSettings, state: bytes | None = None) -> None:
        self.settings = settings
        self._c = _library()
        self._head, self._memory = _Head(), np.zeros(settings.words, np.uint32)
        start = self._c.tlc_ilvq_init
        if state is not None:
            if len(state) != self._memory.nbytes:
                raise _error(3)
            self._memory[:] = np.frombuffer(state, np.uint32)
            start = self._c.tlc_ilvq_open
        config = _Config(*astuple(settings))
        self._check(start(self._at, ctypes.byref(config), _pointer(self._memory), self._memory.nbytes))

    @property
    def _at(self) -> Any:
        return ctypes.byref(self._head)

    @property
    def prototypes(self) -> int:
        """How many are in use."""
        return int(self._c.tlc_ilvq_count(self._at))

    def learn(self, x: ArrayLike, label: int) -> None:
        """As :meth:`Ilvq.learn`."""
        value = _shaped(x, (self.settings.dim,))
        self._check(self._c.tlc_ilvq_learn(self._at, _pointer(value), ctypes.c_uint16(label)))

    def classify(self, x: ArrayLike) -> NDArray[np.int64]:
        """As :meth:`Ilvq.classify`."""
        values = _shaped(x, (len(np.asarray(x)), self.settings.dim))
        label, found = ctypes.c_uint16(), np.zeros(len(values), np.int64)
        for place, value in enumerate(values):
            self._check(self._c.tlc_ilvq_classify(self._at, _pointer(value), ctypes.byref(label)))
            found[place] = label.value
        return found

    def absorb(self, other: DeviceIlvq) -> None:
        """As :meth:`Ilvq.absorb`."""
        self._check(self._c.tlc_ilvq_absorb(self._at, other._at))

    def share(self, parts: int) -> None:
        """As :meth:`Ilvq.share`."""
        self._c.tlc_ilvq_share(self._at, ctypes.c_uint32(parts))

    def to_bytes(self) -> bytes:
        """As :meth:`Ilvq.to_bytes`."""
        self._c.tlc_ilvq_seal(self._at)
        return self._memory.tobytes()

    @staticmethod
    def _check(status: int) -> None:
        if status:
            raise _error(status)


def merged(states: Sequence[bytes], settings: IlvqSettings) -> bytes:
    """What several heads know, in one: each in turn is absorbed, and the wins divided by how many they are.

    Args:
        states: sealed, of heads with the same settings: all of a federation, or a device's and its neighbours'.
        settings: of each, and of the result.

    Returns:
        The sealed state to hand to all of them. The union of their prototypes; where these are more than the capacity, the nearest
        two of one class become their mean, weighted by the samples that each stands for.
    """
    whole = Ilvq(settings)
    for state in states:
        whole.absorb(Ilvq(settings, state))
    whole.share(len(states))
    return whole.to_bytes()


def _error(status: int) -> DataError:
    return DataError(STATUS.get(status, f"status {status}"), where="ILVQ head")


def _shaped(x: ArrayLike, shape: tuple[int, ...]) -> Float:
    values = np.ascontiguousarray(x, np.float32)
    if values.shape != shape:
        raise DataError(f"values of shape {values.shape}, not {shape}", where="ILVQ head")
    return values


def _sound(x: ArrayLike, shape: tuple[int, ...]) -> Float:
    values = _shaped(x, shape)
    if not (np.abs(values) <= MOST).all():
        raise _error(7)
    return values


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


@functools.cache
def _library() -> ctypes.CDLL:
    firmware = firmware_dir()
    sources = [firmware / "src" / "heads" / "ilvq.c", firmware / "src" / "link" / "crc32.c"]
    library = ctypes.CDLL(str(build_sources(firmware, sources, ["-fPIC", "-shared"], "ilvq.so")))
    library.tlc_ilvq_count.restype = ctypes.c_uint32
    return library
