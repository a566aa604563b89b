# SPDX-License-Identifier: Apache-2.0
"""``pio device monitor`` of an emulated board: finds the UART of what ``upload`` booted for the project.

PlatformIO asks platforms for filters before it chooses a port, and hands them its options; this one filters nothing.
"""

import json
import os

from platformio.public import DeviceMonitorFilterBase


class Tlc(DeviceMonitorFilterBase):
    """Sets the port, where none was asked for."""

    NAME = "tlc"

    def __init__(self, options=None):
        super().__init__(options)
        if options is None or options.get("port"):
            return
        workspace = self.config.get("platformio", "workspace_dir")
        try:
            with open(os.path.join(workspace, "tlc-emulator.json"), encoding="utf-8") as file:
                state = json.load(file)
            options["port"] = state["address"].replace("tcp://", "socket://").removeprefix("serial://")
        except (OSError, ValueError, KeyError):
            pass  # nothing runs: PlatformIO looks for serial ports
