# SPDX-License-Identifier: Apache-2.0
"""The stack's bound on small programs whose stack is known, and the reading of maps and instructions behind it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tlc import boards, image, stack
from tlc.boards import Board
from tlc.errors import FitError, ToolchainError
from tlc.size import Row, SizeReport, require
from tlc.stack import StackBound, stack_bound
from tlc.toolchain import find_tool

BOARDS = ["qemu-m0", "qemu-m4", "qemu-rv32"]

HEAD = """
#define OWN __attribute__((noipa))
void tlc_reset(void);
typedef struct { void (*poll)(void); void (*mystery)(void); } app_t;
volatile unsigned long long wide = 1;
volatile int number = 7;
"""


def build(directory: Path, board: Board, code: str, *, information: bool = True) -> image.Image:
    """Links a program of one file as ``pio run`` would, from ``src/main.c``."""
    objects = directory / ".pio" / "build" / board.id / "src"
    objects.mkdir(parents=True)
    (directory / "src").mkdir()
    (directory / "src" / "main.c").write_text(HEAD + code)
    assert board.toolchain is not None
    gcc = str(find_tool(f"{board.toolchain.prefix}gcc"))
    flags = [flag for flag in board.toolchain.flags if not flag.startswith("--specs")]
    told = ["-fcallgraph-info=su"] if information else []
    elf = objects.parent / "firmware.elf"
    target = (objects / "main.o").relative_to(directory)
    for command in (
        [*flags, *told, "-O2", "-ffreestanding", "-ffunction-sections", "-c", "src/main.c", "-o", str(target)],
        [*flags, "-nostdlib", "-nostartfiles", "-Wl,-etlc_reset", f"-Wl,-Map,{elf.with_suffix('.map')}", str(target),
         "-lgcc", "-o", str(elf)],
    ):  # fmt: skip
        subprocess.run([gcc, *command], cwd=directory, check=True, capture_output=True)
    return image.read_image(elf, directory)


def bound(directory: Path, name: str, code: str) -> StackBound:
    return stack_bound(build(directory, boards.load(name), code), boards.load(name))


@pytest.mark.parametrize("name", BOARDS)
class TestBound:
    def test_the_deepest_path_counts(self, name: str, tmp_path: Path) -> None:
        found = bound(
            tmp_path,
            name,
            """
            OWN void leaf(void) { volatile char a[400]; a[9] = 1; }
            OWN void wide_one(void) { volatile char a[300]; a[9] = 1; }
            OWN void middle(void) { volatile char a[200]; a[3] = 2; leaf(); a[4] = 3; }
            void tlc_reset(void) { middle(); wide_one(); number = 8; }
            """,
        )
        assert [function for function, _ in found.path] == ["tlc_reset", "middle", "leaf"]
        assert found.bytes is not None and 600 <= found.bytes <= 600 + 3 * 24
        assert found.bytes == sum(frame for _, frame in found.path)

    def test_library_routines_count(self, name: str, tmp_path: Path) -> None:
        found = bound(tmp_path, name, "void tlc_reset(void) { wide = wide / (unsigned)number; wide += 2; }")
        assert found.bytes is not None and found.bytes >= 16
        assert len(found.path) >= 2

    def test_pointers_are_followed(self, name: str, tmp_path: Path) -> None:
        found = bound(
            tmp_path,
            name,
            """
            static void poll(void) { volatile char a[500]; a[9] = 1; }
            const app_t *volatile use;
            void tlc_reset(void) { static const app_t app = {.poll = poll}; use = &app; use->poll(); number = 1; }
            """,
        )
        assert [function for function, _ in found.path] == ["tlc_reset", "poll"]
        assert found.bytes is not None and 500 <= found.bytes <= 500 + 2 * 24

    @pytest.mark.parametrize(
        ("code", "why"),
        [
            (
                """
                OWN int odd(int n);
                OWN int even(int n) { volatile char a[9]; a[1] = 0; return n ? odd(n - 1) + a[1] : 1; }
                OWN int odd(int n) { volatile char a[9]; a[1] = 0; return n ? even(n - 1) + a[1] : 0; }
                void tlc_reset(void) { number = even(number); }
                """,
                "recursion: even -> odd -> even",
            ),
            (
                "OWN int fall(int n) { return n ? number + fall(n - 1) * number : 1; }"
                "void tlc_reset(void) { number = fall(number); }",
                "recursion: fall -> fall",
            ),
            (
                "OWN int use(volatile char *a) { return a[0]; }"
                "OWN int grow(int n) { volatile char a[n]; a[0] = 1; return use(a); }"
                "void tlc_reset(void) { number = grow(number); }",
                "grow has a frame of variable size",
            ),
            (
                "app_t *volatile app; void tlc_reset(void) { app->mystery(); number = 1; }",
                r"tlc_reset calls through 'mystery' at src/main.c:\d+:\d+",
            ),
            (
                """
                OWN void rogue(void) { number = 2; }
                app_t app = {.poll = rogue};
                void tlc_reset(void) { app_t *volatile one = &app; one->poll(); number = 1; }
                """,
                "the address of rogue is taken in main.o, and no function pointer is known that holds it",
            ),
        ],
        ids=["mutual recursion", "recursion", "variable frame", "unknown pointer", "unlisted function"],
    )
    def test_no_bound(self, name: str, code: str, why: str, tmp_path: Path) -> None:
        with pytest.raises(FitError, match=f"the stack has no bound: {why}"):
            bound(tmp_path, name, code)

    def test_built_without_the_compilers_word(self, name: str, tmp_path: Path) -> None:
        board = boards.load(name)
        linked = build(tmp_path, board, "void tlc_reset(void) { number = 1; }", information=False)
        found = stack_bound(linked, board)
        assert found.bytes is None
        assert "tlc_reset was built without -fcallgraph-info" in found.reason


def test_other_platforms_have_no_known_bound(tmp_path: Path) -> None:
    linked = build(tmp_path, boards.load("qemu-m4"), "void tlc_reset(void) { number = 1; }")
    found = stack_bound(linked, boards.load("nucleo-f446re"))
    assert found.bytes is None and "ststm32" in found.reason


@pytest.mark.parametrize(
    ("instruction", "moves"),
    [
        ("push {r4, r5, lr}", 12),
        ("stmdb sp!, {r4, r5, r6, r7, r8, lr}", 24),
        ("vpush {d8-d15}", 64),
        ("vpush {s16}", 4),
        ("sub sp, #24", 24),
        ("sub.w sp, sp, #512", 512),
        ("add sp, #16", -16),
        ("strd r4, r5, [sp, #-8]!", 8),
        ("ldr.w lr, [sp], #4", -4),
        ("str r3, [sp, #4]", 0),
        ("pop {r4, pc}", -8),
        ("ldmia.w sp!, {r4, r5, pc}", -12),
        ("add sp, r3", None),
        ("mov sp, r7", None),
        ("mov r1, sp", 0),
        ("stmia r3!, {r0, r1}", 0),
    ],
)
def test_arm_moves(instruction: str, moves: int | None) -> None:
    name, _, operands = instruction.partition(" ")
    assert stack._Arm().step(name, operands, None).moves == moves


@pytest.mark.parametrize(
    ("instruction", "target", "call", "jump", "through_register", "ends"),
    [
        ("bl 100 <f>", 0x100, 0x100, None, False, False),
        ("blx r3", None, None, None, True, False),
        ("bx lr", None, None, None, False, True),
        ("bxeq lr", None, None, None, False, False),
        ("bx r3", None, None, None, True, True),
        ("b.n 100 <f>", 0x100, None, 0x100, False, True),
        ("bls.n 100 <f>", 0x100, None, 0x100, False, False),
        ("cbz r3, 100 <f>", 0x100, None, 0x100, False, False),
        ("bics r3, r2", None, None, None, False, False),
        ("pop {r4, pc}", None, None, None, False, True),
        ("tbb [pc, r0]", None, None, None, True, True),
        ("mov pc, r3", None, None, None, True, True),
    ],
)
def test_arm_flow(
    instruction: str, target: int | None, call: int | None, jump: int | None, through_register: bool, ends: bool
) -> None:
    name, _, operands = instruction.partition(" ")
    step = stack._Arm().step(name, operands, target)
    assert (step.call, step.jump, step.through_register, step.ends) == (call, jump, through_register, ends)


@pytest.mark.parametrize(
    ("instruction", "target", "expected"),
    [
        ("add sp,sp,-32", None, stack._Step(32)),
        ("addi sp,sp,16", None, stack._Step(-16)),
        ("c.addi16sp sp,-64", None, stack._Step(64)),
        ("add sp,sp,t0", None, stack._Step(None)),
        ("lui sp,0x80000", None, stack._Step(None)),
        ("sw ra,12(sp)", None, stack._Step()),
        ("jal 80001234 <f>", 16, stack._Step(call=16)),
        ("jal t0,80001234 <f>", 16, stack._Step(None, call=16)),
        ("jalr a5", None, stack._Step(through_register=True)),
        ("jr a5", None, stack._Step(through_register=True, ends=True)),
        ("jr ra", None, stack._Step(ends=True)),
        ("ret", None, stack._Step(ends=True)),
        ("bnez a0,80001234 <f>", 16, stack._Step(jump=16)),
        ("j 80001234 <f>", 16, stack._Step(jump=16, ends=True)),
    ],
)
def test_riscv(instruction: str, target: int | None, expected: stack._Step) -> None:
    name, _, operands = instruction.partition(" ")
    assert stack._RiscV().step(name, operands, target) == expected


def follow(*steps: stack._Step) -> stack._Function:
    function = stack._Function("f", 0, len(steps), "sdk", "", dict(enumerate(steps)))
    stack._follow(function)
    return function


def test_depth_along_all_paths() -> None:
    step = stack._Step
    assert follow(step(16), step(jump=4), step(8), step(-8), step(-16), step(ends=True)).depth == 24
    # A loop that pushes in every round has no bound.
    assert follow(step(), step(8), step(jump=1), step(ends=True)).depth is None
    assert follow(step(None), step(ends=True)).depth is None
    # What only a jump table reaches is looked at too.
    table = follow(step(16), step(through_register=True, ends=True), step(40), step(-56), step(ends=True))
    assert table.depth == 56 and table.register_jumps == 0
    assert follow(step(), step(through_register=True, ends=True)).register_jumps == 1


MAP = """Discarded input sections
 .text.gone     0x00000000       0x10 src/main.o

Linker script and memory map

LOAD src/main.o

.text           0x00000000       0x40
 *(.vectors)
 .text.short    0x00000000        0x8 .pio/build/b/libc11/tlc/src/link/link.o
                0x00000000                short
 .text.a_function_with_a_long_name
                0x00000008       0x10 .pio/build/b/src/main.o
 *fill*         0x00000018        0x8
 .rodata.w      0x00000020       0x20 .pio/build/b/lib409/libtlc_model.a(tlc_weights.o)

.a_long_section_name
                0x20000000        0xc
 .bss.x         0x20000000        0xc /usr/lib/libc.a(memory of all.o)
"""


def test_map() -> None:
    outputs, pieces = image._parse_map(MAP)
    assert outputs == {".text": (0, 0x40), ".a_long_section_name": (0x20000000, 12)}
    assert [(piece.address, piece.size, piece.origin) for piece in pieces] == [
        (0, 8, "runtime"),
        (8, 16, "application"),
        (32, 32, "weights"),
        (0x20000000, 12, "sdk"),
    ]


@pytest.mark.parametrize(
    ("name", "origin"),
    [
        (".pio/build/esp32/lib409/libtlc_model.a(tlc_weights.c.o)", "weights"),
        (".pio/build/esp32/lib409/tlc_model/tlc_model.o", "model"),
        (".pio/build/esp32/libc11/tlc/src/kernels/dense.o", "runtime"),
        (".pio/build/esp32/libc11/tlc/ports/arduino/tlc_arduino_app.cpp.o", "port"),
        (".pio/build/esp32/lib/tlc/ports/arduino/tlc_arduino_wifi.cpp.o", "port"),
        (".pio/build/esp32/src/app.o", "application"),
        (".pio/build/esp32/libFrameworkArduino.a(main.cpp.o)", "sdk"),
        ("", "sdk"),
    ],
)
def test_origin(name: str, origin: str) -> None:
    assert image.Piece(".text", 0, 4, name).origin == origin


def test_not_an_elf(tmp_path: Path) -> None:
    elf = tmp_path / "firmware.elf"
    elf.write_bytes(b"\x7fELF but no more")
    with pytest.raises(ToolchainError, match=r"not a readable ELF file .*build it again: pio run -d"):
        image.read_image(elf, tmp_path)


def test_require_names_what_exceeds() -> None:
    rows = (Row("flash", "code", 100, 100), Row("RAM", "arena", 1000, 1001, "build it again"))
    report = SizeReport("b", Path("x.elf"), rows, {}, StackBound(1))
    with pytest.raises(FitError) as caught:
        require(report)
    assert str(caught.value) == (
        "x.elf: RAM, arena: the image has 1,001 bytes, but the bundle promises 1,000; build it again"
    )
    assert not report.fits and report.to_json()["rows"][0]["fits"]
