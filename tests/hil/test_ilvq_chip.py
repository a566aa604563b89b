# SPDX-License-Identifier: Apache-2.0
"""The ILVQ head on every emulated core: after hundreds of samples its memory equals the definition's, byte for byte."""

from __future__ import annotations

import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from hil_support import EMULATED, bare_project

from tlc import boards, toolchain
from tlc.ilvq import Ilvq, IlvqSettings

pytestmark = pytest.mark.hil

MAIN = Path(__file__).parent / "ilvq" / "main.c"
SETTINGS = IlvqSettings(dim=3, capacity=12, period=40)
LEARN, CLASSIFY, STATE = range(3)
NUMERIC = 7


@pytest.mark.parametrize("name", EMULATED)
def test_every_core_learns_the_same(name: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 3, 200)
    samples = (rng.normal(0, 1, (200, 3)) + labels[:, None]).astype(np.float32)
    definition = Ilvq(SETTINGS)
    project = bare_project(name, tmp_path, MAIN)
    toolchain.pio_run(project)
    board = boards.load(name)
    with toolchain.Emulator(board, toolchain.firmware_elf(project, board), seed=1) as process:
        with socket.create_connection((process.host, process.port), timeout=30) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

            def ask(x: np.ndarray, label: int, what: int, count: int = 3) -> bytes:
                connection.sendall(struct.pack("<3fHH", *x, label, what))
                received = b""
                while len(received) < count:
                    some = connection.recv(count - len(received))
                    assert some, "the board ended"
                    received += some
                return received

            for x, label in zip(samples, labels, strict=True):
                assert ask(x, label, LEARN)[0] == 0
                definition.learn(x, int(label))
            expected = definition.to_bytes()
            assert ask(samples[0], 0, STATE, len(expected)) == expected
            assert definition.ages.any() and definition.prototypes > 3
            told = [struct.unpack("<BH", ask(x, 9, CLASSIFY)) for x in samples[:20]]
            assert told == [(0, label) for label in definition.classify(samples[:20])]
            assert ask(np.array([0, np.nan, 0]), 0, LEARN)[0] == NUMERIC
            assert ask(samples[0], 0, STATE, len(expected)) == expected
