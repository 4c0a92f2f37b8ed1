"""What one pass of the reactor writes to a connection, sent at the end of the pass: in one piece, and at once.

::

    write(a), write(b)  ->  the pass has been worked on  ->  one send of both
                            what the socket did not take ->  Twisted's queue, when there is room again

Twisted's own ``transport.write`` sends in the next pass: two changes of what epoll watches and a wait for each call to
a server. Errors are left to Twisted, which meets them again in the next pass and reports the loss there: none comes out
of a ``write``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.tcp import Client


def before_waiting(reactor: Any, call: Callable[[], object]) -> None:
    """Have it called once, before the reactor waits again (``net/lean_poll``), or in the next pass of another one."""
    if hasattr(reactor, "before_waiting"):
        reactor.before_waiting(call)
    else:
        reactor.callLater(0, call)


class Leaving:
    """The way out of a connection: its ``transport``, TCP or TLS above it. What is still here when the connection ends
    is dropped."""

    def __init__(self, reactor: Any, transport: Any) -> None:
        self._reactor = reactor
        self._transport = transport
        self._plain = isinstance(transport, Client)
        self._parts: list[bytes] = []
        if self._plain:
            transport.LEAN = True  # see net/lean_poll

    def write(self, *parts: bytes) -> None:
        """Send these, behind what was written before. Never raises."""
        if not self._parts:
            before_waiting(self._reactor, self._leave)
        self._parts += parts

    def _leave(self) -> None:
        transport, parts, self._parts = self._transport, self._parts, []
        left = parts[0] if len(parts) == 1 else b"".join(parts)
        if self._plain:
            if transport._aborting:
                return
            queued = transport.dataBuffer or transport._tempDataBuffer
            if transport.connected and not transport.disconnecting and not queued:
                with suppress(OSError):  # there is no room, or Twisted meets the same error and reports the loss
                    left = left[transport.socket.send(left) :]
        if left:
            transport.write(left)
