# SPDX-License-Identifier: Apache-2.0
"""The explorer in seconds, and that it sees what it is there to see."""

from __future__ import annotations

import asyncio
import ctypes
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "host"))

from lesson import Now
from link_twin import HASH, Forgetful, N, SmallTwin, build_twin
from link_world import FIRMWARE, LinkWorld, build
from message_world import DEVICE, Messages, MessageWorld, still
from states import Explored, explore

from explore import CASES, run
from tlc_host import messages as m
from tlc_host.link import endpoint
from tlc_host.link.frame import Frame, FrameType, parse
from tlc_host.session import Session
from tlc_host.session.asking import Asking
from tlc_host.session.greeting import Greeting


def test_every_state_of_a_message_over_a_lossy_line(tmp_path: Path) -> None:
    found = run("one message, loss", tmp_path, 10**9)
    assert found.broken is None, (found.broken, found.trace)
    assert found.complete and found.states > 1000 and found.goals > 100


@pytest.mark.parametrize("case", ["a reset and a restart, copies", "everything"])
def test_the_first_states_with_resets(tmp_path: Path, case: str) -> None:
    found = run(case, tmp_path, 600)
    assert found.broken is None, (found.broken, found.trace)


def test_a_host_that_takes_what_came_twice_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = endpoint.take_message

    def forgetful(session: Any, frame: Any, *rest: Any) -> None:
        if frame.sequence < session.take_sequence:
            session.take_sequence, session.take_number[frame.stream] = frame.sequence, frame.message
        real(session, frame, *rest)

    monkeypatch.setattr(endpoint, "take_message", forgetful)
    library = build(tmp_path, "explored_link", ["src/link/*.c"])
    found = explore(LinkWorld(library, CASES["fragments, both ways"]), 20_000)
    assert found.broken is not None and found.trace


def test_a_host_that_never_asks_again_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "find_lost", lambda session, now: None)
    monkeypatch.setattr(endpoint, "overdue", lambda session, now: None)
    library = build(tmp_path, "explored_link", ["src/link/*.c"])
    found = explore(LinkWorld(library, CASES["one message, loss"]))
    assert found.broken == "without faults it never comes to the goal"


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build(tmp_path_factory.mktemp("device"), "explored_device", DEVICE)


def walk(library: ctypes.CDLL, settings: Messages) -> Explored:
    with still() as tokens:
        return explore(MessageWorld(library, settings, tokens))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return build_twin(tmp_path_factory.mktemp("twin"))


TWICE = Messages(steps=2, batch=2, silences=1)
KEPT = Messages(steps=2, journal=True, resets=1, cuts=1)


@pytest.mark.parametrize(
    "settings",
    [TWICE, KEPT, Messages(steps=2, resets=1, restarts=1), Messages(restarts=1, silences=1, amid=True, buffers=True)],
    ids=["a lost session", "a reset, and power that fails", "a reset and a restart", "a new session amid work"],
)
def test_every_state_of_messages(device: ctypes.CDLL, settings: Messages) -> None:
    found = walk(device, settings)
    assert found.broken is None, (found.broken, found.trace)
    assert found.complete and found.states > 500 and found.goals > 50


NO_STEP = "step.step == 0"


@pytest.mark.parametrize(
    ("settings", "file", "changes", "broken"),
    [
        (TWICE, "device/train.c", {"step.step != 0 && step.step <= device->step": NO_STEP}, "STEP failed"),
        (
            TWICE,
            "device/train.c",
            {"step.step != 0 && step.step <= device->step": NO_STEP, "device->ctx.samples == 0": NO_STEP},
            "a step out of order",
        ),
        (TWICE, "device/train.c", {"if (of != 0 && of == device->backward) {": "if (of == 0) {"}, "BACKWARD failed"),
        (
            replace(TWICE, together=True),
            "device/train.c",
            {"} else if (of != 0 && of == device->backward) {": "} else if (of == 0) {"},
            "TRAIN failed",
        ),
        (KEPT, "journal/journal.c", {"return 1u - journal->newest;": "return journal->newest;"}, "step 1 was saved"),
    ],
    ids=[
        "refuses a step",
        "applies a step twice",
        "refuses a gradient",
        "refuses a lesson",
        "writes over its newest entry",
    ],
)
def test_a_device_that_breaks_a_rule_is_found(
    tmp_path: Path, settings: Messages, file: str, changes: dict[str, str], broken: str
) -> None:
    source = (FIRMWARE / "src" / file).read_text()
    for was, now in changes.items():
        assert was in source
        source = source.replace(was, now, 1)
    changed = tmp_path / Path(file).name
    beside = (FIRMWARE / "src" / file).parent
    changed.write_text(re.sub(r'#include "(?!tlc/)', f'#include "{beside}/', source))
    found = walk(build(tmp_path, "explored_device", DEVICE, [changed]), settings)
    assert found.broken is not None and broken in found.broken and found.trace, found.broken


def test_a_host_that_forgets_to_ask_again_is_found(device: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Asking, "resume", lambda asking: asking.ready.set())
    assert walk(device, TWICE).broken == "without faults it never comes to the goal"


def test_a_host_that_mistakes_a_lost_welcome_for_a_reset_is_found(
    device: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Greeting._take_hello

    def forgetful(greeting: Greeting, hello: m.Hello) -> None:
        greeting.hello = m.Hello(boot=greeting.hello.boot, token=greeting._token)
        real(greeting, hello)

    monkeypatch.setattr(Greeting, "_take_hello", forgetful)
    assert walk(device, TWICE).broken == "the host is told of a reset that never was"


def story(frames: list[Frame]) -> list[tuple[int, ...]]:
    """What a host has said: type, step and batch of each message, and which requests are the same; WELCOMEs bear new ones."""
    told, requests, seen = [], dict[int, int](), set()
    for frame in frames:
        if (frame.session, frame.stream, frame.message) in seen:
            continue  # the link's own repetition
        seen.add((frame.session, frame.stream, frame.message))
        message = m.parse(frame.type, frame.payload)
        request = requests.setdefault(message.request, len(requests))
        told.append((frame.type, message.step, message.batch, request))
    return told


@pytest.mark.parametrize("lost", [0, m.Welcome.TYPE, m.Forward.TYPE, m.Backward.TYPE, m.Step.TYPE, m.GetParams.TYPE])
def test_a_session_says_the_same_under_an_event_loop(device: ctypes.CDLL, small: ctypes.CDLL, lost: int) -> None:
    """What the explorer takes by hand is what the session does by itself: with ``lost``, a message and the session with it."""
    frames: list[Frame] = []
    with still() as tokens:
        world = MessageWorld(device, Messages(silences=1, loses=True), tokens)
        left, seen = lost, 0
        while world.fair() is not None:
            for wire in world.line.down:
                frame = parse(wire[:-1])
                assert frame is not None
                frames += [frame] * (frame.type >= FrameType.MESSAGE)
                seen = frame.type
            if left and seen == left:
                left = 0
                world.do("lose down")
                world.do("host is deaf")
            else:
                world.do(world.fair() or "")
            seen = 0
        assert world.lesson.state.now is Now.DONE and not left and world.wrong() is None

    async def real() -> list[Frame]:
        line = Forgetful(await SmallTwin(small).open(), hides=lost)

        async def opener() -> Any:
            return line

        async with await Session.connect(opener, HASH) as session:
            reply = await session.forward(np.ones(N, np.int8), step=1)
            await session.backward(reply, np.ones(N, np.float32), step=1)
            await session.step(1, 0.5)
            await session.get_params()
        return line.told

    assert story(frames) == story(asyncio.run(asyncio.wait_for(real(), 60)))
