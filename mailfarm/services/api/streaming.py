"""Sending what is too large to hold: one chunk is read when the one before has left.

The request's producer is told to pause when the client is slower than we are. A client that takes nothing is cut off by
the port (``net.http_site``).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.web.server import Request
from zope.interface import implementer

Read = Callable[[int], Awaitable[bytes | None]]


@implementer(IPushProducer)
class Flow:
    """A push producer that a coroutine asks whether it may go on."""

    def __init__(self) -> None:
        self._open: Deferred[None] | None = None
        self.stopped = False
        self.resumed: Callable[[], None] = lambda: None
        """Called when more may be written."""

    def pauseProducing(self) -> None:
        if self._open is None:
            self._open = Deferred()

    def resumeProducing(self) -> None:
        waiting, self._open = self._open, None
        if waiting is not None and not waiting.called:
            waiting.callback(None)
            self.resumed()

    def stopProducing(self) -> None:
        self.stopped = True
        self.resumeProducing()

    @property
    def paused(self) -> bool:
        """Whether what was written has not left yet."""
        return self._open is not None

    async def clear(self) -> None:
        """Return when more may be written, or never will."""
        if self._open is not None:
            await self._open


def release(request: Request) -> None:
    """Take the producer off a request, also when its client has gone: then twisted.web has taken its channel."""
    if request.channel is not None:
        request.unregisterProducer()


def abort(request: Request) -> None:
    """Cut the connection off, if there still is one; what was written and has not left is lost."""
    if request.channel is not None:
        request.channel.forceAbortClient()


async def send(request: Request, size: int, first: bytes, read: Read) -> None:
    """Write ``first`` and then the chunks that ``read`` gives by number, ``size`` octets in all."""
    request.setHeader("Content-Length", str(size))
    flow = Flow()
    request.registerProducer(flow, True)
    try:
        request.write(first)
        left = size - len(first)
        number = 0
        # HEAD is answered with the headers alone
        while left > 0 and request.method != b"HEAD":
            await flow.clear()
            chunk = await read(number)
            if flow.stopped:
                return
            if not chunk:
                # deleted while it was read: end the connection, so that nobody takes half for whole
                request.loseConnection()
                return
            request.write(chunk)
            left -= len(chunk)
            number += 1
            del chunk  # what has not left yet is the connection's: not twice for each slow reader
    except Exception:
        if flow.stopped:
            return
        raise
    finally:
        release(request)
