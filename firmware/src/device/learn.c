/* SPDX-License-Identifier: Apache-2.0
 *
 * learn.c: from a gradient in its place to a step, for the host's lessons as for samples of the device's own.
 */
#include "device_internal.h"

static const char BAD_GRADIENT[] = "the gradient is not finite, or its norm is above the bound";
static const char AT_THE_END[] = "too many weights reach the end of their range";

tlc_status_t tlc_device_go_back(tlc_device_t *device, const tlc_step_t *step, const char **how) {
    const tlc_model_t *model = device->config.model;
    const uint32_t began = tlc_device_begin_work(device);
    const uint64_t start = tlc_device_ticks(device);
    tlc_status_t status = model->backward(&device->ctx, step);
    *how = BAD_GRADIENT;
    if (status == TLC_OK && !model->update && device->config.keeper) {
        *how = AT_THE_END;
        status = device->config.keeper->check_weights(&device->ctx, device->config.max_saturated);
    }
    device->backward_ticks = tlc_device_ticks(device) - start;
    tlc_device_end_work(device, began);
    device->keep = false;
    device->ctx.has_forward = 0;
    device->backwards += status == TLC_OK ? 1u : 0u;
    return status;
}

tlc_status_t tlc_device_apply(tlc_device_t *device, const tlc_step_t *step, const char **how) {
    const tlc_keeper_t *keeper = device->config.keeper;
    const uint32_t began = tlc_device_begin_work(device);
    const uint64_t start = tlc_device_ticks(device);
    tlc_status_t status = keeper ? keeper->check_gradient(&device->ctx, step->max_norm) : TLC_OK;
    *how = BAD_GRADIENT;
    if (status == TLC_OK) {
        status = device->config.model->update(&device->ctx, step);
    }
    if (keeper && status == TLC_OK) {
        *how = AT_THE_END;
        status = keeper->check_weights(&device->ctx, device->config.max_saturated);
    }
    device->update_ticks = tlc_device_ticks(device) - start;
    tlc_device_end_work(device, began);
    return status;
}

uint8_t tlc_device_stepped(tlc_device_t *device, uint32_t step, bool wanted) {
    const uint32_t every = device->config.save_every;
    device->step = step;
    if (!wanted && !(every && step % every == 0)) {
        return 0;
    }
    tlc_status_t status;
    const uint8_t flags = tlc_device_save(device, &status);
    if (status != TLC_OK) {
        (void)tlc_device_log(device, 30, tlc_device_why_not_saved(status));
    }
    return flags;
}

void tlc_device_learn_alone(tlc_device_t *device, const tlc_target_t *target) {
    const tlc_device_config_t *config = &device->config;
    const tlc_model_t *model = config->model;
    const tlc_learning_t *own = config->learning;
    if (!own || !model->loss || !config->keeper) {
        return;
    }
    if (!device->ctx.has_forward) {
        (void)tlc_device_log(device, 40, "no learning from own samples: their results took the arena (config.values)");
        return;
    }
    tlc_status_t status = model->loss(&device->ctx, target, &device->verdict);
    if (status != TLC_OK) {
        (void)tlc_device_log(device, 30,
                             status == TLC_ERR_ARG ? "a sample's label is no class: not learned from"
                                                   : "a sample's loss is not finite: not learned from");
        return;
    }
    tlc_step_t step = own->step;
    step.step = device->step + 1u;
    step.learning_rate = config->keeper->rate(&own->schedule, step.learning_rate, step.step);
    step.max_norm = step.max_norm > 0.0f ? step.max_norm : config->max_gradient;
    const char *how;
    status = tlc_device_go_back(device, &step, &how);
    if (status == TLC_OK && model->update) {
        if (device->ctx.samples < own->batch) {
            return;
        }
        status = tlc_device_apply(device, &step, &how);
    }
    if (status == TLC_ERR_NUMERIC) {
        tlc_device_diverged(device);
    } else if (status == TLC_OK) {
        (void)tlc_device_stepped(device, step.step, false);
    }
}
