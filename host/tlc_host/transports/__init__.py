# SPDX-License-Identifier: Apache-2.0
"""Ways for bytes to and from a device. All are a ``Transport``; ``open_transport`` makes one from a device's name."""

from tlc_host.transports.base import Transport, open_transport

__all__ = ["Transport", "open_transport"]
