# SPDX-License-Identifier: Apache-2.0
"""Writes the vectors of firmware/PROTOCOL.md: ``python tests/conformance/make_link_vectors.py``.

The bytes are made here by hand-written rules, not by the code under test.
"""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RNG = random.Random(20250101)


def crc32(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def stuff(data: bytes) -> bytes:
    """COBS from its definition: cut at zeros, cut what is longer than 254, write lengths."""
    blocks: list[tuple[bytes, bool]] = []
    pieces = data.split(b"\0")
    for i, piece in enumerate(pieces):
        while len(piece) > 254 or (len(piece) == 254 and i == len(pieces) - 1):
            blocks.append((piece[:254], True))
            piece = piece[254:]
        if len(piece) == 254:  # a zero follows: a full block, and an empty one that stands for it
            blocks.append((piece, True))
            piece = b""
        last = i == len(pieces) - 1
        if not (last and piece == b"" and blocks and blocks[-1][1]):
            blocks.append((piece, False))
    return b"".join(bytes([len(block) + 1]) + block for block, _ in blocks)


def frame(fields: dict[str, int], payload: bytes) -> bytes:
    body = bytearray()
    body += bytes([fields["version"], fields["type"], fields["stream"] | fields["flags"] << 4])
    body += fields["credit"].to_bytes(3, "little")
    body += struct.pack("<HIHHI", *(fields[k] for k in ("counter", "session", "sequence", "acknowledge", "selective")))
    body += struct.pack("<H", fields["message"])
    body += fields["offset"].to_bytes(3, "little") + fields["length"].to_bytes(3, "little")
    body += payload
    assert len(body) == 28 + len(payload)
    return stuff(bytes(body) + struct.pack("<I", crc32(bytes(body)))) + b"\0"


def encodings() -> list[dict[str, str]]:
    cases = [b"\0" * n for n in (1, 2, 5)]
    cases += [bytes(range(1, 255)) * k + tail for k in (1, 2) for tail in (b"", b"\0", b"x", b"\0\0")]
    cases += [bytes([7]) * n for n in (1, 249, 250, 251, 252, 253, 254, 255, 256, 508)]
    cases += [bytes(RNG.choice([0, 0, 1, 255, RNG.randrange(256)]) for _ in range(n)) for n in (1, 28, 60, 300, 1056)]
    return [
        {"data": c.hex(), "crc32": f"{crc32(c):08x}", "wire": (stuff(c + struct.pack("<I", crc32(c))) + b"\0").hex()}
        for c in cases
    ]


def frames() -> list[dict[str, Any]]:
    names = "version type stream flags credit counter session sequence acknowledge selective message offset length"
    zero = dict.fromkeys(names.split(), 0) | {"version": 1}
    cases: list[tuple[dict[str, int], bytes]] = [
        ({"type": 1}, struct.pack("<I", 0x01020304)),
        ({"type": 2}, struct.pack("<IIHBBIIHH", 0xCAFE0001, 0, 1024, 32, 0, 1 << 20, 1, 1024, 1000)),
        ({"type": 3, "session": 0x89ABCDEF}, struct.pack("<IIHBBIIHH", 0xCAFE0001, 9, 256, 8, 0, 4116, 4116, 64, 1000)),
        ({"type": 4, "session": 0x89ABCDEF}, bytes([1, 1, 1])),
        ({"type": 5, "flags": 2, "session": 1, "credit": 0x123456, "counter": 0xFFFF, "acknowledge": 0xFFFE}, b""),
    ]
    for _ in range(12):
        payload = RNG.randbytes(RNG.choice([1, 64, 256, 1024]))
        offset = RNG.randrange(0, 1 << 16)
        fields = {
            "type": RNG.randrange(16, 256),
            "stream": RNG.randrange(3),
            "flags": RNG.choice([0, 2, 4, 6]),
            "credit": RNG.randrange(1 << 24),
            "counter": RNG.randrange(1 << 16),
            "session": RNG.randrange(1 << 32),
            "sequence": RNG.randrange(1 << 16),
            "acknowledge": RNG.randrange(1 << 16),
            "selective": RNG.randrange(1 << 32),
            "message": RNG.randrange(1 << 16),
            "offset": offset,
            "length": offset + len(payload) + RNG.randrange(1 << 20),
        }
        cases.append((fields, payload))
    return [
        {"fields": zero | fields, "payload": payload.hex(), "wire": frame(zero | fields, payload).hex()}
        for fields, payload in cases
    ]


def messages() -> list[dict[str, Any]]:
    common = {"request": 0x11223344, "round": 2, "step": 3, "batch": 0x80000001}
    head = struct.pack("<4I", *common.values())
    digest = bytes(range(32))
    cases: list[tuple[int, str, dict[str, Any], bytes]] = [
        (
            0x10,
            "Hello",
            {
                "version": 1,
                "reset": 4,
                "capabilities": 3,
                "boot": 0xB0070001,
                "token": 0x70CE0001,
                "last_step": 17,
                "samples": 2,
                "forward": 40,
                "backward": 39,
                "uptime_ms": 123456,
                "param_bytes": 1000,
                "bundle_hash": digest,
                "id": 0x0000A1B2C3D4E5F6,
                "board": b"qemu-m4",
            },
            struct.pack("<HBB9I", 1, 4, 0, 3, 0xB0070001, 0x70CE0001, 17, 2, 40, 39, 123456, 1000)
            + digest
            + struct.pack("<Q", 0x0000A1B2C3D4E5F6)
            + b"qemu-m4",
        ),
        (0x11, "Welcome", {"token": 7, "bundle_hash": digest}, struct.pack("<I", 7) + digest),
        (0x12, "Refuse", {"reason": 6, "bundle_hash": digest}, bytes([6, 0, 0, 0]) + digest),
        (
            0x20,
            "Forward",
            {"index": 1, "flags": 11, "bound": 0x0102, "tensor": b"\x80\x00\x7f"},
            bytes([1, 11, 2, 1, 0x80, 0, 0x7F]),
        ),
        (0x36, "Exit", {"bound": 0x0100}, bytes([0, 1, 0, 0])),
        (
            0x21,
            "Smashed",
            {"index": 0, "count": 2, "flags": 1, "ticks": 1 << 40, "tensor": b"\x01"},
            bytes([0, 2, 1, 0]) + struct.pack("<Q", 1 << 40) + b"\x01",
        ),
        (0x22, "Result", {"count": 2, "values": struct.pack("<2f", 1.5, -2)}, struct.pack("<I2f", 2, 1.5, -2)),
        (
            0x23,
            "Backward",
            {"forward": 40, "dtype": 1, "scale": 0.25, "gradient": b"\xff\x01"},
            struct.pack("<IB3xf", 40, 1, 0.25) + b"\xff\x01",
        ),
        (
            0x24,
            "Step",
            {
                "learning_rate": 0.125,
                "seed": 99,
                "max_norm": 2.5,
                "momentum": 0.5,
                "weight_decay": 0.25,
                "clip": 4.0,
                "flags": 1,
            },
            struct.pack("<fI4fI", 0.125, 99, 2.5, 0.5, 0.25, 4.0, 1),
        ),
        (0x25, "GetParams", {"offset": 4, "count": 8, "coding": 0}, struct.pack("<III", 4, 8, 0)),
        (
            0x26,
            "Params",
            {"offset": 4, "total": 8, "coding": 0, "data": b"abcd"},
            struct.pack("<III", 4, 8, 0) + b"abcd",
        ),
        (
            0x27,
            "SetParams",
            {"offset": 0, "total": 8, "coding": 1, "data": b"abcd"},
            struct.pack("<III", 0, 8, 1) + b"abcd",
        ),
        (0x28, "GetStats", {"what": 1}, struct.pack("<I", 1)),
        (0x2A, "Layers", {"ticks": struct.pack("<2I", 5, 6)}, struct.pack("<2I", 5, 6)),
        (0x2B, "ResetState", {}, b""),
        (0x2C, "Done", {"of": 0x24, "flags": 1, "samples": 3, "ticks": 12}, struct.pack("<BBHIQ", 0x24, 1, 0, 3, 12)),
        (0x2D, "Error", {"of": 0x23, "status": 2, "text": b"no"}, bytes([0x23, 2, 0, 0]) + b"no"),
        (0x2E, "Log", {"level": 30, "text": b"warm"}, bytes([30, 0, 0, 0]) + b"warm"),
        (0x2F, "Test", {"count": 3, "data": b"abc"}, struct.pack("<I", 3) + b"abc"),
        (0x30, "Save", {}, b""),
        (
            0x32,
            "Train",
            {
                "forward": 40,
                "kind": 5,
                "flags": 2,
                "label": 0x0809,
                "value": 7,
                "learning_rate": 0.125,
                "seed": 99,
                "max_norm": 2.5,
                "momentum": 0.5,
                "weight_decay": 0.25,
                "clip": 4.0,
                "data": b"abcd",
            },
            struct.pack("<IBBHIfI4f", 40, 5, 2, 0x0809, 7, 0.125, 99, 2.5, 0.5, 0.25, 4.0) + b"abcd",
        ),
        (
            0x33,
            "Trained",
            {"loss": 1.5, "predicted": 9, "flags": 1, "ticks": 12},
            struct.pack("<fHBBQ", 1.5, 9, 1, 0, 12),
        ),
        (
            0x34,
            "Tail",
            {"forward": 40, "kind": 2, "value": 7, "tensor": b"\x80\x7f"},
            struct.pack("<IBBHI", 40, 2, 0, 0, 7) + b"\x80\x7f",
        ),
        (
            0x35,
            "Gradient",
            {"loss": 1.5, "flags": 1, "ticks": 12, "gradient": struct.pack("<2f", 0.5, -2)},
            struct.pack("<fBBHQ2f", 1.5, 1, 0, 0, 12, 0.5, -2),
        ),
        (0x37, "Cut", {"index": 2}, bytes([2, 0, 0, 0])),
        (
            0x31,
            "Journal",
            {
                "slot_bytes": 4096,
                "sequence": 7,
                "saved_step": 300,
                "length": 250,
                "wear_a": 4,
                "wear_b": 3,
                "saves": 2,
                "rollbacks": 1,
                "status": 6,
                "slot_a": 1,
                "slot_b": 2,
            },
            struct.pack("<8I4B", 4096, 7, 300, 250, 4, 3, 2, 1, 6, 1, 2, 0),
        ),
    ]
    stats = [
        *(
            [
                "forward_ticks",
                "backward_ticks",
                "update_ticks",
                "arena_bytes",
                "state_bytes",
                "stack_bytes",
                "uptime_ms",
                "last_step",
            ]
        ),
        *(
            [
                "samples",
                "forwards",
                "backwards",
                "frames_in",
                "frames_out",
                "bytes_in",
                "bytes_out",
                "bad",
                "repeated",
                "refused",
                "resent",
            ]
        ),
        "sessions",
        "sampled",
        "exited",
    ]
    values = dict(zip(stats, range(100, 122), strict=True))
    cases.append((0x29, "Stats", values, struct.pack("<3Q19I", *values.values())))
    header_bytes = {
        "Hello": 96,
        "Test": 20,
        "Error": 20,
        "Log": 20,
        "Layers": 16,
        "Forward": 20,
        "Smashed": 28,
        "Result": 20,
    }
    header_bytes |= {"Backward": 28, "Params": 28, "SetParams": 28, "Train": 52, "Tail": 28, "Gradient": 32}
    return [
        {
            "type": kind,
            "name": name,
            "fields": common | {k: v.hex() if isinstance(v, bytes) else v for k, v in fields.items()},
            "bytes": (head + rest).hex(),
            "header_bytes": header_bytes.get(name, 16 + len(rest)),
        }
        for kind, name, fields, rest in cases
    ]


if __name__ == "__main__":
    for file, value in (("link_encodings", encodings()), ("link_frames", frames()), ("link_messages", messages())):
        (HERE / f"{file}.json").write_text(json.dumps(value, indent=1) + "\n")
