# SPDX-License-Identifier: Apache-2.0
"""Hardware in the loop: scenarios that a project's true firmware must go through, emulated or on a board (``tlc hil``)."""
