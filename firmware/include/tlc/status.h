/* SPDX-License-Identifier: Apache-2.0
 *
 * status.h: what every function that can fail returns.
 */
#ifndef TLC_STATUS_H
#define TLC_STATUS_H

typedef enum {
    TLC_OK = 0,          /* done */
    TLC_ERR_ARG = 1,     /* an argument is outside its documented range */
    TLC_ERR_STATE = 2,   /* not allowed now (backward before forward, step twice) */
    TLC_ERR_SIZE = 3,    /* a buffer or a message has another size than the bundle says */
    TLC_ERR_CORRUPT = 4, /* a checksum or a coded stream does not hold */
    TLC_ERR_VERSION = 5, /* the peer speaks another protocol version */
    TLC_ERR_BUNDLE = 6,  /* the peer holds another bundle */
    TLC_ERR_NUMERIC = 7, /* NaN or infinity where a number was needed */
    TLC_ERR_FULL = 8,    /* no room now; nothing was taken, try again later */
} tlc_status_t;

#if defined(__GNUC__)
#define TLC_MUST_CHECK __attribute__((warn_unused_result))
#else
#define TLC_MUST_CHECK
#endif

#endif /* TLC_STATUS_H */
