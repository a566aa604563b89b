/* SPDX-License-Identifier: Apache-2.0
 *
 * link.h: the device's end of the link (PROTOCOL.md): bytes in, messages out, and back. It does no
 * input or output and reads no clock: the caller hands it bytes and the time, in milliseconds.
 *
 * RAM: sizeof(tlc_link_t) (about 0.7 KB on a 32-bit CPU) + TLC_LINK_MEMORY(window, fragment), the caller's.
 * Window 4 and fragments of 256 bytes: about 1.4 KB together.
 *
 * Sending copies a message's header (up to TLC_LINK_HEADER_BYTES) and points to its payload, which must
 * stay as it is until tlc_link_payloads() says that none is on its way. Receiving writes a bulk message's
 * payload where the `place` hook says.
 */
#ifndef TLC_LINK_H
#define TLC_LINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tlc/cobs.h"
#include "tlc/status.h"

#define TLC_LINK_VERSION 1u
#define TLC_LINK_FRAME_HEADER 28u /* bytes of the frame header */
#define TLC_LINK_OPEN_BYTES 24u   /* payload of OPEN and ACCEPT */
#define TLC_LINK_MIN_FRAGMENT 128u

/* Options: change here or by -D. */
#ifndef TLC_LINK_OUTGOING
#define TLC_LINK_OUTGOING 4 /* messages queued or on their way, all streams together */
#endif
#ifndef TLC_LINK_INCOMING
#define TLC_LINK_INCOMING 2 /* bulk messages being put together at once, at most */
#endif
#ifndef TLC_LINK_CONTROL_BYTES
#define TLC_LINK_CONTROL_BYTES 64 /* largest control message that it takes */
#endif
#ifndef TLC_LINK_HEADER_BYTES
#define TLC_LINK_HEADER_BYTES 32 /* largest header of a message that it sends */
#endif
#ifndef TLC_LINK_TAKES_BYTES
#define TLC_LINK_TAKES_BYTES 52 /* largest header of a bulk message that it takes */
#endif

/* Nothing to change below. */

typedef enum {
    TLC_STREAM_CONTROL = 0, /* short commands and answers: one frame a message */
    TLC_STREAM_BULK = 1,    /* tensors */
    TLC_STREAM_LOG = 2,     /* text for people: one frame a message, device to host */
    TLC_STREAM_COUNT = 3,
} tlc_stream_t;

typedef enum {
    TLC_FRAME_ANNOUNCE = 1, /* device: I am here and have no session */
    TLC_FRAME_OPEN = 2,     /* host: let us begin a session */
    TLC_FRAME_ACCEPT = 3,   /* device: this is its number */
    TLC_FRAME_END = 4,      /* either: there is no such session (any more) */
    TLC_FRAME_ACK = 5,      /* either: acknowledgement, credit, keep-alive */
    TLC_FRAME_MESSAGE = 16, /* this and all above: a fragment of a message of that type */
} tlc_frame_t;

typedef enum {
    TLC_FLAG_SECURE = 1,  /* the trailer is a 16-byte tag, not a CRC (reserved) */
    TLC_FLAG_ACK_NOW = 2, /* acknowledge without delay */
    TLC_FLAG_BUSY = 4,    /* the sender computes and may be silent for long */
} tlc_frame_flag_t;

typedef enum {
    TLC_END_UNKNOWN = 0,    /* no such session: the device was reset, or gave it up */
    TLC_END_SUPERSEDED = 1, /* another host opened a session */
    TLC_END_CLOSED = 2,     /* the peer said goodbye */
    TLC_END_VERSION = 3,    /* no common version */
} tlc_end_t;

#define TLC_LINK_ARMS 6u /* fragment sizes it chooses from: the largest, half of it ... */

typedef struct { /* a frame on its way */
    uint32_t offset;
    uint32_t sent_ms;
    uint16_t bytes;
    uint16_t sequence;
    uint16_t counter;
    uint8_t outgoing; /* which message */
    uint8_t tries;    /* 0: the slot is free */
    uint8_t lost;     /* to be sent again */
    uint8_t arm;      /* the fragment size it was cut to, for the statistics */
    uint8_t late;     /* sent again for its time-out: the acknowledgement may be the first copy's */
} tlc_link_slot_t;

#define TLC_LINK_FRAME_IN(fragment) (TLC_LINK_FRAME_HEADER + (fragment) + 4u)
#define TLC_LINK_FRAME_OUT(fragment) (TLC_COBS_BYTES(TLC_LINK_FRAME_IN(fragment)) + 8u)
/* Bytes of `memory` for a window (2 to 32 frames) and a fragment size (128 to 8192 bytes). */
#define TLC_LINK_MEMORY(window, fragment)                                                                              \
    ((window) * sizeof(tlc_link_slot_t) + ((TLC_LINK_FRAME_IN(fragment) + 3u) & ~(size_t)3) +                          \
     TLC_LINK_FRAME_OUT(fragment))

/* Where a bulk message goes: its first header_bytes into the link, the rest to payload. */
typedef struct {
    uint32_t header_bytes; /* at most TLC_LINK_TAKES_BYTES */
    uint8_t *payload;      /* (length - header_bytes); NULL: let it come and throw it away */
} tlc_link_place_t;

typedef struct {
    void *memory; /* TLC_LINK_MEMORY(window, fragment) bytes, 4-byte aligned */
    size_t memory_bytes;
    uint16_t fragment;     /* largest payload of a frame, both ways */
    uint8_t window;        /* frames of ours that may be unacknowledged, 2 to 32 */
    uint8_t peer_window;   /* frames of the host's that may be: what the port's receive buffer can hold; 1 to 32 */
    uint8_t messages;      /* bulk messages that there is room for at once, 1 to TLC_LINK_INCOMING */
    uint16_t keepalive_ms; /* 0: 1000 */
    uint16_t dead_ms;      /* silence after which a session is given up; 0: 10000 */
    uint32_t max_message;  /* largest bulk message that it takes */
    uint32_t boot;         /* 32 bits that differ from boot to boot */
    /* A bulk message begins to arrive; says where to. False: not now, the frame will come again.
     * `offset`, `bytes` and `count` are the fragment that came first, not always the message's first. */
    bool (*place)(void *arg, uint8_t type, uint32_t length, uint32_t offset, const uint8_t *bytes, size_t count,
                  tlc_link_place_t *place);
    void *arg;
} tlc_link_config_t;

/* A whole message, from tlc_link_next. */
typedef struct {
    uint8_t type;
    uint8_t stream;
    uint8_t slot;
    uint32_t session;
    const uint8_t *header; /* (header_bytes) a control message lies here whole */
    uint32_t header_bytes;
    uint8_t *payload; /* (payload_bytes); NULL when it was thrown away */
    uint32_t payload_bytes;
} tlc_link_message_t;

typedef struct {
    uint32_t frames_in, frames_out;
    uint32_t bytes_in, bytes_out;
    uint32_t bad;      /* frames with a wrong checksum, length or field */
    uint32_t repeated; /* frames that came again */
    uint32_t refused;  /* frames for which there was no room */
    uint32_t resent;   /* frames of ours sent again */
    uint32_t sessions; /* sessions begun */
} tlc_link_counters_t;

typedef struct {
    const uint8_t *payload;
    uint32_t length; /* header and payload */
    uint32_t next;   /* first byte that was never sent */
    uint16_t number;
    uint16_t in_flight; /* frames unacknowledged */
    uint8_t type;
    uint8_t stream;
    uint8_t header_bytes;
    uint8_t used;
    uint8_t header[TLC_LINK_HEADER_BYTES];
} tlc_link_outgoing_t;

typedef struct {
    uint8_t *payload;
    uint32_t header_bytes;
    uint32_t length;
    uint32_t received;
    uint16_t number;
    uint8_t type;
    uint8_t used;
    uint8_t taken; /* handed out by tlc_link_next */
    uint8_t header[TLC_LINK_TAKES_BYTES];
} tlc_link_incoming_t;

typedef struct {
    uint32_t session;
    uint32_t nonce;
    uint32_t max_message, unit;
    uint16_t fragment, control;
    uint8_t window;
} tlc_link_peer_t;

typedef struct {
    tlc_link_config_t config;
    tlc_link_slot_t *slots; /* (window) */
    uint8_t *frame_out;     /* (TLC_LINK_FRAME_OUT) the wire form of the frame being sent */
    uint32_t out_count, out_at;
    tlc_cobs_decoder_t decoder;

    tlc_link_peer_t peer;    /* the session; number 0: none */
    tlc_link_peer_t pending; /* a session offered and not yet used by the host */
    uint32_t last_session;   /* the one before, to tell its host that it was superseded */
    uint32_t opened;         /* sessions offered since boot */
    uint32_t end_session;    /* END to be sent for this session ... */
    uint8_t end_reason;      /* ... with this reason */
    uint8_t end_due;
    uint8_t accept_due;
    uint8_t accept_tries;
    uint32_t accept_ms;
    uint32_t announce_ms;
    uint8_t announced;
    uint8_t busy;       /* the device says that it computes */
    uint8_t told_busy;  /* the last frame of the session said so */
    uint32_t polled_ms; /* when output was last asked for */

    tlc_link_outgoing_t outgoing[TLC_LINK_OUTGOING];
    uint16_t send_number[TLC_STREAM_COUNT];
    uint16_t send_sequence; /* of the next new frame */
    uint16_t counter;       /* of the next frame, new or not */
    uint16_t acked_counter; /* the highest whose frame was acknowledged */
    uint8_t any_acked;
    uint32_t credit_limit; /* the host's, mod 2^24 */
    uint32_t credit_used;
    uint32_t progress_ms;            /* last time an acknowledgement freed something, or a time-out fired */
    uint32_t srtt8, rttvar4;         /* milliseconds * 8, * 4 */
    uint16_t arrived[TLC_LINK_ARMS]; /* share of frames of each size that arrived, of 65535 */
    uint8_t seen[TLC_LINK_ARMS];     /* outcomes of each size, up to a bound */
    uint8_t arm;                     /* the size in use */
    uint8_t probe;                   /* new bulk frames since the last one of a larger size */
    uint8_t rtt_count;
    uint8_t backoff;
    uint8_t hail;    /* say something short: nothing is heard any more */
    uint8_t is_shut; /* since shut_ms a tensor waits because the window is full */
    uint8_t epoch_frames;
    uint32_t shut_ms, epoch_ms, epoch_shut_ms, epoch_bytes; /* of the last frames: when, of that shut, what was sent */
    uint32_t idle_bytes;                                    /* of the line that pass unused with each frame */
    uint32_t least_ms;                                      /* shortest round trip of the session */
    uint8_t lossy;     /* acknowledged frames for which it counts as a line that loses some */
    uint8_t reordered; /* ... and as one on which frames overtake others */
    uint8_t blocked;   /* a bulk message waits for credit */

    tlc_link_incoming_t incoming[TLC_LINK_INCOMING];
    uint8_t control[TLC_LINK_CONTROL_BYTES];
    uint8_t control_type;
    uint8_t control_count; /* 0: empty */
    uint8_t control_taken;
    uint16_t take_number[TLC_STREAM_COUNT]; /* of the next message to be handed out */
    uint16_t take_sequence;                 /* next expected */
    uint32_t take_bitmap;                   /* bit i: take_sequence + 1 + i was taken */
    uint32_t grant;                         /* our credit limit, mod 2^24 */
    uint8_t ack_pending;                    /* frames not yet acknowledged */
    uint8_t ack_now;
    uint32_t ack_ms;
    uint32_t heard_ms, said_ms;

    tlc_link_counters_t counters;
} tlc_link_t;

TLC_MUST_CHECK tlc_status_t tlc_link_init(tlc_link_t *link, const tlc_link_config_t *config);

/* Takes all `count` bytes, whatever they are. */
void tlc_link_receive(tlc_link_t *link, uint32_t now_ms, const uint8_t *bytes, size_t count);

/* What wants to go out now: `*bytes` and how many, 0 for nothing. Call tlc_link_sent with how many were taken. */
size_t tlc_link_output(tlc_link_t *link, uint32_t now_ms, const uint8_t **bytes);
void tlc_link_sent(tlc_link_t *link, size_t count);

/* The session's number; 0 while there is none. It changes when a host opens another. */
uint32_t tlc_link_session(const tlc_link_t *link);

/* Queues a message. FULL: no room now. STATE: no session. SIZE: more than the host takes. */
TLC_MUST_CHECK tlc_status_t tlc_link_send(tlc_link_t *link, tlc_stream_t stream, uint8_t type, const uint8_t *header,
                                          uint32_t header_bytes, const uint8_t *payload, uint32_t payload_bytes);
/* Messages that can be queued now. */
uint32_t tlc_link_room(const tlc_link_t *link);
/* Messages of the control and bulk streams, not yet wholly acknowledged, that point to a payload. */
uint32_t tlc_link_payloads(const tlc_link_t *link);
/* Messages of a stream not yet wholly acknowledged. */
uint32_t tlc_link_queued(const tlc_link_t *link, tlc_stream_t stream);

/* The next whole message, control before bulk, each stream in order. It stays until tlc_link_release,
 * which may be called again to no effect. */
bool tlc_link_next(tlc_link_t *link, tlc_link_message_t *message);
void tlc_link_release(tlc_link_t *link, const tlc_link_message_t *message);

/* The device begins (or has ended) work during which it may not call. Frames meanwhile tell the host, which then waits
 * for minutes; so does every frame sent while a whole message waits. `announce`: say so at once where the last frame
 * did not. */
void tlc_link_busy(tlc_link_t *link, bool busy, bool announce);

/* Ends the session and tells the host. */
void tlc_link_close(tlc_link_t *link);

#endif /* TLC_LINK_H */
