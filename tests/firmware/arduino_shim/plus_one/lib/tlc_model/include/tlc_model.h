/* SPDX-License-Identifier: Apache-2.0
 *
 * A model of one layer, y = x + 1 in units of the last place, in the shape of a generated one.
 */
#ifndef TLC_MODEL_GENERATED_H
#define TLC_MODEL_GENERATED_H

#include "tlc/model.h"

#ifndef TLC_MODEL_ARENA_BYTES
#define TLC_MODEL_ARENA_BYTES 2048u
#endif
#define TLC_MODEL_STATE_BYTES 0u
#define TLC_MODEL_LAYERS 1u
#define TLC_MODEL_INPUT0_ELEMENTS 1000u
#define TLC_MODEL_OUTPUT0_ELEMENTS 1000u

extern const tlc_model_t tlc_model;

#endif /* TLC_MODEL_GENERATED_H */
