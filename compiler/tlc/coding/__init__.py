# SPDX-License-Identifier: Apache-2.0
"""Bit-level codecs: pure functions on arrays."""
