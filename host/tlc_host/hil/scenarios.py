# SPDX-License-Identifier: Apache-2.0
"""The scenarios: what a project's firmware must do on any device, bit for bit as its twin does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np

from tlc.errors import DeviceReset
from tlc_host import messages as m
from tlc_host.hil.lesson import Lesson
from tlc_host.hil.target import NotHere, Target
from tlc_host.line import TEST_HEAD
from tlc_host.session import Session

__all__ = ["SCENARIOS", "Broken", "Scenario"]

SAMPLES = 12
STEPS = 50
CUTS = 12
"""Operations on flash at which the power is cut, at most; a save takes fewer."""
INSIDE = 40
"""Instructions into such an operation."""
HIT_S = 5.0
TRIES = 10

Scenario = Callable[[Target], Awaitable[str]]


class Broken(Exception):
    """The device did something else than it must; the text says what."""


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


async def greet(target: Target) -> str:
    """It greets with its bundle, its board, and as many learned bytes as the bundle says."""
    async with target.session() as session:
        hello = session.hello
        _require(hello.bundle_hash == target.hash, f"it holds bundle {hello.bundle_hash.hex()}")
        _require(hello.board.decode() == target.board.id, f"it says that it is a {hello.board.decode()!r}")
        learned = sum(entry.nbytes for entry in target.bundle.learned)
        _require(hello.param_bytes == learned, f"it learns {hello.param_bytes} bytes, the bundle {learned}")
        return f"bundle {target.bundle.hash[:16]}, {learned:,} bytes learn"


async def inference(target: Target) -> str:
    """The device's outputs are the twin's."""
    async with target.session() as session:
        before = await target.instructions()
        await _infer(target, session, SAMPLES)
        after = await target.instructions()
    if before is None or after is None:
        return f"{SAMPLES} samples"
    return f"{SAMPLES} samples, {after - before:,} instructions of the CPU, the link's among them"


async def _infer(target: Target, session: Session, count: int) -> None:
    twin = target.twin()
    for number, x in enumerate(target.inputs(count, 1)):
        outputs = (await session.infer(x)).outputs
        expected = [out.ravel() for out in twin.forward(*(array[None] for array in x))]
        for index, (ours, theirs) in enumerate(zip(outputs, expected, strict=True)):
            wrong = int(np.count_nonzero(ours != theirs))
            _require(wrong == 0, f"sample {number}: {wrong} of {len(theirs)} values of output {index} differ")


async def training(target: Target) -> str:
    """After 50 steps the learned tensors are the twin's."""
    lesson = Lesson(target, STEPS)
    untrained = lesson.params()
    async with target.session() as session:
        _require(await session.get_params() == untrained, "it does not begin with the values in flash")
        for number in range(1, STEPS + 1):
            await lesson.step(session, number)
            lesson.step_twin(number)
        _same(await session.get_params(), lesson.params(), f"after {STEPS} steps")
    changed = _differing(lesson.params(), untrained)
    _require(changed > 0, "nothing was learned")
    return f"{STEPS} steps, {changed:,} of {len(untrained):,} bytes learned"


def _differing(one: bytes, other: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(one, np.uint8) != np.frombuffer(other, np.uint8)))


def _same(ours: bytes, theirs: bytes, when: str) -> None:
    _require(len(ours) == len(theirs), f"{when}: {len(ours)} bytes, the twin has {len(theirs)}")
    wrong = _differing(ours, theirs)
    _require(wrong == 0, f"{when}: {wrong} of {len(theirs)} learned bytes differ")


async def _restarted(session: Session) -> m.Hello:
    """Waits until the session has seen that the device restarted."""
    try:
        while True:
            await session.stats()
    except DeviceReset:
        return await session.greet()


async def reset(target: Target) -> str:
    """Reset between forward and backward: it is told, the device is as in flash, and goes on where the host says."""
    lesson = Lesson(target, 6)
    untrained = lesson.params()
    async with target.session() as session:
        for number in (1, 2, 3):
            await lesson.step(session, number)
            lesson.step_twin(number)
        saved = await session.get_params()
        boot = session.hello.boot
        await session.forward(lesson.inputs[3], step=4)
        await target.reset()
        try:
            await session.infer(lesson.inputs[3])
            raise Broken("a call went through as if there had been no reset")
        except DeviceReset:
            hello = await session.greet()
        _require(hello.boot != boot and hello.last_step == 0, "it greets as if there had been no reset")
        _same(await session.get_params(), untrained, "after the reset")
        await session.set_params(saved)
        for number in (4, 5, 6):
            await lesson.step(session, number)
            lesson.step_twin(number)
        _same(await session.get_params(), lesson.params(), "after the steps that follow")
    return "between forward and backward"


async def keeping(target: Target) -> str:
    """What was saved outlives a reset, and what is forgotten stays so."""
    lesson = Lesson(target, 4)
    untrained = lesson.params()
    async with target.session() as session:
        if not (await session.journal()).slot_bytes:
            raise NotHere("the port keeps no journal")
        for number in (1, 2):
            await lesson.step(session, number)
            lesson.step_twin(number)
        _require(await session.save(), "it does not save")
        await lesson.step(session, 3)
        await target.reset()
        _require((await _restarted(session)).last_step == 2, "it does not come back at the step that was saved")
        _same(await session.get_params(), lesson.params(), "after the reset")
        journal = await session.journal()
        _require(
            (journal.saved_step, journal.wear_a, journal.wear_b) == (2, 1, 0), "the journal tells another story of it"
        )
        for number in (3, 4):
            await lesson.step(session, number)
            lesson.step_twin(number)
        _same(await session.get_params(), lesson.params(), "after the steps that follow")
        await session.reset_state()
        _same(await session.get_params(), untrained, "after it forgot")
        await target.reset()
        _require((await _restarted(session)).last_step == 0, "it remembers what it was told to forget")
        _same(await session.get_params(), untrained, "after it forgot and was reset")
    return "saved, reset, forgotten, reset"


async def power_cut(target: Target) -> str:
    """The power goes at each operation on flash of a save, before it and inside it: the device has the old state or the
    new one, whole."""
    lesson = Lesson(target, 2 * CUTS + 2)
    async with target.session() as session:
        if not (await session.journal()).slot_bytes:
            raise NotHere("the port keeps no journal")
        await lesson.step(session, 1)
        _require(await session.save(), "it does not save")
        kept, kept_step, survived, operation, cuts = await session.get_params(), 1, 0, 1, 0
        for number in range(2, 2 * CUTS + 2):
            await lesson.step(session, number)
            fresh = await session.get_params()
            if not await _cut(target, session, operation, INSIDE if number % 2 else 0):
                # The save has no such operation: it is done, and after all those cuts it still can.
                _require((await session.journal()).saved_step == number, "it does not save any more")
                break
            cuts += 1
            hello = await _restarted(session)
            found = await session.get_params()
            if hello.last_step == number and found == fresh:
                kept, kept_step, survived = fresh, number, survived + 1
            _require(
                hello.last_step == kept_step and found == kept,
                f"cut at operation {operation}: step {hello.last_step} came back, neither {kept_step} nor {number} whole",
            )
            operation += number % 2  # each twice
        _require(cuts > 2, f"a save has {cuts} places where the power could go, which cannot be")
    return f"{cuts} cuts, {survived} of them after the save was whole"


async def _cut(target: Target, session: Session, operation: int, instructions: int) -> bool:
    """Saves and cuts the power at an operation on flash; False: the save was done without."""
    debugger, functions = await asyncio.to_thread(target.debugger)
    saving = asyncio.create_task(session.save())
    cut = await asyncio.to_thread(debugger.run_to, functions, operation, HIT_S if operation < 2 else 1.0)
    if not cut:
        await asyncio.to_thread(debugger.resume)
        await saving
        return False
    await asyncio.to_thread(debugger.step, instructions)
    await asyncio.to_thread(debugger.reset)
    await asyncio.gather(saving, return_exceptions=True)
    return True


async def noise(target: Target) -> str:
    """Bits flip and bytes vanish on the line: answers and training are the same."""
    async with target.session(noise=3) as session:
        await _infer(target, session, SAMPLES)
        if target.bundle.learned:
            lesson = Lesson(target, 10)
            for number in range(1, 11):
                await lesson.step(session, number)
                lesson.step_twin(number)
            _same(await session.get_params(), lesson.params(), "after 10 steps")
        stats = await session.stats()
        damaged = stats.bad + session.counters.bad
        for _ in range(TRIES):
            if damaged > 0:
                break
            await session.test(min(2048, session.most_bytes - TEST_HEAD), min(2048, stats.arena_bytes))
            damaged = (await session.stats()).bad + session.counters.bad
        resent = stats.resent + session.counters.resent
        _require(damaged + resent > 0, "no frame was damaged: the noise did not reach the line")
    return f"{damaged} frames damaged, {resent} sent again"


async def several(target: Target) -> str:
    """Boards side by side, in one emulation where the emulator has several: all at once, each computes and learns as its
    twin."""
    twin, samples = target.twin(), target.inputs(target.machines, 1)
    expected = [[out.ravel() for out in twin.forward(*(array[None] for array in x))] for x in samples]
    async with target.sessions() as sessions:
        answers = await asyncio.gather(*(one.infer(x) for one, x in zip(sessions, samples, strict=True)))
        for number, (answer, outputs) in enumerate(zip(answers, expected, strict=True)):
            same = all(map(np.array_equal, answer.outputs, outputs))
            _require(same, f"board {number} computes something else than its twin")
        if target.bundle.learned:
            lessons = [Lesson(target, 3 + number) for number in range(len(sessions))]  # each learns more than the last

            async def learn(session: Session, lesson: Lesson, steps: int) -> None:
                for number in range(1, steps + 1):
                    await lesson.step(session, number)
                    lesson.step_twin(number)

            await asyncio.gather(
                *(learn(one, each, 3 + n) for n, (one, each) in enumerate(zip(sessions, lessons, strict=True)))
            )
            for number, (one, lesson) in enumerate(zip(sessions, lessons, strict=True)):
                _same(await one.get_params(), lesson.params(), f"board {number}, after {3 + number} steps")
        return f"{len(sessions)} boards {'in one emulation' if target.in_one else 'beside each other'}"


async def memory(target: Target) -> str:
    """Arena and state are those of the certificate, and the deepest stack lies within it."""
    promise = target.bundle.certificate
    async with target.session() as session:
        await _infer(target, session, 2)
        if target.bundle.learned:
            lesson = Lesson(target, 2)
            await lesson.step(session, 1)
            await session.set_params(await session.get_params())
        await session.layers()
        stats = await session.stats()
    _require(stats.arena_bytes == promise.arena_bytes, f"arena {stats.arena_bytes}, promised {promise.arena_bytes}")
    _require(stats.state_bytes == promise.state_bytes, f"state {stats.state_bytes}, promised {promise.state_bytes}")
    _require(stats.stack_bytes <= promise.stack_bytes, f"stack {stats.stack_bytes}, promised {promise.stack_bytes}")
    told = f"{stats.stack_bytes:,} of {promise.stack_bytes:,} bytes" if stats.stack_bytes else "not told by this port"
    return f"arena {stats.arena_bytes:,} bytes, stack {told}"


async def counts(target: Target) -> str:
    """Instructions of each layer repeat from boot to boot."""
    emulator = target.board.emulator
    if target.metal or emulator is None or not emulator.counts_instructions:
        raise NotHere("nothing counts instructions exactly")
    seen = []
    for seed in (1, 2):
        async with target.session(seed=seed) as session:
            ticks = []
            for x in target.inputs(2, 1):
                await session.infer(x)
                ticks.append([int(each) for each in await session.layers()])
        seen.append(ticks)
    _require(seen[0] == seen[1], "another boot, other counts")
    _require(all(each > 0 for layers in seen[0] for each in layers), "a layer took no instruction")
    _require(len(seen[0][0]) == len(target.bundle.layers), "another number of layers")
    return f"{sum(seen[0][0]):,} instructions"


SCENARIOS: dict[str, Scenario] = {
    "greet": greet,
    "inference": inference,
    "training": training,
    "reset": reset,
    "keeping": keeping,
    "power-cut": power_cut,
    "noise": noise,
    "several": several,
    "memory": memory,
    "counts": counts,
}
"""By name, in the order in which they run."""
