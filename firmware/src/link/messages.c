/* SPDX-License-Identifier: Apache-2.0 */
#include "tlc/messages.h"

#include "tlc/bytes.h"

void tlc_common_put(uint8_t *at, const tlc_common_t *common) {
    tlc_put_u32(at, common->request);
    tlc_put_u32(at + 4, common->round);
    tlc_put_u32(at + 8, common->step);
    tlc_put_u32(at + 12, common->batch);
}

tlc_common_t tlc_common_get(const uint8_t *at) {
    const tlc_common_t common = {tlc_get_u32(at), tlc_get_u32(at + 4), tlc_get_u32(at + 8), tlc_get_u32(at + 12)};
    return common;
}

uint32_t tlc_message_header_bytes(uint8_t type) {
    switch (type) {
    case TLC_MSG_HELLO:
        return TLC_HELLO_BYTES;
    case TLC_MSG_WELCOME:
        return TLC_WELCOME_BYTES;
    case TLC_MSG_REFUSE:
        return TLC_REFUSE_BYTES;
    case TLC_MSG_FORWARD:
        return TLC_FORWARD_BYTES;
    case TLC_MSG_SMASHED:
        return TLC_SMASHED_BYTES;
    case TLC_MSG_RESULT:
        return TLC_RESULT_BYTES;
    case TLC_MSG_BACKWARD:
        return TLC_BACKWARD_BYTES;
    case TLC_MSG_STEP:
        return TLC_STEP_BYTES;
    case TLC_MSG_TRAIN:
        return TLC_TRAIN_BYTES;
    case TLC_MSG_TRAINED:
        return TLC_TRAINED_BYTES;
    case TLC_MSG_TAIL:
        return TLC_TAIL_BYTES;
    case TLC_MSG_GRADIENT:
        return TLC_GRADIENT_BYTES;
    case TLC_MSG_EXIT:
        return TLC_EXIT_BYTES;
    case TLC_MSG_CUT:
        return TLC_CUT_BYTES;
    case TLC_MSG_GET_PARAMS:
    case TLC_MSG_PARAMS:
    case TLC_MSG_SET_PARAMS:
        return TLC_PARAMS_BYTES;
    case TLC_MSG_GET_STATS:
        return TLC_GET_STATS_BYTES;
    case TLC_MSG_STATS:
        return TLC_STATS_BYTES;
    case TLC_MSG_JOURNAL:
        return TLC_JOURNAL_BYTES;
    case TLC_MSG_DONE:
        return TLC_DONE_BYTES;
    case TLC_MSG_ERROR:
        return TLC_ERROR_BYTES;
    case TLC_MSG_LOG:
        return TLC_LOG_BYTES;
    case TLC_MSG_TEST:
        return TLC_TEST_BYTES;
    default:
        return TLC_COMMON_BYTES;
    }
}
