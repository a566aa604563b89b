# SPDX-License-Identifier: Apache-2.0
"""Stops an emulated CPU at a function, to take its power away there: a client of GDB's remote serial protocol.

Packets are ``$data#checksum``, acknowledged by ``+`` ("Debugging with GDB", appendix E).
"""

from __future__ import annotations

import contextlib
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tlc.emulator import EmulatorFailed, EmulatorProcess

__all__ = ["Debugger"]

SECONDS = 10.0
INTERRUPT = b"\x03"


class Debugger:
    """Holds a running board, from when it is made. An emulator has one in its life.

    Args:
        emulator: the board.
        kind: bytes of a breakpoint's instruction, as the protocol has it (2: Thumb).

    Raises:
        EmulatorFailed: the emulator has no debugger, or does not answer.
    """

    def __init__(self, emulator: EmulatorProcess, kind: int) -> None:
        self._emulator = emulator
        self._kind = kind
        self._directory = tempfile.TemporaryDirectory(prefix="tlc-debug-")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(SECONDS)
        self._rest = b""
        try:
            path = str(Path(self._directory.name) / "gdb")
            emulator.listen_for_debugger(path)
            self._socket.connect(path)
            self._ask("?")
        except OSError as error:
            self.close()
            raise EmulatorFailed(f"the emulator's debugger does not answer ({error})") from error

    def run_to(self, addresses: Sequence[int], hits: int, timeout: float) -> bool:
        """Lets the CPU run until it has come to any of some functions so many times; False: it did not, in that time."""
        for hit in range(hits):
            if hit > 0:
                self._ask("s")  # off the breakpoint, none of which is set now
            self._set("Z", addresses)
            self._send("c")
            try:
                self._socket.settimeout(timeout)
                stopped = bool(self._receive())
            except TimeoutError:
                stopped = False
            finally:
                self._socket.settimeout(SECONDS)
            if not stopped:
                self.hold()
            self._set("z", addresses)
            if not stopped:
                return False
        return True

    def step(self, instructions: int) -> None:
        """A few instructions more."""
        for _ in range(instructions):
            self._ask("s")

    def reset(self) -> None:
        """Takes the power away and gives it back; the board runs."""
        self._emulator.reset(lambda: self._send("c"))

    def hold(self) -> None:
        """Holds the board that runs."""
        self._socket.sendall(INTERRUPT)
        self._receive()

    def resume(self) -> None:
        """Lets the board run on."""
        self._send("c")

    def close(self) -> None:
        """Lets go of the board."""
        with contextlib.suppress(OSError):
            self._socket.close()
        self._directory.cleanup()

    def _set(self, what: str, addresses: Sequence[int]) -> None:
        for address in addresses:
            answer = self._ask(f"{what}0,{address:x},{self._kind}")
            while answer[:1] in (b"S", b"T"):  # the emulator also tells that it stopped when a debugger came
                answer = self._receive()
            if answer != b"OK":
                raise EmulatorFailed(f"the emulator's debugger refuses a breakpoint at {address:#x}")

    def _ask(self, packet: str) -> bytes:
        self._send(packet)
        return self._receive()

    def _send(self, packet: str) -> None:
        data = packet.encode()
        self._socket.sendall(b"$" + data + f"#{sum(data) & 255:02x}".encode())

    def _receive(self) -> bytes:
        """The next packet's data."""
        while True:
            start = self._rest.find(b"$")
            end = self._rest.find(b"#", start)
            if 0 <= start < end and len(self._rest) >= end + 3:
                data, self._rest = self._rest[start + 1 : end], self._rest[end + 3 :]
                self._socket.sendall(b"+")
                return data
            some = self._socket.recv(4096)
            if not some:
                raise EmulatorFailed("the emulator's debugger hung up")
            self._rest += some
