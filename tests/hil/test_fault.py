# SPDX-License-Identifier: Apache-2.0
"""A crash in the user's hook is told over the link, and ``tlc symbolize`` names the line."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from hil_support import Built, build, running

from command_line import refused, succeeds
from tlc import toolchain
from tlc.builder import Builder
from tlc.errors import DataError, DeviceFault, DeviceReset
from tlc.fault import find_fault, parse_dump
from tlc.graph import Graph
from tlc.hostbuild import build_native
from tlc.size import measure, require

pytestmark = pytest.mark.hil

APP = """#include <assert.h>
#include "app.h"
#include "tlc/board.h"

extern const uint32_t tlc_boot_words[2]; /* the launcher's seed says how to crash */

static volatile uint32_t sink;

__attribute__((noinline)) static uint32_t deep(volatile uint32_t *above, uint32_t level) {
    volatile uint32_t frame[64];
    for (uint32_t i = 64; i > 0; i--) {
        frame[i - 1u] = level;
    }
    return level == 0 ? *above : deep(frame, level - 1u) + frame[level & 63u]; /* STACK */
}

__attribute__((noinline)) static void crash(uint32_t how) {
    if (how == 1) {
        sink = *(volatile uint32_t *)0xE8000000u; /* BUS */
    } else if (how == 2) {
        __asm__ volatile(ILLEGAL); /* ILLEGAL */
    } else if (how == 3) {
        sink = deep(&sink, 100000u);
    } else if (how == 4) {
        assert(sink == 77u); /* ASSERT */
    } else {
        tlc_board_panic("no sensor"); /* PANIC */
    }
}

bool tlc_app_sample(void *app, tlc_sample_t *sample) {
    (void)app;
    (void)sample;
    crash(tlc_boot_words[0]);
    return false;
}

void tlc_app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    (void)values;
    (void)count;
}
"""
ILLEGAL = {"qemu-m4": "udf #1", "qemu-rv32": "unimp", "qemu-xtensa": "ill"}
HOW = {
    "BUS": "bus error",
    "ILLEGAL": "illegal instruction",
    "STACK": "stack overflow",
    "ASSERT": "assertion failed: sink == 77u",
    "PANIC": "no sensor",
}
LINE = "tlc fault: bus error; cause 00000003 pc 000012ae lr 00001283 sp 20000fd8 detail 00008200 build 8f0c2a4d91b7e655"


def crash_model() -> Graph:
    net = Builder("crash", (1, 8, 8, 1), seed=3)
    net.conv2d(2, 3, stride=2)
    net.mean()
    net.dense(3)
    return net.graph()


@pytest.fixture(scope="module", params=sorted(ILLEGAL))
def crashing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A project whose sample hook crashes as the seed says."""
    built = build(crash_model(), request.param, tmp_path_factory.mktemp("hil") / "crash", cut="conv2d_out")
    require(measure(built.directory))  # the handlers' stack is proven, too
    (built.directory / "src" / "app.c").write_text(APP.replace("(ILLEGAL)", f'("{ILLEGAL[request.param]}")'))
    toolchain.pio_run(built.directory)
    return built


@pytest.mark.parametrize("how", HOW)
def test_a_crash_names_its_line(how: str, crashing: Built) -> None:
    async def scenario() -> DeviceFault:
        with pytest.raises(DeviceFault, match=r"the device crashed .* tlc symbolize") as caught:
            async with running(crashing, seed=1 + list(HOW).index(how)) as (session, _):
                while True:
                    await session.stats()
        return caught.value

    dump = asyncio.run(scenario()).dump
    assert parse_dump(dump).what == HOW[how], dump
    line = 1 + [f"/* {how} */" in text for text in APP.splitlines()].index(True)
    lines = range(line - 4, line + 1) if how == "STACK" else [line]  # anywhere in that function
    said = succeeds("symbolize", crashing.directory, dump).out.splitlines()
    assert said[0] == HOW[how]
    function = "deep" if how == "STACK" else "crash"
    assert f" {function} at " in said[1] and any(said[1].endswith(f"src/app.c:{n}") for n in lines), said
    if how == "BUS":
        other = dump[:-16] + "0123456789abcdef"
        refused(
            crashing.directory, 1, "symbolize", crashing.directory, other, says=("crashed in build 0123456789abcdef",)
        )


NATIVE = """#include <stdlib.h>

#include "app.h"
#include "tlc/board.h"

bool tlc_app_sample(void *app, tlc_sample_t *sample) {
    (void)app;
    (void)sample;
    if (getenv("TLC_TEST_CRASH") != NULL) {
        tlc_board_panic("no sensor");
    }
    return false;
}

void tlc_app_result(void *app, const float *values, uint32_t count) {
    (void)app;
    (void)values;
    (void)count;
}
"""


def test_a_process_panics_and_is_greeted_again(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build(crash_model(), "native", tmp_path_factory.mktemp("hil") / "crash", cut="conv2d_out")
    (built.directory / "src" / "app.c").write_text(NATIVE)
    built = replace(built, elf=build_native(built.directory))

    async def scenario() -> None:
        async with running(built) as (session, reset):
            monkeypatch.setenv("TLC_TEST_CRASH", "1")
            reset()
            with pytest.raises(DeviceReset) as caught:
                while True:
                    await session.stats()
            monkeypatch.delenv("TLC_TEST_CRASH")
            if not isinstance(caught.value, DeviceFault):  # of the restart alone: the crash follows
                with pytest.raises(DeviceFault) as caught:
                    await session.greet()
                    while True:
                        await session.stats()
            assert isinstance(caught.value, DeviceFault)
            assert parse_dump(caught.value.dump).what == "no sensor"
            reset()
            await session.greet()
            assert len((await session.infer(built.inputs(1)[0])).outputs[0]) > 0

    asyncio.run(scenario())


def test_what_is_a_crash_and_what_is_not() -> None:
    assert find_fault(b"\x00\xff\r\n" + LINE.encode() + b"\r\n") == LINE
    assert find_fault(LINE[:-1].encode()) is None
    esp = "Guru Meditation Error: Core 1 panic'ed (LoadProhibited)\nPC : 0x400d1a2c PS : 0x1\nBacktrace: 0x400d1a29:0x3ffb 0x400d1a29:0x3ffb21e0 0x400d2f10:0x3ffb2200"
    dump = parse_dump(esp)
    assert (dump.pc, dump.trace) == (0x400D1A2C, (0x400D1A29, 0x400D2F10)) and "LoadProhibited" in dump.what
    with pytest.raises(DataError, match="no crash"):
        parse_dump("all is well")
