# SPDX-License-Identifier: Apache-2.0
"""Which frames are lost: round trips, time-outs, acknowledgements (PROTOCOL.md, section 7)."""

from __future__ import annotations

import math

from tlc_host.link.fragment_size import FRAME_OVERHEAD, note_outcome
from tlc_host.link.frame import Stream
from tlc_host.link.session_state import LinkSession, Sent, before16

ACK_DELAY_MS = 5
INITIAL_RTO_MS = 250.0
MIN_RTO_MS = 20.0
MAX_RTO_MS = 1000.0
MAX_BACKOFF = 5
HEARD_BACKOFF = 1  # on a line that loses frames, while the device is heard
SURE = 8  # round trips measured before a time-out may be shorter than the first
STUBBORN = 4  # a frame sent so often is lost, not late
REORDER = 3  # frames sent later that must be acknowledged before one counts as lost
REMEMBER = 64  # frames acknowledged for which a loss, or that frames overtook another, is remembered
WIDE = 8  # a window of so many frames or more


def rto(session: LinkSession, now: float) -> float:
    """The time-out now, in milliseconds: RFC 6298, with other bounds."""
    if session.busy and now - session.heard_ms > INITIAL_RTO_MS:  # nobody reads: more copies only fill its buffer
        return MAX_RTO_MS
    rto = session.srtt + max(4 * session.rttvar, 10.0) + ACK_DELAY_MS
    # Of more than one frame the first are short, and no queue is before them.
    least = MIN_RTO_MS if session.samples >= (SURE if len(session.sent) > 1 else 1) else INITIAL_RTO_MS
    return min(max(rto, least) * (1 << session.backoff), MAX_RTO_MS)


def patience_of(session: LinkSession) -> float:
    """Milliseconds after which the acknowledgement of a frame that arrived would have come."""
    return session.srtt * 1.125 + 2.0


def oldest_of(session: LinkSession) -> Sent:
    """The frame sent longest ago of those unacknowledged; there is one."""
    oldest: Sent | None = None
    for sent in session.sent.values():
        if oldest is None or before16(sent.counter, oldest.counter) < 0:
            oldest = sent
    assert oldest is not None
    return oldest


def find_lost(session: LinkSession, now: float) -> None:
    """Marks what is lost: overtaken by later frames, or too old."""
    waiting: list[Sent] = []
    patience = patience_of(session)
    session.acked = False
    session.look_ms = math.inf
    for sent in session.sent.values():
        if sent.lost:
            continue
        if session.acked_counter is not None:
            overtaken = before16(session.acked_counter, sent.counter)
            if overtaken > 0:
                if not session.reordered or overtaken >= REORDER or now - sent.sent_ms >= patience:
                    sent.lost = True
                    session.lost += 1
                    session.lossy = REMEMBER
                    note_outcome(session, sent, False)
                    continue
                session.look_ms = min(session.look_ms, sent.sent_ms + patience)
        waiting.append(sent)
    if not waiting:
        return
    waiting.sort(key=lambda s: before16(s.counter, session.counter))
    base = max(waiting[0].sent_ms, session.progress_ms)
    if now >= base + rto(session, now):
        heard = session.heard_ms > base
        again = waiting[: 1 if session.lossy else 2]  # two probes: one may be lost again
        if waiting[0].message.stream == Stream.CONTROL and session.backoff <= HEARD_BACKOFF:
            # The device takes them in order: it has refused the others.
            again = [sent for sent in waiting if sent.message.stream == Stream.CONTROL]
        for sent in again:
            # There may have been a pause, for which the fragment size is not to pay, or the round trip has grown.
            # But in a small window few lost frames are overtaken.
            narrow = session.window < WIDE
            if (session.lossy or sent.tries >= STUBBORN) and (narrow or (heard and session.backoff)):
                note_outcome(session, sent, False)
            sent.lost = sent.late = True
            session.lost += 1
        # A line that loses frames, but on which the device is heard, is neither dead nor stalled.
        most = HEARD_BACKOFF if session.lossy and heard and not session.busy else MAX_BACKOFF
        session.progress_ms = now
        session.hail = session.backoff > HEARD_BACKOFF  # by frames that are shorter, if these cannot come through
        session.backoff = min(session.backoff + 1, most)
    session.look_ms = min(session.look_ms, max(waiting[0].sent_ms, session.progress_ms) + rto(session, now))


def overdue_after(session: LinkSession) -> float:
    """A line that is idle for more than an empty frame's time with each frame loses nothing by another copy."""
    if session.idle_bytes > FRAME_OVERHEAD:
        return session.srtt / 2
    return patience_of(session) + session.rttvar


def overdue(session: LinkSession, now: float) -> Sent | None:
    """A tensor waits because the window is full: on a line that loses frames better the oldest once more than nothing."""
    if (
        not (session.sent and session.lossy)
        or session.shut_ms is None
        or session.busy
        or now - session.heard_ms > rto(session, now)
    ):
        return None
    oldest = oldest_of(session)
    patience = patience_of(session)
    if session.heard_ms - oldest.sent_ms >= patience:  # the device would have told of it
        note_outcome(session, oldest, False)
    elif now - oldest.sent_ms < overdue_after(session):
        return None
    oldest.late = True
    return oldest


def take_ack(session: LinkSession, acknowledge: int, selective: int, now: float) -> None:
    """Forgets what the device has: all before ``acknowledge``, and after it what ``selective`` names."""
    if not session.sent:
        return
    newest: Sent | None = None
    done: list[Sent] = []
    for sent in session.sent.values():
        ahead = before16(sent.sequence, acknowledge)
        if ahead < 0 or (0 < ahead <= 32 and selective >> (ahead - 1) & 1):
            done.append(sent)
        elif not selective:
            break  # they are in order
    overtook = session.acked_counter
    srtt = session.srtt
    for sent in done:
        del session.sent[sent.sequence]
        # Of one that was only late it may be the first copy that arrived, which overtook nothing: always where no
        # frame was lost, for there the round trip has grown.
        first_copy = sent.late and (not session.lossy or now - sent.sent_ms < srtt * 0.75)
        session.lossy = max(session.lossy - 1, 0)
        session.reordered = max(session.reordered - 1, 0)
        if sent.lost or (sent.tries > 1 and now - sent.sent_ms < srtt / 2):  # it is an earlier copy that arrived
            note_outcome(session, sent, True)
            if not sent.late:
                session.reordered = REMEMBER
        elif sent.tries == 1 and overtook is not None and before16(overtook, sent.counter) > 0:
            session.reordered = REMEMBER
        session.lost -= sent.lost
        note_outcome(session, sent, True)
        sent.message.in_flight -= 1
        if sent.tries == 1 and (newest is None or before16(sent.counter, newest.counter) > 0):
            newest = sent  # Karn: only frames sent once
        if first_copy:
            continue
        if session.acked_counter is None or before16(sent.counter, session.acked_counter) > 0:
            session.acked_counter = sent.counter
    if done:
        session.acked = True
        session.progress_ms = now
        session.backoff = 0
    if newest is not None:
        sample = now - newest.sent_ms
        session.least_ms = min(session.least_ms, sample)
        if not session.samples:
            session.srtt, session.rttvar = sample, sample / 2
        else:  # RFC 6298
            if session.lossy:  # a late one may have waited for the peer's time-out, which ours is not to follow
                sample = min(sample, session.srtt * 1.5 + 10.0)
            session.rttvar += (abs(sample - session.srtt) - session.rttvar) / 4
            session.srtt += (sample - session.srtt) / 8
        session.samples += 1
