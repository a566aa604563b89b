/* SPDX-License-Identifier: Apache-2.0
 *
 * ilvq.h: incremental learning vector quantization (ILVQ): a classifier of a few labelled prototypes that learns sample
 * by sample, on any vector of floats: what a sensor gives, or what the network gives to tlc_app_result.
 *
 *     static uint32_t memory[TLC_ILVQ_WORDS(50, 3)];
 *     static tlc_ilvq_t head;
 *
 *     tlc_ilvq_config_t config;
 *     tlc_ilvq_defaults(&config, 50, 3);
 *     if (tlc_ilvq_open(&head, &config, memory, sizeof memory) != TLC_OK) {   what was kept from before, if anything
 *         status = tlc_ilvq_init(&head, &config, memory, sizeof memory);
 *     }
 *     status = tlc_ilvq_learn(&head, values, label);
 *     status = tlc_ilvq_classify(&head, values, &label);
 *
 * All that it knows is in `memory`, which the caller gives and may keep in flash or send, once it is sealed.
 *
 * Rules: Xu, Shen and Zhao, "An incremental learning vector quantization algorithm for pattern classification", Neural
 * Computing and Applications 21 (2012); docs/algorithms.md says which are ours. Distances are squared, summed in
 * float32 from the first element to the last, so compiler/tlc/ilvq.py gives the same bits.
 */
#ifndef TLC_ILVQ_H
#define TLC_ILVQ_H

#include <stdint.h>

#include "tlc/status.h"

#define TLC_ILVQ_HEADER_WORDS 5u /* "ILVQ", u16 capacity, u16 dim, count, samples, CRC-32 of the rest */
#define TLC_ILVQ_MOST 1e9f       /* values beyond +- this are refused: their squares' sums stay finite */
#define TLC_ILVQ_MOST_WINS 16777216u

/* Words of memory for so many prototypes of so many values. */
#define TLC_ILVQ_WORDS(capacity, dim)                                                                                  \
    (TLC_ILVQ_HEADER_WORDS + (uint32_t)(capacity) * (dim) + (uint32_t)(capacity) + ((uint32_t)(capacity) + 1u) / 2u +  \
     ((uint32_t)(capacity) * ((uint32_t)(capacity)-1u) / 2u + 3u) / 4u)

typedef struct {
    uint16_t dim;      /* values of a vector, 1 to 4096 */
    uint16_t capacity; /* most prototypes, 2 to 1024 */
    uint8_t age_limit; /* an edge older than this goes; 1 to 253; default 25 */
    uint16_t period;   /* samples between two removals of what is of no use; 0: never; default 300 */
    float prune;       /* with one neighbour and fewer wins than this part of the mean one goes; default 0.1 */
} tlc_ilvq_config_t;

typedef struct {
    tlc_ilvq_config_t config;
    uint32_t *header;
    float *vectors;   /* (capacity, dim) */
    uint32_t *wins;   /* (capacity): samples that each stands for */
    uint16_t *labels; /* (capacity) */
    uint8_t *ages;    /* edge a < b at b (b - 1) / 2 + a: 0 none, else its age + 1 */
} tlc_ilvq_t;

/* The defaults above. */
void tlc_ilvq_defaults(tlc_ilvq_config_t *config, uint16_t capacity, uint16_t dim);

/* A head that knows nothing. bytes: of memory, 4 * TLC_ILVQ_WORDS at least, else SIZE. ARG: a setting out of range. */
TLC_MUST_CHECK tlc_status_t tlc_ilvq_init(tlc_ilvq_t *head, const tlc_ilvq_config_t *config, uint32_t *memory,
                                          uint32_t bytes);

/* Goes on with memory that was sealed. STATE: it holds no head; SIZE: one of another size; CORRUPT: damaged. */
TLC_MUST_CHECK tlc_status_t tlc_ilvq_open(tlc_ilvq_t *head, const tlc_ilvq_config_t *config, uint32_t *memory,
                                          uint32_t bytes);

/* Writes the CRC that tlc_ilvq_open looks at; learning goes on as before, and makes it old. */
void tlc_ilvq_seal(tlc_ilvq_t *head);

/* Prototypes in use. */
uint32_t tlc_ilvq_count(const tlc_ilvq_t *head);

/* One labelled sample of dim values. NUMERIC: one is not finite, or beyond TLC_ILVQ_MOST; then nothing is learned.
 * FULL: a new class, and no two prototypes of one class that could make room for it. */
TLC_MUST_CHECK tlc_status_t tlc_ilvq_learn(tlc_ilvq_t *head, const float *x, uint16_t label);

/* The label of the nearest prototype. STATE: there is none; NUMERIC: as above. */
TLC_MUST_CHECK tlc_status_t tlc_ilvq_classify(const tlc_ilvq_t *head, const float *x, uint16_t *label);

/* Takes over the prototypes of another head, which may be larger or smaller. ARG: of another dim, or this one; FULL:
 * as above, and those before it are taken over. */
TLC_MUST_CHECK tlc_status_t tlc_ilvq_absorb(tlc_ilvq_t *head, const tlc_ilvq_t *other);

/* Divides the wins, of which one at least remains: after `parts` heads that share their past were merged. 0 is as 1. */
void tlc_ilvq_share(tlc_ilvq_t *head, uint32_t parts);

#endif /* TLC_ILVQ_H */
