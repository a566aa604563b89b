# SPDX-License-Identifier: Apache-2.0
"""``make soak`` in seconds: resets of devices and deaths of the daemon change nothing of what is learned."""

from __future__ import annotations

from pathlib import Path

from link_soak import soak
from link_twin import build_twin


def test_a_disturbed_training_equals_the_undisturbed_one(tmp_path: Path) -> None:
    counts, different = soak(build_twin(tmp_path), twins=6, seconds=6.0, seed=3, shake=1.5)
    assert different == 0
    assert counts.resets >= 5 and counts.kills >= 2 and counts.steps >= 30, counts
