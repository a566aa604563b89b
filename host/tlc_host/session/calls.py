# SPDX-License-Identifier: Apache-2.0
"""What all of a session's calls stand on."""

from __future__ import annotations

from tlc_host import messages as m
from tlc_host.session.asking import Asking
from tlc_host.session.greeting import Greeting
from tlc_host.session.wire import Wire

__all__ = ["Calls"]


class Calls:
    """One device that can be asked.

    Attributes:
        name: the device, for messages.
    """

    def __init__(self, wire: Wire, asking: Asking, greeting: Greeting) -> None:
        self.name = asking.name
        self._wire = wire
        self._asking = asking
        self._greeting = greeting

    @property
    def hello(self) -> m.Hello:
        """What the device last said of itself."""
        return self._greeting.hello

    @property
    def most_bytes(self) -> int:
        """Largest bulk message that the device takes, as of its last greeting: between two sessions, too."""
        return self._greeting.most_bytes
