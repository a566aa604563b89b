# SPDX-License-Identifier: Apache-2.0
"""One device, as awaitable calls.

::

    session = await Session.connect("tcp://127.0.0.1:7000", bundle_hash)
    reply = await session.forward(x)                      # int8 in, int8 out
    await session.backward(reply, gradient)               # float32, d loss / d reply.outputs[0]
    await session.step(number, learning_rate, seed)
    await session.close()

A session outlives a broken transport, a lost link and a restarted host daemon: requests that wait for an answer are
asked again with the same number, and the device does nothing twice. It does not outlive a restart of the *device*,
which has forgotten its forward pass and its learned tensors: then every call raises ``DeviceReset`` until
``await session.greet()``.

From the bottom: ``wire`` (bytes between link and transport), ``asking`` (requests and answers), ``greeting`` and ``samples``;
the calls by kind in ``passes``, ``learning``, ``parameters`` and ``enquiries``; ``session`` puts them together.
"""

from tlc_host.session.reply import SmashedReply
from tlc_host.session.session import Session

__all__ = ["Session", "SmashedReply"]
