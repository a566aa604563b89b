# SPDX-License-Identifier: Apache-2.0
"""The commands of the command line, one a file. What they need they import when they run."""
