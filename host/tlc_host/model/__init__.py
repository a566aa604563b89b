# SPDX-License-Identifier: Apache-2.0
"""``host.onnx`` as a function in TensorFlow that can be trained. Only the optimizers' settings import without TensorFlow."""
