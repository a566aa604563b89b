# SPDX-License-Identifier: Apache-2.0
"""The ILVQ head: C and NumPy give the same bytes, and the rules do what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tlc.errors import ConfigError, DataError
from tlc.ilvq import DeviceIlvq, Ilvq, IlvqSettings, merged

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "ilvq_sphere"))

import sphere

BOTH = pytest.mark.parametrize("kind", [Ilvq, DeviceIlvq])
Kind = Callable[..., Ilvq] | Callable[..., DeviceIlvq]


def stream(settings: IlvqSettings, classes: int, count: int, seed: int) -> list[tuple[np.ndarray, int]]:
    """Overlapping classes whose centres drift, and copies of earlier samples, so that there are equal distances."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 2, (classes, settings.dim))
    found: list[tuple[np.ndarray, int]] = []
    for n in range(count):
        label = int(rng.integers(classes))
        x = (centres[label] * (1 + n / count) + rng.normal(0, 1, settings.dim)).astype(np.float32)
        found.append((found[int(rng.integers(n))][0] if n and n % 7 == 0 else x, label))
    return found


@pytest.mark.parametrize(
    ("settings", "classes"),
    [
        (IlvqSettings(3), 2),
        (IlvqSettings(1, 7, 2, 20, 0.5), 3),
        (IlvqSettings(5, 12, 5, 31, 0.9), 4),
        (IlvqSettings(17, 9, 253, 0, 0.0), 9),
        (IlvqSettings(2, 2, 1, 5, 1.0), 2),
    ],
)
def test_c_equals_numpy(settings: IlvqSettings, classes: int) -> None:
    definition, device = Ilvq(settings), DeviceIlvq(settings)
    samples = stream(settings, classes, 400, seed=settings.dim)
    for n, (x, label) in enumerate(samples):
        definition.learn(x, label)
        device.learn(x, label)
        assert n % 20 or definition.to_bytes() == device.to_bytes(), n
    assert definition.to_bytes() == device.to_bytes()
    values = np.array([x for x, _ in samples])
    assert np.array_equal(definition.classify(values), device.classify(values))
    if settings.dim < 17:
        assert device.prototypes > 1 and definition.ages.any()  # there was something to compare

    others = [kind(settings, device.to_bytes()) for kind in (Ilvq, DeviceIlvq)]
    for head, other in zip((definition, device), others, strict=True):
        for x, label in stream(settings, classes, 60, seed=99):
            other.learn(x, label)
        head.absorb(other)  # type: ignore[arg-type]
        head.share(3)
    assert definition.to_bytes() == device.to_bytes()


@BOTH
def test_sphere(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sphere, "DeviceIlvq", kind)
    accuracy, prototypes = sphere.alone(seed=0, count=1000)
    assert accuracy >= 0.88 and prototypes <= 50


@BOTH
def test_rules(kind: Kind) -> None:
    def state(head: Ilvq | DeviceIlvq) -> Ilvq:
        return Ilvq(head.settings, head.to_bytes())

    head = kind(IlvqSettings(1, 4, age_limit=2, period=0))
    head.learn([0.0], 7)
    head.learn([10.0], 9)
    assert head.prototypes == 2 and list(head.classify([[4.9], [5.1]])) == [7, 9]
    head.learn([2.0], 7)  # runner-up, the threshold of 10 away, is within its own: the winner moves half the way
    now = state(head)
    assert now.vectors[0, 0] == 1.0 and now.wins[0] == 2 and now.ages[0, 1] == 1
    assert np.isclose(now.vectors[1, 0], 10.0 + 0.005 * 8)  # the neighbour of another class is pushed away
    head.learn([4.0], 9)  # the winner is of another class, and goes away from the sample
    now = state(head)
    assert now.vectors[0, 0] == 0.0 and now.wins[0] == 3
    head.learn([-20.0], 7)  # beyond the threshold
    assert head.prototypes == 3
    head.learn([-21.0], 7)  # near the winner, but the runner-up does not reach so far
    assert head.prototypes == 4
    head.learn([40.0], 9)  # no room: the two nearest of one class are now one
    now = state(head)
    assert head.prototypes == 4 and now.vectors[2, 0] == -20.5 and now.wins[2] == 2
    head.learn([-60.0], 7)  # again, weighted by their wins
    now = state(head)
    assert head.prototypes == 4 and sorted(now.labels) == [7, 7, 9, 9]
    assert now.wins[0] == 5 and np.isclose(now.vectors[0, 0], 2 * -20.5 / 5)
    assert now.vectors[now.labels == 7].min() == -60.0


@BOTH
def test_of_equal_distances_the_first_counts(kind: Kind) -> None:
    head = kind(IlvqSettings(1, 4))
    for x, label in ((0.0, 0), (4.0, 1), (-4.0, 2), (0.0, 0)):
        head.learn([x], label)
    ages = Ilvq(head.settings, head.to_bytes()).ages
    assert head.prototypes == 3 and ages[0, 1] == 1 and not ages[2].any()
    assert list(head.classify([[2.0], [-2.0]])) == [0, 0]


@BOTH
def test_what_is_of_no_use_goes(kind: Kind) -> None:
    rng = np.random.default_rng(0)
    head = kind(IlvqSettings(2, 20, period=100))
    head.learn([0.0, 0.0], 0)
    head.learn([50.0, 0.0], 1)
    head.learn([0.0, 500.0], 0)  # noise, never seen again
    head.learn([500.0, 0.0], 2)  # as rare, but the only one of its class
    for _ in range(96):
        label = int(rng.integers(2))
        head.learn(rng.normal([50.0 * label, 0.0], 1.0), label)
    assert head.classify([[500.0, 0.0]])[0] == 2
    kept = Ilvq(head.settings, head.to_bytes())
    assert kept.vectors[:, 1].max() < 10 and kept.samples == 100


def test_merged_heads_know_what_each_has_seen() -> None:
    settings, states = IlvqSettings(2, 10), []
    for base in (0, 2):
        head = DeviceIlvq(settings)
        for x, label in stream(IlvqSettings(2), 2, 200, seed=base):
            head.learn(x + 100 * base, label + base)
        states.append(head.to_bytes())
    whole = DeviceIlvq(settings, merged(states, settings))
    own = Ilvq(settings, states[1])
    assert whole.prototypes <= 10
    assert np.array_equal(whole.classify(own.vectors[:2]), own.labels[:2])
    assert set(Ilvq(settings, whole.to_bytes()).labels[: whole.prototypes]) == {0, 1, 2, 3}


@BOTH
def test_bad_input(kind: Kind) -> None:
    settings = IlvqSettings(2, 2)
    head = kind(settings)
    with pytest.raises(DataError, match="no prototypes"):
        head.classify([[0.0, 0.0]])
    head.learn([0.0, 1.0], 0)
    before = head.to_bytes()
    for bad in (np.nan, np.inf, -2e9):
        with pytest.raises(DataError, match="not finite, or beyond 1e9"):
            head.learn([0.0, bad], 0)
        with pytest.raises(DataError, match="not finite"):
            head.classify([[0.0, bad]])
    with pytest.raises(DataError, match=r"\(3,\), not \(2,\)"):
        head.learn([0.0, 1.0, 2.0], 0)
    assert head.to_bytes() == before
    head.learn([1.0, 1.0], 1)
    with pytest.raises(DataError, match="no room for another class"):
        head.learn([2.0, 2.0], 2)
    state = head.to_bytes()
    assert kind(settings, state).to_bytes() == state
    for place in range(len(state)):
        with pytest.raises(DataError):
            kind(settings, state[:place] + bytes([state[place] ^ 4]) + state[place + 1 :])
    for wrong in (b"", state[:-4], state + bytes(4)):
        with pytest.raises(DataError, match="another size"):
            kind(settings, wrong)
    with pytest.raises(DataError, match="do not fit together"):
        head.absorb(kind(IlvqSettings(3, 2)))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'capacity' is 1, not 2 to 1024"):
        IlvqSettings(2, 1)
