# SPDX-License-Identifier: Apache-2.0
"""The explorer in seconds, and that it sees what it is there to see."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from link_world import LinkWorld, build
from states import explore

from explore import CASES, run
from tlc_host.link import endpoint


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
