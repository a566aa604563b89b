# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Renode, which is not on every machine: a process that speaks the protocol of Renode's robot server.

It takes Renode's command line, chooses a port and writes it where Renode does, and understands those lines of Renode's
monitor that :mod:`tlc.emulator_renode` sends, strictly: any other is refused. What it runs is no Renode: QEMU runs the image
of a board that both could be (an STM32F4), its UART bridged to the pseudo-terminal or the socket. Without ``STANDIN_BOARD``
nothing runs at all, and the program "starts" at once. ``STANDIN_VERSION`` is the version that it tells, ``STANDIN_REFUSES``
the beginning of a line that it refuses.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import socket
import sys
import threading
import tty
from pathlib import Path
from typing import Any, ClassVar
from xmlrpc.server import SimpleXMLRPCServer

from tlc import boards, emulator


class Machine:
    """One board: its UART's end on our side, its image, and what runs it."""

    def __init__(self) -> None:
        self.elf = ""
        self.uart = ""
        self.words: dict[int, int] = {}
        self.process: emulator.EmulatorProcess | None = None
        self.starts = 0
        self.counted = 0


class Terminal:
    """A pseudo-terminal, or a socket that one client may connect to."""

    def __init__(self, link: str = "", port: int = 0) -> None:
        self.server: socket.socket | None = None
        if link:
            self.ours, theirs = pty.openpty()
            self.kept = theirs  # so that a host may come and go
            tty.setraw(theirs)
            Path(link).symlink_to(os.ttyname(theirs))
        else:
            self.server = socket.create_server(("127.0.0.1", port))

    def bridge(self, port: int) -> None:
        """Carries bytes between the terminal and an emulator's socket, both ways."""
        line = socket.create_connection(("127.0.0.1", port))
        if self.server is not None:
            self.ours = self.server.accept()[0].detach()

        def carry(source: int, sink: int) -> None:
            try:
                while some := os.read(source, 4096):
                    while some:
                        some = some[os.write(sink, some) :]
            except OSError:
                return

        here = line.detach()
        for ends in ((self.ours, here), (here, self.ours)):
            threading.Thread(target=carry, args=ends, daemon=True).start()


class Standin:
    """The emulation, and the monitor's lines."""

    def __init__(self) -> None:
        self.machines: dict[str, Machine] = {}
        self.terminals: dict[str, Terminal] = {}
        self.current = Machine()
        self.running = False
        self.macro = ""

    def run(self, line: str) -> str:
        """One line of the monitor: what it answers; ValueError where it refuses."""
        if line.startswith(os.environ.get("STANDIN_REFUSES") or "\0"):
            raise ValueError(f"There was an error executing command '{line}'\nsecond line")
        for pattern, action in self.lines.items():
            match = re.fullmatch(pattern, line)
            if match:
                return str(action(self, *match.groups()) or "")
        raise ValueError(f"No such command or device: {line}")

    def version(self) -> str:
        return f"Renode, version {os.environ.get('STANDIN_VERSION', '1.16.1.0')} (a stand-in)\n"

    def create(self, name: str) -> None:
        if name in self.machines:
            raise ValueError(f"Machine {name} already exists")
        self.machines[name] = self.current = Machine()

    def choose(self, name: str) -> None:
        self.current = self.machines[name]

    def describe(self, path: str) -> None:
        if not Path(path).read_text().startswith('using "platforms/'):
            raise ValueError("no platform")

    def make_pty(self, name: str, path: str) -> None:
        self.terminals[name] = Terminal(path)

    def make_socket(self, port: str, name: str) -> None:
        self.terminals[name] = Terminal(port=int(port))

    def connect(self, uart: str, name: str) -> None:
        assert uart.startswith("sysbus.usart") and name in self.terminals
        self.current.uart = name

    def define(self, macro: str) -> None:
        self.macro = macro

    def load(self, path: str) -> None:
        self.current.elf = str(Path(path).resolve(strict=True))

    def write(self, address: str, value: str) -> None:
        self.current.words[int(address, 0)] = int(value, 0)

    def read(self, address: str) -> str:
        return f"0x{self.current.starts:08X}\n"

    def count(self) -> str:
        self.current.counted += 1000
        return f"0x{self.current.counted:016X}\n"

    def start(self) -> None:
        for machine in self.machines.values():
            if os.environ.get("STANDIN_BOARD"):
                spec = boards.load(os.environ["STANDIN_BOARD"]).emulator_spec()
                (seed,) = machine.words.values()
                machine.process = emulator.boot(spec, machine.elf, seed=seed)
                port, terminal = machine.process.port, self.terminals[machine.uart]
                threading.Thread(target=terminal.bridge, args=(port,), daemon=True).start()
            machine.starts = 1

    def reset(self) -> None:
        self.run(self.macro)
        if self.current.process is not None:
            self.current.process.reset()
        self.current.starts += 1

    lines: ClassVar[dict[str, Any]] = {
        r"version": version,
        r'mach create "(\w+)"': create,
        r'mach set "(\w+)"': choose,
        r"machine LoadPlatformDescription @(\S+)": describe,
        r'emulation CreateUartPtyTerminal "(\w+)" "(\S+)"': lambda self, name, path: self.make_pty(name, path),
        r'emulation CreateServerSocketTerminal (\d+) "(\w+)" false': make_socket,
        r"connector Connect (\S+) (\w+)": connect,
        r'macro reset "(.*)"': define,
        r"runMacro \$reset": lambda self: self.run(self.macro),
        r"sysbus LoadELF @(\S+)": load,
        r"sysbus WriteDoubleWord (0x\w+) (0x\w+)": write,
        r"sysbus ReadDoubleWord (0x\w+)": read,
        r"sysbus\.cpu ExecutedInstructions": count,
        r"machine Reset": reset,
        r"start": start,
    }


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser()
    for flag in ("--disable-gui", "--plain", "--hide-log"):
        parser.add_argument(flag, action="store_true", required=True)
    parser.add_argument("--robot-server-port", type=int, required=True)
    parser.add_argument("--config", required=True)
    arguments = parser.parse_args()
    standin = Standin()
    server = SimpleXMLRPCServer(("127.0.0.1", arguments.robot_server_port), logRequests=False, allow_none=True)

    def run_keyword(name: str, words: list[Any]) -> dict[str, str]:
        if name == "StopRemoteServer":
            threading.Thread(target=server.shutdown).start()
            return {"status": "PASS"}
        assert name == "ExecuteCommand"
        try:
            return {"status": "PASS", "return": standin.run(*words)}
        except (ValueError, OSError, KeyError) as error:
            return {"status": "FAIL", "error": f"KeywordException: {error}", "traceback": "at A.B()\n"}

    server.register_function(run_keyword)
    directory = Path(os.environ["TMPDIR"]) / f"renode-{os.getpid()}"
    directory.mkdir()
    (directory / "robot_port").write_text(str(server.server_address[1]))
    server.serve_forever()
    for machine in standin.machines.values():
        if machine.process is not None:
            machine.process.stop()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
