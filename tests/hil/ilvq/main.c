/* SPDX-License-Identifier: Apache-2.0
 *
 * An ILVQ head that the host teaches: it sends 16 bytes (3 floats, u16 label, u16 what), little endian. 0: learn, 1:
 * classify; answered with the status and u16 label. 2: answered with the sealed memory.
 */
#include <string.h>

#include "tlc/board.h"
#include "tlc/ilvq.h"

typedef struct {
    const tlc_port_t *port;
    tlc_ilvq_t head;
    uint32_t have;
    uint32_t memory[TLC_ILVQ_WORDS(12, 3)];
    uint8_t record[16];
} pupil_t;

static void send(const pupil_t *pupil, const void *from, uint32_t count) {
    const uint8_t *bytes = from;
    while (count > 0) {
        const size_t sent = pupil->port->write(pupil->port->self, bytes, count);
        bytes += sent;
        count -= (uint32_t)sent;
    }
}

static bool start(void *app, const tlc_port_t *port) {
    pupil_t *pupil = app;
    pupil->port = port;
    pupil->have = 0;
    tlc_ilvq_config_t config;
    tlc_ilvq_defaults(&config, 12, 3);
    config.period = 40;
    return tlc_ilvq_init(&pupil->head, &config, pupil->memory, sizeof pupil->memory) == TLC_OK;
}

static void poll(void *app) {
    pupil_t *pupil = app;
    pupil->have +=
        (uint32_t)pupil->port->read(pupil->port->self, pupil->record + pupil->have, sizeof pupil->record - pupil->have);
    if (pupil->have < sizeof pupil->record) {
        return;
    }
    pupil->have = 0;
    float x[3];
    uint16_t label, what;
    memcpy(x, pupil->record, sizeof x);
    memcpy(&label, pupil->record + 12, sizeof label);
    memcpy(&what, pupil->record + 14, sizeof what);
    if (what == 2) {
        tlc_ilvq_seal(&pupil->head);
        send(pupil, pupil->memory, sizeof pupil->memory);
        return;
    }
    const tlc_status_t status =
        what == 1 ? tlc_ilvq_classify(&pupil->head, x, &label) : tlc_ilvq_learn(&pupil->head, x, label);
    const uint8_t answer[3] = {(uint8_t)status, (uint8_t)label, (uint8_t)(label >> 8)};
    send(pupil, answer, sizeof answer);
}

int main(int argc, char **argv) {
    static pupil_t pupil;
    return tlc_board_run(argc, argv, &(tlc_board_app_t){.start = start, .poll = poll, .app = &pupil});
}
