# SPDX-License-Identifier: Apache-2.0
"""tlc: a compiler for machine learning that microcontrollers and servers share."""

__version__ = "0.1.0"
