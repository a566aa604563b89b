/* SPDX-License-Identifier: Apache-2.0
 *
 * ilvq.c: prototypes that come, move, merge and go. The order of every sum and of every choice is part of the
 * definition: compiler/tlc/ilvq.py does the same steps.
 */
#include "tlc/ilvq.h"

#include <float.h>
#include <stdbool.h>
#include <string.h>

#include "tlc/crc32.h"

#define MAGIC 0x51564C49u /* "ILVQ" */
#define PUSH 0.01f        /* how much less a neighbour moves than the winner */

enum { AT_MAGIC, AT_SIZES, AT_COUNT, AT_SAMPLES, AT_CRC };

static uint32_t sizes(const tlc_ilvq_config_t *config) { return (uint32_t)config->dim << 16 | config->capacity; }

void tlc_ilvq_defaults(tlc_ilvq_config_t *config, uint16_t capacity, uint16_t dim) {
    *config = (tlc_ilvq_config_t){.capacity = capacity, .dim = dim, .age_limit = 25, .period = 300, .prune = 0.1f};
}

static tlc_status_t attach(tlc_ilvq_t *head, const tlc_ilvq_config_t *config, uint32_t *memory, uint32_t bytes) {
    if (config->capacity < 2 || config->capacity > 1024 || config->dim < 1 || config->dim > 4096 ||
        config->age_limit < 1 || config->age_limit > 253 || !(config->prune >= 0.0f && config->prune <= 1.0f)) {
        return TLC_ERR_ARG;
    }
    if (bytes < 4u * TLC_ILVQ_WORDS(config->capacity, config->dim)) {
        return TLC_ERR_SIZE;
    }
    uint32_t *const wins = memory + TLC_ILVQ_HEADER_WORDS + (uint32_t)config->capacity * config->dim;
    uint32_t *const labels = wins + config->capacity;
    head->config = *config;
    head->header = memory;
    head->vectors = (float *)(void *)(memory + TLC_ILVQ_HEADER_WORDS);
    head->wins = wins;
    head->labels = (uint16_t *)(void *)labels;
    head->ages = (uint8_t *)(labels + (config->capacity + 1u) / 2u);
    return TLC_OK;
}

tlc_status_t tlc_ilvq_init(tlc_ilvq_t *head, const tlc_ilvq_config_t *config, uint32_t *memory, uint32_t bytes) {
    const tlc_status_t status = attach(head, config, memory, bytes);
    if (status == TLC_OK) {
        memset(memory, 0, 4u * TLC_ILVQ_WORDS(config->capacity, config->dim));
        memory[AT_MAGIC] = MAGIC;
        memory[AT_SIZES] = sizes(config);
    }
    return status;
}

static uint32_t checksum(const tlc_ilvq_t *head) {
    const uint32_t *const memory = head->header;
    const uint32_t words = TLC_ILVQ_WORDS(head->config.capacity, head->config.dim) - TLC_ILVQ_HEADER_WORDS;
    const uint32_t crc = tlc_crc32(0, (const uint8_t *)memory, 4u * AT_CRC);
    return tlc_crc32(crc, (const uint8_t *)(memory + TLC_ILVQ_HEADER_WORDS), 4u * words);
}

tlc_status_t tlc_ilvq_open(tlc_ilvq_t *head, const tlc_ilvq_config_t *config, uint32_t *memory, uint32_t bytes) {
    const tlc_status_t status = attach(head, config, memory, bytes);
    if (status != TLC_OK) {
        return status;
    }
    if (memory[AT_MAGIC] != MAGIC) {
        return TLC_ERR_STATE;
    }
    if (memory[AT_SIZES] != sizes(config)) {
        return TLC_ERR_SIZE;
    }
    return memory[AT_CRC] == checksum(head) && memory[AT_COUNT] <= config->capacity ? TLC_OK : TLC_ERR_CORRUPT;
}

void tlc_ilvq_seal(tlc_ilvq_t *head) { head->header[AT_CRC] = checksum(head); }

uint32_t tlc_ilvq_count(const tlc_ilvq_t *head) { return head->header[AT_COUNT]; }

static float *vector(const tlc_ilvq_t *head, uint32_t i) { return head->vectors + i * head->config.dim; }

static uint8_t *edge(const tlc_ilvq_t *head, uint32_t a, uint32_t b) {
    return head->ages + (a < b ? b * (b - 1u) / 2u + a : a * (a - 1u) / 2u + b);
}

static float distance(const float *a, const float *b, uint32_t dim) {
    float sum = 0.0f;
    for (uint32_t k = 0; k < dim; ++k) {
        const float apart = a[k] - b[k];
        sum += apart * apart;
    }
    return sum;
}

/* a += rate (b - a) */
static void move(float *a, const float *b, uint32_t dim, float rate) {
    for (uint32_t k = 0; k < dim; ++k) {
        a[k] += rate * (b[k] - a[k]);
    }
}

static void merge_into(tlc_ilvq_t *head, uint32_t i, const float *x, uint32_t wins) {
    const uint32_t sum = head->wins[i] + wins;
    move(vector(head, i), x, head->config.dim, (float)wins / (float)sum);
    head->wins[i] = sum < TLC_ILVQ_MOST_WINS ? sum : TLC_ILVQ_MOST_WINS;
}

/* The last one takes the place of the one that goes. */
static void drop(tlc_ilvq_t *head, uint32_t i) {
    const uint32_t last = --head->header[AT_COUNT];
    if (i != last) {
        memcpy(vector(head, i), vector(head, last), 4u * head->config.dim);
        head->wins[i] = head->wins[last];
        head->labels[i] = head->labels[last];
        for (uint32_t k = 0; k < last; ++k) {
            if (k != i) {
                *edge(head, i, k) = *edge(head, last, k);
            }
        }
    }
    for (uint32_t k = 0; k < last; ++k) {
        *edge(head, last, k) = 0;
    }
    memset(vector(head, last), 0, 4u * head->config.dim);
    head->wins[last] = 0;
    head->labels[last] = 0;
}

/* j becomes part of i < j, which keeps the younger of two edges. */
static void merge_pair(tlc_ilvq_t *head, uint32_t i, uint32_t j) {
    merge_into(head, i, vector(head, j), head->wins[j]);
    for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
        if (k != i && k != j) {
            const uint8_t theirs = *edge(head, j, k);
            uint8_t *const ours = edge(head, i, k);
            if (theirs != 0 && (*ours == 0 || theirs < *ours)) {
                *ours = theirs;
            }
        }
    }
    drop(head, j);
}

/* A new prototype. Where there is no room, the two nearest of one class become one: two that are there, or this one and
 * one that is there. With as many classes as prototypes there are no such two: FULL. */
static tlc_status_t place(tlc_ilvq_t *head, const float *x, uint16_t label, uint32_t wins) {
    const uint32_t dim = head->config.dim, count = head->header[AT_COUNT];
    if (count == head->config.capacity) {
        float least = FLT_MAX;
        uint32_t one = count, other = count;
        for (uint32_t i = 0; i < count; ++i) {
            if (head->labels[i] == label) {
                const float apart = distance(vector(head, i), x, dim);
                if (apart < least) {
                    least = apart;
                    one = i;
                }
            }
        }
        for (uint32_t j = 1; j < count; ++j) {
            for (uint32_t i = 0; i < j; ++i) {
                if (head->labels[i] == head->labels[j]) {
                    const float apart = distance(vector(head, i), vector(head, j), dim);
                    if (apart < least) {
                        least = apart;
                        one = i;
                        other = j;
                    }
                }
            }
        }
        if (one == count) {
            return TLC_ERR_FULL;
        }
        if (other == count) {
            merge_into(head, one, x, wins);
            return TLC_OK;
        }
        merge_pair(head, one, other);
    }
    const uint32_t i = head->header[AT_COUNT]++;
    memcpy(vector(head, i), x, 4u * dim);
    head->wins[i] = wins;
    head->labels[i] = label;
    return TLC_OK;
}

/* How far from prototype i a sample may lie and still belong to it: the distance to the nearest of other classes that
 * is not below the mean distance to neighbours of its own. */
static float threshold(const tlc_ilvq_t *head, uint32_t i) {
    const uint32_t dim = head->config.dim, count = head->header[AT_COUNT];
    float sum = 0.0f, between = FLT_MAX;
    uint32_t neighbours = 0;
    for (uint32_t k = 0; k < count; ++k) {
        if (k != i && head->labels[k] == head->labels[i] && *edge(head, i, k) != 0) {
            sum += distance(vector(head, k), vector(head, i), dim);
            ++neighbours;
        }
    }
    const float within = neighbours ? sum / (float)neighbours : 0.0f;
    for (uint32_t k = 0; k < count; ++k) {
        if (head->labels[k] != head->labels[i]) {
            const float apart = distance(vector(head, k), vector(head, i), dim);
            if (apart >= within && apart < between) {
                between = apart;
            }
        }
    }
    return between == FLT_MAX && neighbours ? within : between;
}

static uint32_t of_class(const tlc_ilvq_t *head, uint16_t label) {
    uint32_t found = 0;
    for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
        found += head->labels[k] == label;
    }
    return found;
}

/* What is of no use goes, from the last to the first: alone and with fewer wins than half the mean, or with one
 * neighbour and fewer than config.prune of it; never the last of a class. */
static void remove_useless(tlc_ilvq_t *head) {
    float sum = 0.0f;
    for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
        sum += (float)head->wins[k];
    }
    const float mean = sum / (float)head->header[AT_COUNT];
    for (uint32_t i = head->header[AT_COUNT]; i-- > 0;) {
        uint32_t neighbours = 0;
        for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
            neighbours += k != i && *edge(head, i, k) != 0;
        }
        const float least = neighbours == 0 ? 0.5f * mean : neighbours == 1 ? head->config.prune * mean : 0.0f;
        if ((float)head->wins[i] < least && of_class(head, head->labels[i]) > 1) {
            drop(head, i);
        }
    }
}

static bool sound(const tlc_ilvq_t *head, const float *x) {
    for (uint32_t k = 0; k < head->config.dim; ++k) {
        if (!(x[k] >= -TLC_ILVQ_MOST && x[k] <= TLC_ILVQ_MOST)) {
            return false;
        }
    }
    return true;
}

typedef struct {
    uint32_t first, second; /* of equal ones the lower index; count where there is none */
    float to_first, to_second;
} nearest_t;

static nearest_t nearest(const tlc_ilvq_t *head, const float *x) {
    const uint32_t count = head->header[AT_COUNT];
    nearest_t found = {count, count, FLT_MAX, FLT_MAX};
    for (uint32_t i = 0; i < count; ++i) {
        const float apart = distance(vector(head, i), x, head->config.dim);
        if (apart < found.to_first) {
            found = (nearest_t){i, found.first, apart, found.to_first};
        } else if (apart < found.to_second) {
            found.second = i;
            found.to_second = apart;
        }
    }
    return found;
}

/* The winner's edges grow older, that to the runner-up is new; the winner goes to the sample, or away from it. */
static void adapt(tlc_ilvq_t *head, const float *x, uint16_t label, const nearest_t *near) {
    const uint32_t dim = head->config.dim, winner = near->first;
    for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
        if (k != winner) {
            uint8_t *const age = edge(head, winner, k);
            *age = k == near->second ? 1u : *age == 0 || *age > head->config.age_limit ? 0u : (uint8_t)(*age + 1u);
        }
    }
    if (head->wins[winner] < TLC_ILVQ_MOST_WINS) {
        ++head->wins[winner];
    }
    const float rate = 1.0f / (float)head->wins[winner];
    move(vector(head, winner), x, dim, head->labels[winner] == label ? rate : -rate);
    for (uint32_t k = 0; k < head->header[AT_COUNT]; ++k) {
        if (k != winner && head->labels[k] != label && *edge(head, winner, k) != 0) {
            move(vector(head, k), x, dim, -(rate * PUSH));
        }
    }
}

tlc_status_t tlc_ilvq_learn(tlc_ilvq_t *head, const float *x, uint16_t label) {
    if (!sound(head, x)) {
        return TLC_ERR_NUMERIC;
    }
    ++head->header[AT_SAMPLES];
    tlc_status_t status = TLC_OK;
    const nearest_t near = nearest(head, x);
    if (near.second == head->header[AT_COUNT] || of_class(head, label) == 0 ||
        near.to_first > threshold(head, near.first) || near.to_second > threshold(head, near.second)) {
        status = place(head, x, label, 1);
    } else {
        adapt(head, x, label, &near);
    }
    if (head->config.period && head->header[AT_SAMPLES] % head->config.period == 0) {
        remove_useless(head);
    }
    return status;
}

tlc_status_t tlc_ilvq_classify(const tlc_ilvq_t *head, const float *x, uint16_t *label) {
    if (!sound(head, x)) {
        return TLC_ERR_NUMERIC;
    }
    const nearest_t near = nearest(head, x);
    if (near.first == head->header[AT_COUNT]) {
        return TLC_ERR_STATE;
    }
    *label = head->labels[near.first];
    return TLC_OK;
}

tlc_status_t tlc_ilvq_absorb(tlc_ilvq_t *head, const tlc_ilvq_t *other) {
    if (other->config.dim != head->config.dim || other->header == head->header) {
        return TLC_ERR_ARG;
    }
    for (uint32_t i = 0; i < other->header[AT_COUNT]; ++i) {
        const tlc_status_t status = place(head, vector(other, i), other->labels[i], other->wins[i]);
        if (status != TLC_OK) {
            return status;
        }
    }
    head->header[AT_SAMPLES] += other->header[AT_SAMPLES];
    return TLC_OK;
}

void tlc_ilvq_share(tlc_ilvq_t *head, uint32_t parts) {
    for (uint32_t i = 0; parts > 1 && i < head->header[AT_COUNT]; ++i) {
        const uint32_t wins = head->wins[i] / parts;
        head->wins[i] = wins ? wins : 1u;
    }
}
