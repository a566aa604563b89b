# SPDX-License-Identifier: Apache-2.0
"""Spoken digits by a speaker whom the network never heard (Free Spoken Digit Dataset, MFCC): one of six is left out.

Needs ``fsdd_mfcc.npz``: ``x_train``, ``x_test`` (samples, 49, 10), ``y_*``, ``speaker_*``. The device learns from ten takes of each
digit; thirty others measure it.
"""

from __future__ import annotations

import numpy as np

from . import networks
from .task import Set, Setting, Task, data

__all__ = ["TASK"]

TAKES = 10


def setting(seed: int) -> Setting:
    """Seed s leaves speaker s out."""
    arrays = data("fsdd_mfcc.npz")
    rng = np.random.default_rng(seed)
    x = np.concatenate([arrays["x_train"], arrays["x_test"]]).astype(np.float32)[..., None]
    y = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(np.int64)
    speaker = np.concatenate([arrays["speaker_train"], arrays["speaker_test"]])
    others = speaker != seed
    # The scale of each coefficient is the known speakers'.
    mean, deviation = x[others].mean((0, 1)), x[others].std((0, 1))
    whole = Set((x - mean) / deviation, y)
    known = whole[others]
    adapt, test = [], []
    for digit in range(10):
        takes = rng.permutation(np.flatnonzero((speaker == seed) & (y == digit)))
        adapt.append(takes[:TAKES])
        test.append(takes[TAKES : 4 * TAKES])
    calibration = known[rng.permutation(len(known))[:300]]
    return Setting(known, calibration, whole[np.concatenate(adapt)], {"speaker": whole[np.concatenate(test)]})


TASK = Task("speaker", "spoken digits, unseen speaker", setting, networks.speech, epochs=6, steps=200)
