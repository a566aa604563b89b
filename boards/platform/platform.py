# SPDX-License-Identifier: Apache-2.0
"""The platform's side that PlatformIO asks before it builds."""

from platformio.public import PlatformBase


class TlcPlatform(PlatformBase):
    """Nothing to install: compilers and emulators come from the system."""

    def is_embedded(self):
        return True
