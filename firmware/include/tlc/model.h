/* SPDX-License-Identifier: Apache-2.0
 *
 * model.h: a compiled model and one instance of it. The generated code defines one constant
 * `tlc_model_t`; a `tlc_ctx_t` is an instance, over memory that the caller provides.
 */
#ifndef TLC_MODEL_H
#define TLC_MODEL_H

#include <stdint.h>

#include "tlc/status.h"

#define TLC_MAX_RANK 5
#define TLC_HASH_BYTES 32

typedef enum {
    TLC_F32 = 0,
    TLC_S8 = 1,
    TLC_S32 = 2,
    TLC_S16 = 3, /* of a gradient in integers: tlc_grad_t of train_int.h */
} tlc_dtype_t;

/* A tensor at the edge of the device segment. real = scale * (q - zero_point). */
typedef struct {
    const char *name;
    uint32_t offset;   /* bytes from the start of the arena */
    uint32_t elements; /* without the batch axis, which is 1 */
    float scale;
    int32_t zero_point;
    uint32_t shape[TLC_MAX_RANK];
    uint8_t rank;
    uint8_t dtype; /* tlc_dtype_t */
} tlc_tensor_t;

/* A tensor that learns; it lives in the state block. */
typedef struct {
    const char *name;
    uint32_t offset;      /* bytes from the start of the state */
    uint32_t elements;    /* of `dtype` */
    uint8_t dtype;        /* TLC_S8: weights, TLC_S32: biases (true ones: the zero point is not folded in) */
    uint32_t accumulator; /* bytes from the start of the state: (elements) float32, the sum of the gradients since the
                             last update; TLC_NO_ACCUMULATOR: updates are interleaved, there is none */
    const void *initial;  /* (elements) of `dtype`: the values in flash; NULL: zeros */
} tlc_param_t;

#define TLC_NO_ACCUMULATOR 0xFFFFFFFFu

/* What one optimizer step is told. */
typedef struct {
    float learning_rate;
    uint32_t step; /* counts from 1; seeds the stochastic rounding together with `seed` */
    uint32_t seed;
    float momentum;     /* of the velocities, where the model keeps them */
    float weight_decay; /* of weights, not of biases; 0: none */
    float clip;         /* longest mean gradient of a tensor, to which longer ones are scaled down; 0: any */
    float max_norm; /* where updates are interleaved: bound on the norm of the sample's gradient; 0: any finite one */
} tlc_step_t;

/* ---- how a device learns from its own labels ---- */

typedef enum {
    TLC_SCHEDULE_CONSTANT = 0,
    TLC_SCHEDULE_STEP = 1,   /* times `factor` after every `every` steps */
    TLC_SCHEDULE_COSINE = 2, /* down to `factor` times the rate over `every` steps, along half a cosine */
} tlc_schedule_kind_t;

typedef struct {
    uint8_t kind;     /* tlc_schedule_kind_t */
    uint32_t warm_up; /* steps over which the rate first rises from 0, linearly */
    uint32_t every;
    float factor;
} tlc_schedule_t;

typedef struct {
    tlc_step_t step; /* learning_rate: the schedule's highest; `step` is counted by the device */
    tlc_schedule_t schedule;
    uint32_t batch; /* samples in a step, where updates are not interleaved */
} tlc_learning_t;

/* What a sample's output should have been. */
typedef struct {
    uint32_t label;      /* the class */
    const float *values; /* of a mean squared error: as many as the output has; NULL: the label counts */
} tlc_target_t;

/* What a loss says of it. */
typedef struct {
    float loss;
    uint32_t predicted; /* the first largest of the outputs */
} tlc_verdict_t;

typedef struct tlc_ctx tlc_ctx_t;

/* The second part of a U-shaped device segment: what follows the host's part. */
typedef struct {
    const tlc_tensor_t *input;    /* what the host's part ends with; it lies where it stays until `gradient` was sent */
    const tlc_tensor_t *output;   /* the network's */
    const tlc_tensor_t *gradient; /* float32, d loss / d input; NULL for a frozen model */
    /* Needs the arena as `forward` left it, and the input. May be done again. */
    TLC_MUST_CHECK tlc_status_t (*tail_forward)(tlc_ctx_t *ctx);
    /* After it and the model's loss: adds this sample's gradient to the accumulators and writes `gradient`. The model's
     * backward is then to follow. */
    TLC_MUST_CHECK tlc_status_t (*tail_backward)(tlc_ctx_t *ctx);
} tlc_tail_t;

/* A head at the cut: a classifier of output 0 on the device. */
typedef struct {
    const tlc_tensor_t *output;   /* probabilities: scale 1 / 256, zero point -128 */
    const tlc_tensor_t *gradient; /* float32 or S16, d loss / d its logits, where the model's loss writes; NULL for a
                                     frozen model. The backward pass begins with it and with the model's gradient */
} tlc_aux_t;

/* What the arena of a model with a tail holds: tlc_ctx_t.has_forward. */
#define TLC_HAS_HEAD 1u          /* the first part's pass */
#define TLC_HAS_TAIL 2u          /* and the second one's */
#define TLC_HAS_TAIL_GRADIENT 3u /* and what came of the second backward pass */

typedef struct tlc_model {
    const char *name;
    uint8_t bundle_hash[TLC_HASH_BYTES];
    uint32_t arena_bytes;  /* activations, gradients and scratch; contents do not outlive a call pair */
    uint32_t state_bytes;  /* learned tensors, what is derived from them, accumulators, the optimizer's memory; 0 for a
                              frozen model */
    uint32_t param_bytes;  /* the leading part of the state that `params` describe */
    uint32_t memory_bytes; /* its last part: the optimizer's memory; 0: it has none */
    uint16_t layer_count;
    uint8_t input_count;
    uint8_t output_count;
    uint8_t param_count;
    uint8_t has_velocities;         /* it can learn with momentum */
    uint8_t cut;                    /* which of `cuts` this is */
    uint8_t cut_count;              /* 0: the bundle has this one */
    const char *const *layer_names; /* (layer_count) */
    const tlc_tensor_t *inputs;     /* (input_count) */
    const tlc_tensor_t *outputs;    /* (output_count); outputs[0] is the smashed tensor of a split model */
    const tlc_tensor_t *gradient; /* float32 or S16, d loss / d outputs[0] as reals; with a loss that has the softmax in
                                     it, of its logits; NULL for a frozen model */
    const tlc_param_t *params;    /* (param_count) */
    void (*init)(tlc_ctx_t *ctx); /* state <- the values in flash; NULL for a frozen model */
    /* Recomputes what is derived from the learned tensors, and clears the optimizer's memory (velocities, residuals);
     * call it after writing to them. NULL for a frozen model. */
    void (*refresh)(tlc_ctx_t *ctx);
    TLC_MUST_CHECK tlc_status_t (*forward)(tlc_ctx_t *ctx);
    /* Writes the gradient of the sample in the arena at `gradient->offset`, from what it should have been. NULL: the
     * model has no loss, its gradient is handed in. ARG: no such class; NUMERIC: the loss is not finite. */
    TLC_MUST_CHECK tlc_status_t (*loss)(tlc_ctx_t *ctx, const tlc_target_t *target, tlc_verdict_t *verdict);
    /* Adds this sample's gradient to the accumulators. Needs the arena as forward left it,
     * and the gradient written at `gradient->offset`. NULL for a frozen model.
     * Where updates are interleaved each tensor is updated on the way, by *step, and the gradients are forgotten;
     * NUMERIC: they are not finite or above the bound, and the tensors half updated. Else `step` is not looked at. */
    TLC_MUST_CHECK tlc_status_t (*backward)(tlc_ctx_t *ctx, const tlc_step_t *step);
    /* Applies the accumulated gradient, divided by the samples in it, and clears it. NULL where updates are
     * interleaved, and for a frozen model. Where there are `cuts`, step NULL: only clears it. */
    TLC_MUST_CHECK tlc_status_t (*update)(tlc_ctx_t *ctx, const tlc_step_t *step);
    const tlc_tail_t *tail; /* NULL: all that the device computes comes before the host's part */
    const tlc_aux_t *aux;   /* NULL: there is no head at the cut */
    /* (cut_count) the same network ended at other tensors, the shallowest first. All of them share inputs, params and
     * one arena and one state of the same size; a context may go from one to another between passes. NULL: none. */
    const struct tlc_model *const *cuts;
} tlc_model_t;

struct tlc_ctx {
    const tlc_model_t *model;
    uint8_t *arena; /* (model->arena_bytes), 16-byte aligned */
    uint8_t *state; /* (model->state_bytes), 16-byte aligned; NULL for a frozen model */
    /* Called after each layer of forward with its index; NULL: none. For watchdogs and profiles. */
    void (*on_layer)(void *arg, uint16_t layer);
    void *on_layer_arg;
    uint32_t samples;    /* gradients accumulated since the last update */
    uint8_t has_forward; /* the arena holds a forward pass that backward may use */
};

/* Binds an instance to its memory and loads the values from flash. */
TLC_MUST_CHECK tlc_status_t tlc_ctx_init(tlc_ctx_t *ctx, const tlc_model_t *model, uint8_t *arena, uint8_t *state);

#endif /* TLC_MODEL_H */
