# SPDX-License-Identifier: Apache-2.0
"""The graph as a trainable TensorFlow module."""
