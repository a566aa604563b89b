# SPDX-License-Identifier: Apache-2.0
"""Frames with a piece of a message, put together and handed out in order (PROTOCOL.md, sections 6 and 8)."""

from __future__ import annotations

from collections import deque

from tlc_host.link.frame import Frame, Stream
from tlc_host.link.loss import ACK_DELAY_MS
from tlc_host.link.session_state import CREDIT, Counters, Incoming, LinkSession, Message, before16

BULK_AHEAD = 64  # messages that may be half there

_STREAMS = tuple(Stream)
_LOG = int(Stream.LOG)


def take_message(session: LinkSession, frame: Frame, now: float, counters: Counters, messages: deque[Message]) -> None:
    """Takes a frame's piece, unless it was there already or has no place; what is whole is added to ``messages``."""
    ahead = before16(frame.sequence, session.take_sequence)
    if ahead < 0 or (0 < ahead <= 32 and session.take_bitmap >> (ahead - 1) & 1):
        counters.repeated += 1
        session.ack_now = True
        return
    count = len(frame.payload)
    if ahead > 32 or count == 0 or frame.offset + count > frame.length or frame.stream > _LOG:
        counters.bad += 1
        return
    if not _place(session, frame, _STREAMS[frame.stream], counters, messages):
        counters.refused += 1
        session.ack_now = True  # it will come again: its sender is to know that it was heard
        return
    if ahead > 0:
        session.take_bitmap |= 1 << (ahead - 1)
    else:
        more = 1
        while more:
            session.take_sequence = (session.take_sequence + 1) & 0xFFFF
            more = session.take_bitmap & 1
            session.take_bitmap >>= 1
    if not session.ack_pending:
        session.ack_ms = now + ACK_DELAY_MS
    session.ack_pending += 1
    if session.ack_pending >= 2 or ahead > 0 or session.take_bitmap or frame.offset + count == frame.length:
        session.ack_now = True


def _place(session: LinkSession, frame: Frame, stream: Stream, counters: Counters, messages: deque[Message]) -> bool:
    ahead = before16(frame.message, session.take_number[stream])
    if ahead < 0 or ahead >= BULK_AHEAD or frame.length > session.max_message:
        return False
    count = len(frame.payload)
    if stream != Stream.BULK and count != frame.length:
        counters.bad += 1
        return False
    waiting = session.incoming[stream]
    message = waiting.get(frame.message)
    if message is None:
        if session.held + frame.length > CREDIT:
            return False
        if count == frame.length and ahead == 0:  # whole, and the next one
            session.take_number[stream] = (frame.message + 1) & 0xFFFF
            if stream == Stream.BULK:
                session.grant = (session.grant + count) & 0xFFFFFF
            messages.append(Message(frame.type, stream, frame.payload))
            _deliver(session, stream, messages)
            return True
        message = Incoming(frame.type, frame.length, bytearray(frame.length))
        waiting[frame.message] = message
        session.held += frame.length
    if message.type != frame.type or message.length != frame.length or message.received + count > message.length:
        counters.bad += 1
        return False
    message.data[frame.offset : frame.offset + count] = frame.payload
    message.received += count
    if ahead == 0 and message.received == message.length:
        _deliver(session, stream, messages)
    return True


def _deliver(session: LinkSession, stream: Stream, messages: deque[Message]) -> None:
    """Hands out what is whole, in order."""
    waiting = session.incoming[stream]
    while waiting:
        number = session.take_number[stream]
        first = waiting.get(number)
        if first is None or first.received != first.length:
            return
        del waiting[number]
        session.held -= first.length
        session.take_number[stream] = (number + 1) & 0xFFFF
        if stream == Stream.BULK:
            session.grant = (session.grant + first.length) & 0xFFFFFF
        messages.append(Message(first.type, stream, bytes(first.data)))
