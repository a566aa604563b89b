// SPDX-License-Identifier: Apache-2.0
//
// lwIP's sockets are BSD sockets; here they are this machine's.
#ifndef TLC_SHIM_LWIP_SOCKETS_H
#define TLC_SHIM_LWIP_SOCKETS_H

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#endif // TLC_SHIM_LWIP_SOCKETS_H
