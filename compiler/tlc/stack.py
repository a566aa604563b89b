# SPDX-License-Identifier: Apache-2.0
"""The most stack that the firmware can ever use, proven from what was linked.

Every function that the reset handler can reach is found, with the bytes that its frame takes, and the deepest path over
them is the bound. What is known, and from where:

- Direct calls and tail calls come from the disassembly of the image, so they cover libc and libgcc too.
- A frame is what the compiler says (``-fcallgraph-info=su`` writes ``.ci`` beside each object) or what following the stack
  pointer through the function's instructions shows, whichever is more. Libraries have the latter alone.
- A call through a pointer is named by the struct member in the source line that the compiler recorded, and :data:`POINTERS`
  lists what that member may hold. That the list is complete is checked: a function of ours whose address is taken in any
  object, and that no listed member holds, makes the bound unknown.
- Recursion, a call that is not listed, and a frame of unknown size are errors: then there is no bound.

A fault handler starts the stack anew, so it is a root of its own. Interrupts stay masked, but where the port has a handler
of theirs: then what the core saves and the handler's own deepest path come on top of all (they all have one priority).
A tail call counts as if the caller's frame stayed, so the bound is an upper one.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import SymbolTableSection

from tlc.boards import Board
from tlc.errors import FitError, ToolchainError
from tlc.image import Image, Origin
from tlc.toolchain import find_tool

__all__ = ["POINTERS", "StackBound", "stack_bound"]

POINTERS: Mapping[str, tuple[tuple[Origin, str], ...]] = {
    # tlc_model_t
    "init": (("model", "init"),),
    "refresh": (("model", "refresh"),),
    "forward": (("model", "forward"),),
    "backward": (("model", "backward"),),
    "loss": (("model", "loss"),),
    "update": (("model", "update"),),
    # tlc_tail_t
    "tail_forward": (("model", "tail_forward"),),
    "tail_backward": (("model", "tail_backward"),),
    # tlc_ctx_t and tlc_link_config_t, as device/device.c sets them
    "on_layer": (("runtime", "on_layer"),),
    "place": (("runtime", "tlc_device_place"),),
    # tlc_port_t
    "read": (("port", "port_read"),),
    "write": (("port", "port_write"),),
    "millis": (("port", "port_millis"),),
    "ticks": (("port", "port_ticks"),),
    "yield": (("port", "port_yield"),),
    "entropy": (("port", "port_entropy"),),
    # tlc_storage_t
    "flash_read": (("port", "flash_read"),),
    "flash_erase": (("port", "flash_erase"),),
    "flash_write": (("port", "flash_write"),),
    # tlc_keeper_t
    "journal_load": (("runtime", "tlc_journal_load"),),
    "journal_save": (("runtime", "tlc_journal_save"),),
    "journal_clear": (("runtime", "tlc_journal_clear"),),
    "delta_encode": (("runtime", "tlc_delta_encode"),),
    "delta_decode": (("runtime", "tlc_delta_decode"),),
    "check_gradient": (("runtime", "tlc_check_gradient"),),
    "check_weights": (("runtime", "tlc_check_weights"),),
    "rate": (("runtime", "tlc_rate_f32"),),
    # tlc_device_config_t and tlc_board_app_t, as the generated main.c sets them
    "stack_bytes": (("application", "stack_bytes"),),
    "sample": (("application", "tlc_app_sample"),),
    "result": (("application", "tlc_app_result"),),
    "start": (("application", "start"),),
    "poll": (("application", "poll"),),
}
"""What each function pointer of the runtime may hold: (whose, function). A function that is not linked: NULL."""

FAULT_HANDLERS = ("fault_entry", "tlc_exception", "trap_entry", "tlc_trap")
"""They begin at the stack's top again, and nobody calls them."""

INTERRUPT_HANDLER = "tlc_hw_interrupt"
"""The one of all interrupts, on a Cortex-M."""

EXCEPTION_BYTES, EXCEPTION_FPU_BYTES = 36, 108
"""What the core saves at an interrupt: 8 words, or 26, and one for alignment (Arm DDI 0403E, B1.5.7)."""

STACK_SETTERS = ("tlc_start", "fault_entry")
"""Assembly of ours that sets the stack pointer to the stack's top, and uses none of it."""

OURS: tuple[Origin, ...] = ("model", "runtime", "port", "application")


@dataclass(frozen=True)
class StackBound:
    """Bytes, and the path that takes them: (function, its frame)."""

    bytes: int | None
    """None: not known, because of ``reason``."""
    path: tuple[tuple[str, int], ...] = ()
    reason: str = ""


def stack_bound(image: Image, board: Board) -> StackBound:
    """The bound on the stack of an image.

    Raises:
        FitError: the stack is not bounded (recursion, a call to who knows where, a frame that grows).
        ToolchainError: objdump is missing or failed.
    """
    decoders: dict[str, _Decoder] = {"EM_ARM": _Arm(), "EM_RISCV": _RiscV(), "EM_XTENSA": _Xtensa()}
    decoder = decoders.get(image.machine)
    if board.toolchain is None or decoder is None or not board.toolchain.prefix:
        return StackBound(None, reason=f"it is not computed for {board.platformio.platform} builds of {board.cpu.isa}")
    graph = _Graph(image, _functions(image, board.toolchain.prefix, decoder))
    missing = [f for f in graph.functions.values() if f.origin in OURS and not graph.is_told_of(f)]
    if missing:
        return StackBound(
            None,
            reason=f"{missing[0].name} was built without -fcallgraph-info=su; build again: pio run -d {image.project}",
        )
    graph.check_pointers()
    roots = [graph.at(image.entry & ~1 if image.machine == "EM_ARM" else image.entry)]
    roots += [function for function in graph.functions.values() if function.name in FAULT_HANDLERS]
    total, path = max((graph.deepest(root) for root in roots), key=lambda found: found[0])
    steps = tuple((function.name, graph.frame(function)) for function in path)
    for handler in (function for function in graph.functions.values() if function.name == INTERRUPT_HANDLER):
        saved = EXCEPTION_FPU_BYTES if "fpu" in board.cpu.features else EXCEPTION_BYTES
        more, path = graph.deepest(handler)
        total += saved + more
        steps += (("(interrupt)", saved), *((function.name, graph.frame(function)) for function in path))
    return StackBound(total, steps)


# ---- what the instructions say ----


@dataclass
class _Step:
    """One instruction. ``moves``: bytes added to the stack's depth; None: it sets the stack pointer to who knows what."""

    moves: int | None = 0
    call: int | None = None
    jump: int | None = None
    through_register: bool = False
    """A call, or a jump that is no return."""
    ends: bool = False
    """What follows is not run next."""
    size: int = 0
    """In bytes, where the listing does not show it."""


@dataclass
class _Function:
    name: str
    address: int
    end: int
    origin: Origin
    object: str
    steps: dict[int, _Step] = field(default_factory=dict)
    calls: set[int] = field(default_factory=set)
    register_calls: int = 0
    register_jumps: int = 0
    """Jumps through a register that may be calls."""
    falls_through: bool = False
    depth: int | None = None
    """The most that its instructions move the stack pointer; None: not to be told from them."""


class _Arm:
    """ARMv6-M to ARMv8-M: Thumb."""

    comment = re.compile(r"\s+[@;]")
    CONDITION = "(?:eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)"

    def step(self, name: str, operands: str, target: int | None) -> _Step:
        """What an instruction does to the stack pointer and to the flow."""
        name = name.split(".")[0]
        jump = re.fullmatch(rf"(b|bl|blx|bx|cbn?z)({self.CONDITION}?)", name)
        if jump:
            kind, condition = jump.groups()
            if kind in ("bl", "blx"):
                return _Step(call=target, through_register=target is None)
            if kind == "bx":
                return _Step(through_register=operands != "lr", ends=not condition)
            return _Step(jump=target, ends=kind == "b" and not condition)
        step = _Step(self._moves(name, operands))
        loads_pc = re.search(r"\{[^}]*\bpc\}$", operands) or operands.startswith("pc,")
        if loads_pc and re.match(r"pop|ldm|ldr|mov|add", name):
            returns = "sp" in operands or name.startswith("pop") or operands == "pc, lr"
            conditional = re.search(rf"{self.CONDITION}$", name) is not None
            step.ends, step.through_register = not conditional, not returns
        elif name in ("tbb", "tbh"):
            step.ends, step.through_register = True, True
        elif name == "udf":
            step.ends = True
        return step

    def _moves(self, name: str, operands: str) -> int | None:
        stack_list = re.fullmatch(r"(?:sp!, )?\{(.*)\}", operands)
        if (
            stack_list
            and re.match(r"v?push|v?stmdb|v?pop|v?ldm(ia)?|v?fldmia", name)
            and (operands.startswith("sp!") or re.match(r"v?(push|pop)", name))
        ):
            size = sum(self._register_bytes(register) for register in stack_list[1].split(", "))
            return size if re.match(r"v?push|v?stmdb", name) else -size
        added = re.fullmatch(r"sp, (?:sp, )?#(-?\d+)", operands)
        if added and re.match(r"(add|sub)w?s?$", name):
            return int(added[1]) if name.startswith("sub") else -int(added[1])
        back = re.search(r"\[sp, #(-?\d+)\]!$|\[sp\], #(-?\d+)$", operands)
        if back:
            return -int(back[1] or back[2])
        writes = operands.startswith("sp,") and not re.match(r"cmp|cmn|tst|str", name)
        return None if writes or "sp!" in operands or (name == "msr" and "SP" in operands.upper()) else 0

    @staticmethod
    def _register_bytes(registers: str) -> int:
        first, _, last = registers.partition("-")
        size = 8 if first.startswith("d") else 4
        return size * (int(last[1:]) - int(first[1:]) + 1 if last else 1)


class _RiscV:
    """RV32 and RV64."""

    comment = re.compile(r"\s+#")

    def step(self, name: str, operands: str, target: int | None) -> _Step:
        """What an instruction does to the stack pointer and to the flow."""
        name = name.removeprefix("c.")
        if name in ("jal", "jalr"):
            if re.match(r"(t0|x5),", operands):  # a routine that saves registers on its caller's stack
                return _Step(None, call=target)
            return _Step(call=target, through_register=target is None)
        if name in ("j", "tail"):
            return _Step(jump=target, ends=True)
        if name == "jr":
            return _Step(jump=target, through_register=target is None and operands != "ra", ends=True)
        if name in ("ret", "mret", "unimp", "ebreak"):
            return _Step(ends=True)
        if name.startswith("b") and target is not None:
            return _Step(jump=target)
        added = re.match(r"sp,(?:sp,)?(-?\d+)(?:\s|$)", operands)
        if added and name in ("add", "addi", "addi16sp"):
            return _Step(-int(added[1]))
        stores = re.match(r"f?s[bhwd]$", name) is not None
        return _Step(None if re.match(r"sp,", operands) and not stores and not name.startswith("csr") else 0)


class _Xtensa:
    """Xtensa with the CALL0 calling convention."""

    comment = re.compile(r"\s+\(")

    def step(self, name: str, operands: str, target: int | None) -> _Step:
        """What an instruction does to the stack pointer and to the flow."""
        step = self._step(name.removesuffix(".n"), operands, target)
        step.size = 2 if name.endswith(".n") else 3
        return step

    @staticmethod
    def _step(name: str, operands: str, target: int | None) -> _Step:
        if name in ("call0", "callx0"):
            return _Step(call=target, through_register=target is None)
        if name in ("j", "jx"):
            return _Step(jump=target, through_register=target is None, ends=True)
        if name in ("ret", "rfe", "rfde", "rfi", "rfue", "ill", "break"):
            return _Step(ends=True)
        if name.startswith("b") and target is not None:
            return _Step(jump=target)
        added = re.fullmatch(r"a1, a1, (-?\d+|-?0x[0-9a-f]+)", operands)
        if added and name in ("addi", "addmi"):
            return _Step(-int(added[1], 0))
        stores = re.match(r"s\d|b|ws|wdtlb|witlb|ss", name) is not None
        return _Step(None if operands.startswith("a1,") and not stores else 0)


_Decoder = _Arm | _RiscV | _Xtensa

_INSTRUCTION = re.compile(r"^\s*([0-9a-f]+):\t(\S+)(?:\s+(.*))?$")
_TARGET = re.compile(r"(?:^|[\s,])([0-9a-f]+) <")


def _functions(image: Image, prefix: str, decoder: _Decoder) -> dict[int, _Function]:
    """The functions of an image by address, with their instructions."""
    found: dict[int, _Function] = {}
    for symbol in image.symbols:
        piece = image.piece_at(symbol.address) if symbol.kind == "function" else None
        if piece and symbol.address not in found:
            end = symbol.address + symbol.size if symbol.size else piece.address + piece.size
            found[symbol.address] = _Function(symbol.name, symbol.address, end, piece.origin, piece.object)
    current: _Function | None = None
    for address, name, operands in _disassembly(image.path, prefix):
        current = found.get(address, current)
        if current is not None and address < current.end:  # else: constants, disassembled as if they were code
            current.steps[address] = _decode(name, operands, decoder)
    if isinstance(decoder, _Xtensa):
        for function in found.values():
            _keep_reached(function, image, prefix, decoder)
    for function in found.values():
        _follow(function)
    return found


def _decode(name: str, operands: str, decoder: _Decoder) -> _Step:
    plain = decoder.comment.split(operands, maxsplit=1)[0].strip()
    # RISC-V's far calls have their target in the comment; ARM's comments tell of constants.
    match = _TARGET.search(operands if isinstance(decoder, _RiscV) else plain)
    return decoder.step(name, plain, int(match[1], 16) if match else None)


def _keep_reached(function: _Function, image: Image, prefix: str, decoder: _Decoder) -> None:
    """Keeps the instructions that a function can reach: objdump takes padding amid Xtensa code for instructions.

    Some may lie before the function: memset has code there that has no name. All are kept where there is a jump table.
    """
    piece = image.piece_at(function.address)
    start = piece.address if piece and function.origin not in OURS else function.address
    listed, reached = dict(function.steps), dict[int, _Step]()
    work = [function.address]
    while work:
        at = work.pop()
        if at in reached or not start <= at < function.end:
            continue
        if at not in listed:
            for address, name, operands in _disassembly(image.path, prefix, at, function.end):
                listed[address] = _decode(name, operands, decoder)
        if at not in listed:
            continue
        step = reached[at] = listed[at]
        work += [] if step.jump is None else [step.jump]
        work += [] if step.ends else [at + step.size]
    jumps_far = any(step.through_register and step.ends for step in reached.values())
    function.steps = {**function.steps, **reached} if jumps_far else reached


def _disassembly(elf: Path, prefix: str, start: int = 0, stop: int = 0) -> Iterator[tuple[int, str, str]]:
    command = [str(find_tool(f"{prefix}objdump")), "-d", "--no-show-raw-insn", str(elf)]
    if stop:
        command += [f"--start-address={start:#x}", f"--stop-address={stop:#x}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        raise ToolchainError(f"{prefix}objdump failed: {done.stderr.strip()[:200]}", where=str(elf))
    for line in done.stdout.splitlines():
        match = _INSTRUCTION.match(line)
        if match and not match[2].startswith("."):
            yield int(match[1], 16), match[2], match[3] or ""


def _follow(function: _Function) -> None:
    """Finds the calls of a function, and follows the stack pointer along every path through it."""
    steps, order = function.steps, sorted(function.steps)
    following = dict(pairwise(order))
    for address, step in steps.items():
        if step.call in steps and step.call != function.address:
            step.jump, step.call = step.call, None  # ARMv6-M's far jump is a bl
        function.calls.update(to for to in (step.call, step.jump) if to is not None and to not in steps)
        if step.call == function.address:
            function.calls.add(function.address)  # recursion
        if step.through_register and not step.ends:
            function.register_calls += 1
        if address == order[-1] and not step.ends:
            function.falls_through = True
    depth: dict[int, int] = {}
    visits: dict[int, int] = {}
    work = [(function.address, 0)] if order else []
    most = 0
    while True:
        if not work:  # what only a jump table reaches begins with the depth at that jump, or less
            unseen = next((address for address in order if address not in depth), None)
            if unseen is None:
                break
            work.append((unseen, most))
        address, reached = work.pop()
        if depth.get(address, -1) >= reached:
            continue
        depth[address] = reached
        visits[address] = visits.get(address, 0) + 1
        step = steps[address]
        if step.moves is None or visits[address] > 64:
            return
        reached = max(reached + step.moves, 0)
        most = max(most, reached)
        if step.jump in steps:
            work.append((step.jump, reached))
        if not step.ends and address in following:
            work.append((following[address], reached))
    function.depth = most
    # A jump table's jump, if the frame is still there; with none it could as well be a tail call.
    function.register_jumps = sum(
        step.through_register and step.ends and depth[address] == 0 for address, step in steps.items()
    )


# ---- what the compiler says ----


@dataclass(frozen=True)
class _Information:
    """A node of a ``.ci`` file."""

    frame: int
    kind: str
    """``static``; or ``dynamic``, perhaps ``dynamic,bounded``."""
    indirect: tuple[str, ...]
    """``file:line:column`` of its calls through pointers."""


_NODE = re.compile(r'node: \{ title: "([^"]+)" label: "[^"]*\\n(\d+) bytes \(([a-z,]+)\)[^"]*"')
_EDGE = re.compile(r'edge: \{ sourcename: "([^"]+)" targetname: "__indirect_call" label: "([^"]+)"')


def _read_information(path: Path) -> dict[str, _Information]:
    text = path.read_text(errors="replace")
    edges: dict[str, list[str]] = {}
    for source, label in _EDGE.findall(text):
        edges.setdefault(source, []).append(label)
    return {
        title.rpartition(":")[2]: _Information(int(frame), kind, tuple(edges.get(title, ())))
        for title, frame, kind in _NODE.findall(text)
    }


class _Graph:
    """Who calls whom."""

    def __init__(self, image: Image, functions: dict[int, _Function]) -> None:
        self.image = image
        self.functions = functions
        self._files: dict[str, dict[str, _Information]] = {}
        self._deepest: dict[int, tuple[int, tuple[_Function, ...]]] = {}

    def at(self, address: int) -> _Function:
        """The function that begins there, or in whose middle it lies."""
        if address not in self.functions:
            for function in self.functions.values():
                if address in function.steps:
                    return function
            raise self._unbounded(f"there is code without a name at {address:#x}")
        return self.functions[address]

    def information(self, function: _Function) -> _Information | None:
        """What the compiler wrote of a function; None for one of a library."""
        if function.object not in self._files:
            path = self._beside(function.object, ".ci")
            self._files[function.object] = _read_information(path) if path else {}
        return self._files[function.object].get(function.name)

    def is_told_of(self, function: _Function) -> bool:
        """Whether the compiler wrote of a function, or of others in its file and this one is in assembly."""
        return self.information(function) is not None or bool(self._files[function.object])

    def frame(self, function: _Function) -> int:
        """Bytes of a function's own frame."""
        known = self.information(function)
        if known is None and function.origin == "port" and function.name in STACK_SETTERS:
            return 0
        if known is not None and known.kind != "static":
            raise self._unbounded(f"{function.name} has a frame of variable size")
        if known is None and function.depth is None:
            raise self._unbounded(f"{function.name} of {_short(function.object)} sets the stack pointer itself")
        return max(known.frame if known else 0, function.depth or 0)

    def callees(self, function: _Function) -> list[_Function]:
        """All that a function may call."""
        found = [self.at(address) for address in sorted(function.calls)]
        known = self.information(function)
        if known is None:
            if function.register_calls or function.register_jumps:
                raise self._unbounded(f"{function.name} of {_short(function.object)} calls through a pointer")
            if function.falls_through:
                found += self._next(function)
        else:
            if function.register_calls and not known.indirect:
                raise self._unbounded(f"{function.name} calls through a pointer that the compiler does not tell of")
            for place in known.indirect:
                found += self._targets(function, place)
        return found

    def deepest(self, root: _Function) -> tuple[int, tuple[_Function, ...]]:
        """The most bytes from a function on, and the path that takes them."""
        return self._walk(root, [])

    def _walk(self, function: _Function, above: list[_Function]) -> tuple[int, tuple[_Function, ...]]:
        if function in above:
            cycle = [*above[above.index(function) :], function]
            raise self._unbounded(f"recursion: {' -> '.join(f.name for f in cycle)}")
        if function.address not in self._deepest:
            above.append(function)
            below = [self._walk(callee, above) for callee in self.callees(function)]
            above.pop()
            rest, path = max(below, key=lambda found: found[0], default=(0, ()))
            self._deepest[function.address] = (self.frame(function) + rest, (function, *path))
        return self._deepest[function.address]

    def check_pointers(self) -> None:
        """Every address that our objects take of a function is one that :data:`POINTERS` lists."""
        listed = {target for targets in POINTERS.values() for target in targets}
        for function in self.functions.values():
            if function.name in self._addresses_taken and function.origin in OURS:
                held = (function.origin, function.name) in listed or function.name in (
                    *FAULT_HANDLERS,
                    INTERRUPT_HANDLER,
                )
                if not held and function.address != self.image.entry & ~1:
                    raise self._unbounded(
                        f"the address of {function.name} is taken in {self._addresses_taken[function.name]}, "
                        "and no function pointer is known that holds it"
                    )

    @cached_property
    def _addresses_taken(self) -> dict[str, str]:
        """Functions whose address is used other than to call them → the object that does."""
        found: dict[str, str] = {}
        for name in sorted({piece.object for piece in self.image.pieces if piece.origin in OURS}):
            path = self._beside(name, ".o")
            if path is not None:
                for function in _addresses_taken(path):
                    found.setdefault(function, path.name)
        return found

    def _targets(self, function: _Function, place: str) -> list[_Function]:
        member = self._member(place)
        if member not in POINTERS:
            raise self._unbounded(f"{function.name} calls through '{member or 'a pointer'}' at {place}")
        return [f for f in self.functions.values() if (f.origin, f.name) in POINTERS[member]]

    def _next(self, function: _Function) -> list[_Function]:
        """The function that assembly code runs on into: the next of its section."""
        piece = self.image.piece_at(function.address)
        after = [start for start in self.functions if piece and function.end <= start < piece.address + piece.size]
        return [self.functions[min(after)]] if after else []

    def _member(self, place: str) -> str:
        """The struct member in the call at ``file:line:column``: ``read`` in ``port->read(port->self, ...)``."""
        name, line, column = place.rsplit(":", 2)
        try:
            text = (self.image.project / name).read_text(errors="replace").splitlines()[int(line) - 1]
        except (OSError, IndexError):
            return ""
        match = re.match(r"[\w\[\]]+(?:(?:->|\.)[\w\[\]]+)*?(?:->|\.)(\w+)\(", text[int(column) - 1 :])
        return match[1] if match else ""

    def _beside(self, name: str, suffix: str) -> Path | None:
        """The file that lies beside an object, which may be named as a member of an archive."""
        archive = re.fullmatch(r"(.*)\(([^)]+)\)", name)
        if archive is None:
            path = (self.image.project / name).with_suffix(suffix)
            return path if path.is_file() else None
        found = sorted((self.image.project / archive[1]).parent.rglob(Path(archive[2]).with_suffix(suffix).name))
        return found[0] if len(found) == 1 else None

    def _unbounded(self, why: str) -> FitError:
        return FitError(
            f"the stack has no bound: {why}",
            where=str(self.image.path),
            remedy="avoid it in the application's code, or list the pointer in tlc/stack.py",
        )


_ADDRESS_RELOCATIONS = {
    "EM_ARM": {2, 3, 26, 38, 43, 44, 47, 48},  # ABS32, REL32, GOT, TARGET1, MOVW/MOVT of both instruction sets
    "EM_RISCV": {1, 2, 20, 23, 26},  # 32, 64, GOT_HI20, PCREL_HI20, HI20
    "EM_XTENSA": {1, 14},  # 32, 32_PCREL
}


def _addresses_taken(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        elf = ELFFile(file)
        kinds = _ADDRESS_RELOCATIONS.get(elf["e_machine"], set())
        for section in elf.iter_sections():
            if not isinstance(section, RelocationSection):
                continue
            changed = elf.get_section(section["sh_info"])
            if not changed["sh_flags"] & 2:  # not of the image: debugging
                continue
            symbols = elf.get_section(section["sh_link"])
            assert isinstance(symbols, SymbolTableSection)
            for relocation in section.iter_relocations():
                symbol = symbols.get_symbol(relocation["r_info_sym"])
                if relocation["r_info_type"] not in kinds or symbol["st_info"]["type"] == "STT_OBJECT":
                    continue
                if (
                    symbol["st_info"]["type"] == "STT_SECTION"
                ):  # Xtensa's: a static function, or a jump table's place in one
                    target = elf.get_section(symbol["st_shndx"]).name
                    at = relocation["r_offset"]
                    if target.startswith(".text.") and not any(changed.data()[at : at + 4]):
                        yield target.removeprefix(".text.")
                elif symbol.name:
                    yield symbol.name


def _short(name: str) -> str:
    return Path(name).name or "no object"
