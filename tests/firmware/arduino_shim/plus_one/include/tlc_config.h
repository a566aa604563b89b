/* SPDX-License-Identifier: Apache-2.0 */
#ifndef TLC_CONFIG_H
#define TLC_CONFIG_H

#define TLC_BOARD "shim"
#define TLC_STANDALONE true

#endif /* TLC_CONFIG_H */
