# SPDX-License-Identifier: Apache-2.0
"""What a device has learned: read, replaced, compared. On the link, as on the device's flash, as differences to the
values that it was compiled with (PROTOCOL.md, section 9)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tlc.bundle import LEARNED_FILE, Bundle, LearnedTensor
from tlc.data import load_arrays
from tlc.errors import BundleError, ConfigError, DataError, DeviceError, OutputError, ProtocolError, nearest
from tlc_host import messages as m
from tlc_host.session import Session

__all__ = [
    "Difference",
    "apply_delta",
    "check_writable",
    "decode_delta",
    "differences",
    "encode_delta",
    "initial_arrays",
    "initial_params",
    "pack",
    "pull",
    "push",
    "read_file",
    "require_journal",
    "require_learned",
    "status",
    "unpack",
    "write_file",
]

Arrays = Mapping[str, NDArray[Any]]
"""The learned tensors' integers by name, in the shapes that the bundle tells."""

AS_IT_IS, CODED = 0, 1
ZEROS, VALUES = 0x80, 0x40
"""Most elements in a run of zeros, and of other differences."""
NIBBLES, BYTES = 0x80, 0xC0
LIMITS = {"int8": (-128, 127), "int32": (-(2**30), 2**30)}
"""What the device's arithmetic takes; a bias beyond leaves no room for a layer's products."""


@dataclass(frozen=True)
class Difference:
    """One tensor against another: elements that differ, and by how many steps of the integer."""

    name: str
    elements: int
    changed: int
    mean: float
    """Of |difference|, over all elements."""
    largest: int

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return asdict(self)


# ---- messages and arrays ----


def unpack(bundle: Bundle, raw: bytes) -> dict[str, NDArray[Any]]:
    """The tensors of a parameter message."""
    return {
        entry.name: np.frombuffer(raw, f"<{np.dtype(entry.dtype).str[1:]}", entry.elements, entry.offset)
        .astype(entry.dtype)
        .reshape(entry.shape)
        for entry in bundle.learned
    }


def pack(bundle: Bundle, arrays: Arrays) -> bytes:
    """A parameter message of all the tensors."""
    raw = bytearray(bundle.param_bytes)
    for entry in bundle.learned:
        part = np.ascontiguousarray(arrays[entry.name], entry.dtype).tobytes()
        raw[entry.offset : entry.offset + entry.nbytes] = part
    return bytes(raw)


def initial_params(directory: Path) -> bytes:
    """The parameter message of a device that has learned nothing; empty where the project does not tell."""
    try:
        return (Path(directory) / LEARNED_FILE).read_bytes()
    except OSError:
        return b""


def initial_arrays(bundle: Bundle, directory: Path) -> dict[str, NDArray[Any]]:
    """The learned tensors of a device that has learned nothing.

    Raises:
        BundleError: the project does not tell.
    """
    initial = initial_params(directory)
    if not initial:
        raise BundleError(
            f"there is no {LEARNED_FILE} with the tensors' first values", where=str(directory), remedy="compile again"
        )
    return unpack(bundle, initial)


def differences(bundle: Bundle, one: Arrays, other: Arrays) -> list[Difference]:
    """Each tensor of ``one`` that ``other`` has, too."""
    rows = []
    for entry in bundle.learned:
        if entry.name in one and entry.name in other:
            delta = np.abs(one[entry.name].astype(np.int64) - other[entry.name])
            changed, mean, largest = int(np.count_nonzero(delta)), float(delta.mean()), int(delta.max())
            rows.append(Difference(entry.name, entry.elements, changed, mean, largest))
    return rows


# ---- the coding ----


def encode_delta(bundle: Bundle, initial: bytes, raw: bytes) -> bytes:
    """A parameter message as differences to another; the same bytes as the device makes."""
    one, other = unpack(bundle, initial), unpack(bundle, raw)
    out = bytearray()
    for entry in bundle.learned:
        unsigned = np.uint8 if entry.dtype == "int8" else np.uint32
        before: NDArray[Any] = one[entry.name].view(unsigned).ravel()
        after: NDArray[Any] = other[entry.name].view(unsigned).ravel()
        delta = after - before
        plain = delta.astype(f"<u{delta.itemsize}").tobytes()
        coded = _encode_weights(delta.view(np.int8)) if entry.dtype == "int8" else _encode_biases(delta)
        out += bytes([CODED]) + coded if len(coded) < len(plain) else bytes([AS_IT_IS]) + plain
    return bytes(out)


def _encode_weights(delta: NDArray[Any]) -> bytes:
    values, count = delta.tolist(), delta.size
    out = bytearray()

    def zeros(at: int) -> bool:
        return values[at] == 0 and (at + 1 == count or values[at + 1] == 0)

    at = 0
    while at < count:
        run = 1
        if zeros(at):
            while run < ZEROS and at + run < count and values[at + run] == 0:
                run += 1
            out.append(run - 1)
        else:
            small = -8 <= values[at] <= 7
            while run < VALUES and at + run < count and (-8 <= values[at + run] <= 7) == small and not zeros(at + run):
                run += 1
            part = values[at : at + run]
            out.append((NIBBLES if small else BYTES) + run - 1)
            if small:
                part += [0] * (run % 2)
                out += bytes(low & 15 | (high & 15) << 4 for low, high in zip(part[::2], part[1::2], strict=True))
            else:
                out += bytes(value & 255 for value in part)
        at += run
    return bytes(out)


def _encode_biases(delta: NDArray[Any]) -> bytes:
    out = bytearray()
    for value in delta.tolist():
        code = (value << 1 ^ (0xFFFFFFFF if value >> 31 else 0)) & 0xFFFFFFFF
        while code >= 0x80:
            out.append(code & 0x7F | 0x80)
            code >>= 7
        out.append(code)
    return bytes(out)


def decode_delta(bundle: Bundle, data: bytes) -> dict[str, NDArray[Any]]:
    """The differences, modulo the tensors' range, in the tensors' types and shapes.

    Raises:
        ProtocolError: no such code.
    """
    found = {}
    at = 0
    for entry in bundle.learned:
        form, at = _byte(data, at), at + 1
        if form == AS_IT_IS:
            part = data[at : at + entry.nbytes]
            if len(part) < entry.nbytes:
                raise _broken()
            values = np.frombuffer(part, f"<{np.dtype(entry.dtype).str[1:]}").astype(entry.dtype)
            at += entry.nbytes
        elif form == CODED:
            decode = _decode_weights if entry.dtype == "int8" else _decode_biases
            values, at = decode(data, at, entry)
        else:
            raise _broken()
        found[entry.name] = values.reshape(entry.shape)
    if at != len(data):
        raise _broken()
    return found


def apply_delta(bundle: Bundle, initial: bytes, data: bytes) -> bytes:
    """The parameter message that differences make of another.

    Raises:
        ProtocolError: no such code.
    """
    begun, delta = unpack(bundle, initial), decode_delta(bundle, data)
    unsigned = {"int8": np.uint8, "int32": np.uint32}
    return pack(
        bundle,
        {
            entry.name: (begun[entry.name].view(unsigned[entry.dtype]) + delta[entry.name].view(unsigned[entry.dtype]))
            .view(entry.dtype)
            for entry in bundle.learned
        },
    )  # fmt: skip


def _broken() -> ProtocolError:
    return ProtocolError("the device's differences are no such code", remedy="build host and firmware from one release")


def _byte(data: bytes, at: int) -> int:
    if at >= len(data):
        raise _broken()
    return data[at]


def _decode_weights(data: bytes, at: int, entry: LearnedTensor) -> tuple[NDArray[Any], int]:
    values: list[int] = []
    while len(values) < entry.elements:
        code, at = _byte(data, at), at + 1
        run = code + 1 if code < NIBBLES else (code & 0x3F) + 1
        if code < NIBBLES:
            values += [0] * run
        else:
            size = (run + 1) // 2 if code < BYTES else run
            part = data[at : at + size]
            if len(part) < size:
                raise _broken()
            if code < BYTES:
                nibbles = [nibble for byte in part for nibble in (byte & 15, byte >> 4)][:run]
                values += [(nibble ^ 8) - 8 for nibble in nibbles]
            else:
                values += [(byte ^ 128) - 128 for byte in part]
            at += size
    if len(values) > entry.elements:
        raise _broken()
    return np.array(values, np.int8), at


def _decode_biases(data: bytes, at: int, entry: LearnedTensor) -> tuple[NDArray[Any], int]:
    values = np.empty(entry.elements, np.uint32)
    for index in range(entry.elements):
        code = shift = 0
        while True:
            byte, at = _byte(data, at), at + 1
            if shift == 28 and byte > 15:
                raise _broken()
            code |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        values[index] = code >> 1 ^ (0xFFFFFFFF if code & 1 else 0)
    return values.view(np.int32), at


# ---- a device ----


def require_learned(bundle: Bundle, directory: Path) -> None:
    """Refuses a project in which nothing learns.

    Raises:
        ConfigError: so it is.
    """
    if not bundle.learned:
        raise ConfigError("nothing learns on the device", where=str(directory), remedy="compile with --train last")


def require_journal(session: Session) -> None:
    """Refuses a device that keeps nothing.

    Raises:
        ConfigError: so it is.
    """
    if not session.hello.capabilities & m.Capability.SAVE:
        raise ConfigError(
            "this device has no flash to keep what it learns",
            where=session.name,
            remedy="leave --save out, or give its port a tlc_storage_t",
        )


async def pull(session: Session, bundle: Bundle, directory: Path) -> dict[str, NDArray[Any]]:
    """The learned tensors of a device, as differences on the link where both ends can.

    Raises:
        LinkError: the device does not answer, or answers an error.
    """
    initial = initial_params(directory)
    if initial:
        try:
            return unpack(bundle, apply_delta(bundle, initial, await session.get_delta()))
        except DeviceError as error:
            if error.status != m.Status.FULL:
                raise
    return unpack(bundle, await session.get_params())


async def push(session: Session, bundle: Bundle, directory: Path, arrays: Arrays, *, step: int = 0) -> int:
    """Replaces learned tensors of a device; those that ``arrays`` does not have stay as they are.

    Args:
        step: that they belong to.

    Returns:
        The bytes of them that went over the link.
    """
    whole = dict(arrays)
    if len(whole) < len(bundle.learned):
        whole = {**await pull(session, bundle, directory), **whole}
    raw, initial = pack(bundle, whole), initial_params(directory)
    coded = encode_delta(bundle, initial, raw) if initial else b""
    if coded and len(coded) < len(raw) and await session.set_delta(coded, step=step):
        return len(coded)
    await session.set_params(raw, step=step)
    return len(raw)


async def status(session: Session) -> dict[str, Any]:
    """What a device says of its learned tensors and its journal."""
    now, journal = await session.stats(), await session.journal()
    states = {m.Status.OK: "in use", m.Status.STATE: "empty", m.Status.BUNDLE: "of another bundle: ignored"}
    slots = ["empty", "this bundle's", "another bundle's", "damaged"]
    return {
        "learned_bytes": session.hello.param_bytes,
        "step": now.last_step,
        "journal": states.get(m.Status(journal.status), "damaged") if journal.slot_bytes else "none",
        "slot_bytes": journal.slot_bytes,
        "saved_step": journal.saved_step if journal.length else None,
        "saved_bytes": journal.length,
        "sequence": journal.sequence,
        "slots": [slots[slot] if slot < len(slots) else "?" for slot in (journal.slot_a, journal.slot_b)],
        "erasures": [journal.wear_a, journal.wear_b],
        "saves_since_boot": journal.saves,
        "rollbacks_since_boot": journal.rollbacks,
    }


# ---- files ----


def check_writable(path: Path) -> None:
    """Before a device is asked.

    Raises:
        OutputError: no name for a file of learned tensors.
    """
    if path.suffix != ".npz":
        raise OutputError("a file of learned tensors ends in .npz", where=str(path), remedy="name it so")
    if not path.parent.is_dir():
        raise OutputError("its directory does not exist", where=str(path), remedy="create it first")


def write_file(path: Path, arrays: Arrays) -> None:
    """Learned tensors as ``.npz``; whole, or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    check_writable(path)
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        with scratch.open("xb") as file:
            np.savez(file, **dict(arrays))  # type: ignore[arg-type,unused-ignore]
        os.replace(scratch, path)
    except OSError as error:
        raise OutputError(
            f"cannot be written ({error.strerror})", where=str(path), remedy="choose another --output"
        ) from None
    finally:
        scratch.unlink(missing_ok=True)


def read_file(path: Path, bundle: Bundle) -> dict[str, NDArray[Any]]:
    """Learned tensors from ``.npz``: all of them, or some.

    Raises:
        DataError: a name that does not learn, another shape or type, or a value out of range.
    """
    known = {entry.name: entry for entry in bundle.learned}
    found = {}
    for name, array in load_arrays(path).items():
        where = f"{path}: array '{name}'"
        entry = known.get(name)
        if entry is None:
            raise DataError("no tensor of this name learns on the device", where=where, remedy=nearest(name, known))
        if array.shape != entry.shape:
            raise DataError(
                f"has shape {array.shape}, but on the device it is {entry.shape}",
                where=where,
                remedy="write it as tlc weights pull does",
            )
        if array.dtype.kind not in "iu":
            raise DataError(
                f"has type {array.dtype}, but on the device it is {entry.dtype}",
                where=where,
                remedy="give integers: round(real / scale); bundle.json has the scales",
            )
        low, high = LIMITS[entry.dtype]
        if array.size and (array.min() < low or array.max() > high):
            raise DataError(
                f"runs from {array.min()} to {array.max()}, but the device takes {low} to {high}",
                where=where,
                remedy="clip it",
            )
        found[name] = array.astype(entry.dtype)
    if not found:
        raise DataError("holds no array", where=str(path), remedy="write it as tlc weights pull does")
    return found
