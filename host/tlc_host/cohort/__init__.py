# SPDX-License-Identifier: Apache-2.0
"""The devices that learn together, in the words of the papers: awaitable calls on each, and on all at once.

:class:`Device` is one device part T; :class:`LinkDevice` speaks with one over the link, :class:`TwinDevice` calls the
generated C directly. A :class:`Member` is a device with its samples and what a round needs to know of it. The
:class:`Cohort` asks many at once and sees to it that a round always ends: who fails, or is late when enough have
answered, is *left out* of the rest of the round, by name and reason, and brought back into step before the next.
"""

from tlc_host.cohort.cohort import Cohort
from tlc_host.cohort.device import Device, DeviceSteps, diverged
from tlc_host.cohort.linked import LinkDevice
from tlc_host.cohort.member import Left, Member
from tlc_host.cohort.twins import TwinDevice
from tlc_host.cohort.values import quantize_gradient

__all__ = [
    "Cohort",
    "Device",
    "DeviceSteps",
    "Left",
    "LinkDevice",
    "Member",
    "TwinDevice",
    "diverged",
    "quantize_gradient",
]
