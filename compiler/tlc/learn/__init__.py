# SPDX-License-Identifier: Apache-2.0
"""The graph as a trainable TensorFlow module."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

__all__ = ["quiet_tensorflow"]


def quiet_tensorflow() -> None:
    """Imports TensorFlow, which takes seconds, without the lines about absent GPUs that it writes past Python."""
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with _silent_stderr():
        import tensorflow  # noqa: F401


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
