# SPDX-License-Identifier: Apache-2.0
"""The networks of ``tests/compiler`` serve here too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "compiler"))
