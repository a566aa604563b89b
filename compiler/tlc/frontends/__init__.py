# SPDX-License-Identifier: Apache-2.0
"""A model file becomes a :class:`~tlc.graph.Graph`. The only code that knows a file format's operators."""
