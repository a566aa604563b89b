# SPDX-License-Identifier: Apache-2.0
"""From a model file to a project."""

from tlc.pipeline.compile import compile_model
from tlc.pipeline.cuts import plan_model
from tlc.pipeline.options import Compiled, Options, Progress

__all__ = ["Compiled", "Options", "Progress", "compile_model", "plan_model"]
