# SPDX-License-Identifier: Apache-2.0
"""tlc_host: the daemon that owns the host segment and speaks with the devices."""
