# SPDX-License-Identifier: Apache-2.0
"""The fragment size that brings most bytes across (PROTOCOL.md, section 7).

A size is an *arm*: 0 is the largest, each further one half of the one before.
"""

from __future__ import annotations

from tlc_host.link.frame import MIN_FRAGMENT, Stream
from tlc_host.link.session_state import ARMS, LinkSession, Sent

FRAME_OVERHEAD = 40  # bytes on the wire beside a frame's payload
FIRST_BYTES = 1024
MOST_SEEN = 126  # outcomes that a share of arrivals is the mean of, and
PROBE_SEEN = 62  # of a size that is only tried: a changed line is to be noticed
PROBE_EVERY = 32
EPOCH = 32  # frames over which the line's idle time is measured
LONG_EPOCH_MS = 60_000


def first_arm(session: LinkSession) -> int:
    """A session begins with frames of medium size: large ones have to prove themselves."""
    return next((arm for arm in range(ARMS) if arm_bytes(session, arm) <= FIRST_BYTES), 0)


def arm_bytes(session: LinkSession, arm: int) -> int:
    """Bytes of payload in a frame of this size."""
    return max(session.fragment >> arm, MIN_FRAGMENT)


def next_arm(session: LinkSession, left: int) -> int:
    """A larger size is tried on a frame that is long enough to tell something of it."""
    if session.arm == 0:
        return 0
    if session.probe + 1 < PROBE_EVERY:
        session.probe += 1
        return session.arm
    if left <= arm_bytes(session, session.arm - 1) // 2:
        return session.arm
    session.probe = 0
    return session.arm - 1


def note_outcome(session: LinkSession, sent: Sent, arrived: bool) -> None:
    """The fragment size that brings most bytes across.

    A smaller size is believed perfect until it was tried. What comes across of a small one is no less than of a
    large one; that a larger one has become better is found out by trying it with a frame now and then.
    """
    arm = sent.arm
    if arrived and session.arm == arm == 0 and session.arrived[0] == 1.0:
        return  # all is well: the usual case
    if sent.bytes <= arm_bytes(session, arm) // 2:
        return  # a message's short end says nothing of its size
    shares = session.arrived
    session.seen[arm] = min(session.seen[arm] + 1, MOST_SEEN)
    weight = session.seen[arm] if arm >= session.arm else min(session.seen[arm], PROBE_SEEN)
    shares[arm] += (arrived - shares[arm]) / (weight + 2)
    for smaller in range(arm + 1, ARMS):
        shares[smaller] = max(shares[smaller], shares[arm])
    sizes = [arm_bytes(session, arm) for arm in range(ARMS)]
    count = sizes.index(sizes[-1]) + 1  # below the smallest there is none
    best, chosen = 0.0, session.arm
    for arm in range(count):
        if arm < session.arm and not session.seen[arm]:
            continue  # a larger one has to be tried first
        score = shares[arm] * sizes[arm] / (sizes[arm] + FRAME_OVERHEAD + session.idle_bytes)
        if score > best * 17 / 16:  # not for nothing: shares are estimates
            best, chosen = score, arm
    session.arm = chosen


def note_full(session: LinkSession, now: float) -> None:
    """The window is full: the line is idle from now on, where a tensor waits."""
    if session.shut_ms is None and session.queues[Stream.BULK]:
        session.shut_ms = now


def note_sent(session: LinkSession, sent: Sent, now: float) -> None:
    """How long the line stays idle with each frame because the window is full, as bytes of the line.

    A round trip well above the least one is a queue before the line: then it is not idle.
    """
    if session.shut_ms is not None:
        session.epoch_shut_ms += now - session.shut_ms
        session.shut_ms = None
    session.epoch_bytes += sent.bytes + FRAME_OVERHEAD
    session.epoch_frames += 1
    if session.epoch_frames < EPOCH:
        return
    elapsed = now - session.epoch_ms
    idle = 0
    if 0 < elapsed < LONG_EPOCH_MS and session.srtt < session.least_ms * 1.5:
        shut = min(session.epoch_shut_ms, elapsed * 7 / 8)
        idle = int(session.epoch_bytes / EPOCH * shut / (elapsed - shut))
    session.idle_bytes += (idle - session.idle_bytes) / 4
    session.epoch_ms, session.epoch_shut_ms, session.epoch_bytes, session.epoch_frames = now, 0.0, 0, 0
