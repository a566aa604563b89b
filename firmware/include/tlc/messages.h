/* SPDX-License-Identifier: Apache-2.0
 *
 * messages.h: what the host and the device say to each other over the link (PROTOCOL.md, section 9).
 *
 * Every message begins with the same 16 bytes. `request` is the asker's number; an answer repeats all four.
 * Offsets below count from the message's first byte; *_BYTES is where the payload begins.
 */
#ifndef TLC_MESSAGES_H
#define TLC_MESSAGES_H

#include <stdint.h>

#include "tlc/status.h"

#define TLC_MESSAGES_VERSION 1u
#define TLC_COMMON_BYTES 16u

typedef enum {
    TLC_MSG_HELLO = 0x10,       /* D>H control: who I am, what I hold */
    TLC_MSG_WELCOME = 0x11,     /* H>D control: same bundle; answered by DONE */
    TLC_MSG_REFUSE = 0x12,      /* H>D control: another bundle */
    TLC_MSG_FORWARD = 0x20,     /* H>D bulk: an input tensor; with RUN answered by SMASHED */
    TLC_MSG_SMASHED = 0x21,     /* D>H bulk: an output tensor */
    TLC_MSG_RESULT = 0x22,      /* H>D bulk: the host segment's output for the device's own sample */
    TLC_MSG_BACKWARD = 0x23,    /* H>D bulk: d loss / d output; answered by DONE */
    TLC_MSG_STEP = 0x24,        /* H>D control: apply the gradients; answered by DONE */
    TLC_MSG_GET_PARAMS = 0x25,  /* H>D control: answered by PARAMS */
    TLC_MSG_PARAMS = 0x26,      /* D>H bulk: bytes of the learned tensors */
    TLC_MSG_SET_PARAMS = 0x27,  /* H>D bulk: answered by DONE */
    TLC_MSG_GET_STATS = 0x28,   /* H>D control: answered by STATS or LAYERS */
    TLC_MSG_STATS = 0x29,       /* D>H bulk */
    TLC_MSG_LAYERS = 0x2A,      /* D>H bulk: ticks of each layer of the last forward pass, u32 */
    TLC_MSG_RESET_STATE = 0x2B, /* H>D control: learned tensors back to the values in flash, the journal too; DONE */
    TLC_MSG_DONE = 0x2C,        /* D>H control */
    TLC_MSG_ERROR = 0x2D,       /* D>H control: instead of the answer */
    TLC_MSG_LOG = 0x2E,         /* D>H log */
    TLC_MSG_TEST = 0x2F,        /* H>D bulk: bytes to be thrown away; D>H bulk: as many as were asked for */
    TLC_MSG_SAVE = 0x30,        /* H>D control: learned tensors into the journal; answered by DONE */
    TLC_MSG_JOURNAL = 0x31,     /* D>H bulk: what the journal holds */
    TLC_MSG_TRAIN = 0x32,       /* H>D bulk: a gradient or a label, and a step at once; answered by TRAINED */
    TLC_MSG_TRAINED = 0x33,     /* D>H control: the sample's loss */
    TLC_MSG_TAIL = 0x34,        /* H>D bulk: what the host's part made of the smashed data, for the part behind it */
    TLC_MSG_GRADIENT = 0x35,    /* D>H bulk: d loss / d what TAIL brought */
    TLC_MSG_EXIT = 0x36,        /* H>D control: how sure the head at the cut must be of own samples; answered by DONE */
    TLC_MSG_CUT = 0x37,         /* H>D control: where the device's part is to end from now on; answered by DONE */
} tlc_message_type_t;

typedef struct {
    uint32_t request; /* at 0 */
    uint32_t round;   /* at 4 */
    uint32_t step;    /* at 8 */
    uint32_t batch;   /* at 12 */
} tlc_common_t;

void tlc_common_put(uint8_t *at, const tlc_common_t *common);
tlc_common_t tlc_common_get(const uint8_t *at);

/* HELLO; the board's name follows */
#define TLC_HELLO_VERSION 16u      /* u16 TLC_MESSAGES_VERSION */
#define TLC_HELLO_RESET 18u        /* u8 tlc_reset_t */
#define TLC_HELLO_CAPABILITIES 20u /* u32 tlc_capability_t */
#define TLC_HELLO_BOOT 24u         /* u32 differs from boot to boot */
#define TLC_HELLO_TOKEN 28u        /* u32 of the last WELCOME since boot, 0: none */
#define TLC_HELLO_STEP 32u         /* u32 last step applied */
#define TLC_HELLO_SAMPLES 36u      /* u32 gradients accumulated since */
#define TLC_HELLO_FORWARD 40u      /* u32 request whose forward pass the arena holds, 0: none */
#define TLC_HELLO_BACKWARD 44u     /* u32 request whose gradient was accumulated last, 0: none */
#define TLC_HELLO_UPTIME 48u       /* u32 ms */
#define TLC_HELLO_PARAMS 52u       /* u32 bytes of the learned tensors */
#define TLC_HELLO_HASH 56u         /* 32 bytes */
#define TLC_HELLO_ID 88u           /* u64 the board's own number, e.g. its MAC address; 0: it has none */
#define TLC_HELLO_BYTES 96u
#define TLC_HELLO_MAX_NAME 24u

#define TLC_WELCOME_TOKEN 16u /* u32 not 0 */
#define TLC_WELCOME_HASH 20u  /* 32 bytes */
#define TLC_WELCOME_BYTES 52u

#define TLC_REFUSE_REASON 16u /* u8 tlc_status_t, then 3 bytes 0 */
#define TLC_REFUSE_HASH 20u   /* 32 bytes */
#define TLC_REFUSE_BYTES 52u

#define TLC_FORWARD_INDEX 16u /* u8 which input */
#define TLC_FORWARD_FLAGS 17u /* u8 tlc_forward_flag_t */
#define TLC_FORWARD_BOUND 18u /* u16 of EXIT: the largest probability, in 1/256, above which it is left; 0: always */
#define TLC_FORWARD_BYTES 20u

#define TLC_SMASHED_INDEX 16u /* u8 which output */
#define TLC_SMASHED_COUNT 17u /* u8 outputs in all */
#define TLC_SMASHED_FLAGS 18u /* u8 tlc_smashed_flag_t, then 1 byte 0 */
#define TLC_SMASHED_TICKS 20u /* u64 */
#define TLC_SMASHED_BYTES 28u

#define TLC_RESULT_COUNT 16u /* u32 float32 values that follow */
#define TLC_RESULT_BYTES 20u

#define TLC_BACKWARD_FORWARD 16u /* u32 the FORWARD's request */
#define TLC_BACKWARD_DTYPE 20u   /* u8 tlc_dtype_t: TLC_F32 or TLC_S8, then 3 bytes 0 */
#define TLC_BACKWARD_SCALE 24u   /* f32, for TLC_S8: real = scale * q */
#define TLC_BACKWARD_BYTES 28u

#define TLC_STEP_TOLD 16u  /* what a step is told: below */
#define TLC_STEP_FLAGS 40u /* u8 tlc_step_flag_t, then 3 bytes 0 */
#define TLC_STEP_BYTES 44u

#define TLC_TRAIN_FORWARD 16u /* u32 the FORWARD's request */
#define TLC_TRAIN_KIND 20u    /* u8 tlc_train_kind_t */
#define TLC_TRAIN_FLAGS 21u   /* u8 tlc_step_flag_t */
#define TLC_TRAIN_CLASS 22u   /* u16 a label beside a gradient */
#define TLC_TRAIN_VALUE 24u   /* u32 a label; or f32 the scale of an int8 gradient */
#define TLC_TRAIN_TOLD 28u    /* what a step is told */
#define TLC_TRAIN_BYTES 52u

/* What a step is told, from where STEP and TRAIN have it */
#define TLC_TOLD_RATE 0u          /* f32 */
#define TLC_TOLD_SEED 4u          /* u32 */
#define TLC_TOLD_MAX_NORM 8u      /* f32 bound on the norm of the mean gradient; 0: the device's own */
#define TLC_TOLD_MOMENTUM 12u     /* f32 */
#define TLC_TOLD_WEIGHT_DECAY 16u /* f32 */
#define TLC_TOLD_CLIP 20u         /* f32 longest mean gradient of a tensor; 0: any */

#define TLC_TRAINED_LOSS 16u      /* f32; 0 where a gradient was handed in */
#define TLC_TRAINED_PREDICTED 20u /* u16 the first largest of the outputs */
#define TLC_TRAINED_FLAGS 22u     /* u8 tlc_done_flag_t, then a byte 0 */
#define TLC_TRAINED_TICKS 24u     /* u64 */
#define TLC_TRAINED_BYTES 32u

#define TLC_TAIL_FORWARD 16u /* u32 the FORWARD's request */
#define TLC_TAIL_KIND 20u    /* u8 tlc_tail_kind_t, then 3 bytes 0 */
#define TLC_TAIL_VALUE 24u   /* u32 a label */
#define TLC_TAIL_BYTES 28u

#define TLC_GRADIENT_LOSS 16u  /* f32 */
#define TLC_GRADIENT_FLAGS 20u /* u8 tlc_gradient_flag_t, then 3 bytes 0 */
#define TLC_GRADIENT_TICKS 24u /* u64 of the second part's passes */
#define TLC_GRADIENT_BYTES 32u

#define TLC_EXIT_BOUND 16u /* u16 as of FORWARD, then 2 bytes 0 */
#define TLC_EXIT_BYTES 20u

#define TLC_CUT_INDEX 16u /* u8 which of the bundle's cuts, then 3 bytes 0 */
#define TLC_CUT_BYTES 20u

#define TLC_PARAMS_OFFSET 16u /* u32 bytes; GET_PARAMS, PARAMS and SET_PARAMS alike */
#define TLC_PARAMS_TOTAL 20u  /* u32 GET_PARAMS: bytes wanted, 0: all; else: bytes of all the tensors */
#define TLC_PARAMS_CODING 24u /* u8 tlc_params_coding_t, then 3 bytes 0 */
#define TLC_PARAMS_BYTES 28u

#define TLC_GET_STATS_WHAT 16u /* u32 0: STATS, 1: LAYERS, 2: JOURNAL */
#define TLC_GET_STATS_BYTES 20u

#define TLC_STATS_FORWARD 16u   /* u64 ticks of the last ... */
#define TLC_STATS_BACKWARD 24u  /* u64 */
#define TLC_STATS_UPDATE 32u    /* u64 */
#define TLC_STATS_ARENA 40u     /* u32 bytes */
#define TLC_STATS_STATE 44u     /* u32 bytes */
#define TLC_STATS_STACK 48u     /* u32 bytes, most ever used; 0: not measured */
#define TLC_STATS_UPTIME 52u    /* u32 ms */
#define TLC_STATS_STEP 56u      /* u32 */
#define TLC_STATS_SAMPLES 60u   /* u32 */
#define TLC_STATS_FORWARDS 64u  /* u32 forward passes since boot */
#define TLC_STATS_BACKWARDS 68u /* u32 */
#define TLC_STATS_LINK 72u      /* u32 * 9: tlc_link_counters_t in its order */
#define TLC_STATS_SAMPLED 108u  /* u32 samples of its own */
#define TLC_STATS_EXITED 112u   /* u32 of them answered by the head at the cut */
#define TLC_STATS_BYTES 116u

#define TLC_JOURNAL_SLOT 16u      /* u32 bytes of a slot; 0: nothing is kept */
#define TLC_JOURNAL_SEQUENCE 20u  /* u32 of the newest entry, whoever's; 0: none */
#define TLC_JOURNAL_STEP 24u      /* u32 of this bundle's newest entry */
#define TLC_JOURNAL_LENGTH 28u    /* u32 its bytes; 0: there is none */
#define TLC_JOURNAL_WEAR 32u      /* u32 * 2: erasures of each slot */
#define TLC_JOURNAL_SAVES 40u     /* u32 entries written since boot */
#define TLC_JOURNAL_ROLLBACKS 44u /* u32 times that training diverged since boot */
#define TLC_JOURNAL_STATUS 48u    /* u8 tlc_status_t of the last look at it: OK, STATE (empty), BUNDLE, CORRUPT */
#define TLC_JOURNAL_SLOTS 49u     /* u8 * 2: tlc_slot_t of each slot, then a byte 0 */
#define TLC_JOURNAL_BYTES 52u

#define TLC_DONE_OF 16u      /* u8 the request's message type */
#define TLC_DONE_FLAGS 17u   /* u8 tlc_done_flag_t, then 2 bytes 0 */
#define TLC_DONE_SAMPLES 20u /* u32 gradients accumulated */
#define TLC_DONE_TICKS 24u   /* u64 */
#define TLC_DONE_BYTES 32u

#define TLC_ERROR_OF 16u     /* u8 the request's message type */
#define TLC_ERROR_STATUS 17u /* u8 tlc_status_t, then 2 bytes 0; a sentence follows */
#define TLC_ERROR_BYTES 20u

#define TLC_LOG_LEVEL 16u /* u8 10 debug, 20 info, 30 warning, 40 error, then 3 bytes 0; the text follows */
#define TLC_LOG_BYTES 20u

#define TLC_TEST_COUNT 16u /* u32 bytes that the answer is to have; in the answer: bytes that follow */
#define TLC_TEST_BYTES 20u

typedef enum {
    TLC_CAN_TRAIN = 1,   /* BACKWARD, STEP, parameters */
    TLC_CAN_SAMPLE = 2,  /* it has samples of its own */
    TLC_CAN_PROFILE = 4, /* LAYERS */
    TLC_STANDALONE = 8,  /* the whole model is on the device */
    TLC_CAN_SAVE = 16,   /* what it learns can outlive a reset: SAVE */
    TLC_CAN_JUDGE = 32,  /* it computes the loss: TRAIN with a label */
    TLC_AT_ONCE = 64,    /* it updates while it goes back: TRAIN with a step, no BACKWARD and no STEP */
    TLC_CAN_TAIL = 128,  /* it goes on behind the host's part: TAIL */
    TLC_CAN_EXIT = 256,  /* it has a head at the cut: FORWARD with EXIT */
} tlc_capability_t;

typedef enum {
    TLC_RESET_UNKNOWN = 0,
    TLC_RESET_POWER = 1,
    TLC_RESET_PIN = 2,
    TLC_RESET_SOFTWARE = 3,
    TLC_RESET_WATCHDOG = 4,
    TLC_RESET_FAULT = 5,
    TLC_RESET_BROWNOUT = 6,
} tlc_reset_t;

typedef enum {
    TLC_FORWARD_RUN = 1,  /* the last input: run */
    TLC_FORWARD_KEEP = 2, /* a BACKWARD will follow: take no sample of your own until then */
    TLC_FORWARD_OWN = 4,  /* nothing follows: take a sample of your own, now */
    TLC_FORWARD_EXIT = 8, /* where the head at the cut is surer than the bound, its output is the answer */
} tlc_forward_flag_t;

typedef enum {
    TLC_SMASHED_SAMPLE = 1, /* of the device's own sample: `request` is the device's, RESULT is awaited */
    TLC_SMASHED_EXIT = 2,   /* the head's output, and nothing else of this pass */
} tlc_smashed_flag_t;

typedef enum {
    TLC_DONE_REPEATED = 1, /* it had been done before; nothing was done now */
    TLC_DONE_SAVED = 2,    /* an entry was written into the journal */
} tlc_done_flag_t;

typedef enum {
    TLC_STEP_SAVE = 1,  /* and then into the journal */
    TLC_STEP_APPLY = 2, /* of TRAIN: and then a step */
} tlc_step_flag_t;

typedef enum {
    TLC_TRAIN_F32 = 0,      /* float32 gradient follows, as in BACKWARD */
    TLC_TRAIN_S8 = 1,       /* int8 gradient */
    TLC_TRAIN_LABEL = 2,    /* nothing follows */
    TLC_TRAIN_VALUES = 3,   /* float32 values follow that output 0 should have had */
    TLC_TRAIN_BOTH_F32 = 4, /* of a head at the cut: its loss's gradient, and a float32 gradient of output 0 */
    TLC_TRAIN_BOTH_S8 = 5,  /* ... an int8 one */
} tlc_train_kind_t;

typedef enum {
    TLC_TAIL_OUTPUT = 0, /* answered by SMASHED: the network's output */
    TLC_TAIL_RESULT = 1, /* the output goes to the application; answered by DONE */
    TLC_TAIL_LABEL = 2,  /* learn from a label; answered by GRADIENT */
    TLC_TAIL_OWN = 3,    /* learn from the label that the device's own sample came with; answered by GRADIENT */
} tlc_tail_kind_t;

typedef enum {
    TLC_GRADIENT_RIGHT = 1,    /* the first largest of the outputs is the label's */
    TLC_GRADIENT_REPEATED = 2, /* it had been computed before */
} tlc_gradient_flag_t;

typedef enum {
    TLC_PARAMS_PLAIN = 0, /* as they lie in the state */
    TLC_PARAMS_DELTA = 1, /* all of them, as differences to the values in flash: PROTOCOL.md, section 9 */
} tlc_params_coding_t;

/* Bytes before the payload; TLC_COMMON_BYTES for a type not known. */
uint32_t tlc_message_header_bytes(uint8_t type);

#endif /* TLC_MESSAGES_H */
