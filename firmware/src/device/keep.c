/* SPDX-License-Identifier: Apache-2.0
 *
 * keep.c: what outlives a reset, SAVE and RESET_STATE; and the way back when training diverges.
 */
#include "device_internal.h"

/* The values in flash; gradients since are forgotten. */
static void start_over(tlc_device_t *device) {
    const tlc_model_t *model = device->config.model;
    if (model->init) {
        model->init(&device->ctx);
    }
    device->ctx.samples = 0;
    device->ctx.has_forward = 0;
    device->step = 0;
    device->params_at = model->param_bytes;
}

uint8_t tlc_device_save(tlc_device_t *device, tlc_status_t *status) {
    const uint32_t saves = device->journal.saves;
    const uint32_t began = tlc_device_begin_work(device);
    *status = device->journal.storage
                  ? device->config.keeper->journal_save(&device->journal, &device->ctx, device->step)
                  : TLC_ERR_STATE;
    tlc_device_end_work(device, began);
    return device->journal.saves != saves ? (uint8_t)TLC_DONE_SAVED : 0u;
}

const char *tlc_device_why_not_saved(tlc_status_t status) {
    return status == TLC_ERR_STATE  ? "this device has no flash to keep what it learns"
           : status == TLC_ERR_SIZE ? "what was learned takes more than a slot of the journal has"
                                    : "the journal's flash does not hold what is written";
}

void tlc_device_take_save(tlc_device_t *device) {
    tlc_status_t status;
    const uint8_t flags = tlc_device_save(device, &status);
    if (status != TLC_OK) {
        tlc_device_say_error(device, status, tlc_device_why_not_saved(status));
        return;
    }
    tlc_device_say_done(device, flags ? flags : (uint8_t)TLC_DONE_REPEATED, 0);
}

void tlc_device_diverged(tlc_device_t *device) {
    device->rollbacks++;
    start_over(device);
    if (device->journal.storage) {
        (void)!device->config.keeper->journal_load(&device->journal, &device->ctx, &device->step);
    }
    (void)tlc_device_log(device, 40,
                         device->step ? "training diverged: back to the journal's last entry"
                                      : "training diverged: back to the values in flash");
}

void tlc_device_take_reset_state(tlc_device_t *device) {
    tlc_status_t status = TLC_OK;
    if (device->journal.storage) {
        const uint32_t began = tlc_device_begin_work(device);
        status = device->config.keeper->journal_clear(&device->journal);
        tlc_device_end_work(device, began);
    }
    start_over(device);
    device->backward = 0;
    if (status != TLC_OK) {
        tlc_device_say_error(device, status,
                             "the journal cannot be erased: what was learned will be back after a reset");
        return;
    }
    tlc_device_say_done(device, 0, 0);
}
