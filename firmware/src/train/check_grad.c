/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "tlc/train.h"

tlc_status_t tlc_check_grad_f32(const float *grad, uint32_t elements, float max_norm, float *squares) {
    for (uint32_t i = 0; i < elements; ++i) {
        uint32_t bits;
        memcpy(&bits, &grad[i], sizeof bits);
        if ((bits & 0x7F800000u) == 0x7F800000u) {
            return TLC_ERR_NUMERIC;
        }
        if (max_norm > 0.0f) { /* floats are dear where there is no FPU */
            *squares += grad[i] * grad[i];
        }
    }
    return max_norm > 0.0f && !(*squares <= max_norm * max_norm) ? TLC_ERR_NUMERIC : TLC_OK;
}
