"""Putting into a queue on Redis: many entries a call, large content ahead of its entry.

What is put within one pass of the reactor goes in one call, for a server that syncs before it answers syncs once for
all of it. At most two calls are in flight: while they are, the next ones gather. Each caller is answered by the reply
that holds its own entry, never before.

Content above ``CHUNK`` octets goes ahead in pieces, a few at a time on a lane of their own, under a key that ends by
itself after ``PIECES_KEPT`` seconds. The script that makes the entry takes that end away. So an entry is always whole,
and nothing needs to be swept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.errors import QueueUnavailable
from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Content

from .redis_queue_calls import Calls, Put

IN_FLIGHT = 2
MOST_ENTRIES = 200
MOST_OCTETS = 1024 * 1024
"""A call holds no more entries, and no more octets unless one entry alone does."""

_PIECES_EACH = 4  # pieces of one content under way
_PIECES_ALL = 8  # and of all: 2 MiB that a take or a put may find in its way

_log = Logger()


class Puts:
    """Gathers puts into calls. ``put`` is what makes a call of them."""

    def __init__(self, reactor: Any, put: Callable[[list[Put]], Awaitable[list[bytes]]]) -> None:
        self._reactor = reactor
        self._put = put
        self._waiting: deque[tuple[Put, Deferred[bytes]]] = deque()
        self._in_flight = 0
        self._due: Any = None

    def add(self, put: Put) -> Deferred[bytes]:
        """What the server says about this entry; fails with what the call fails with."""
        answer: Deferred[bytes] = Deferred()
        self._waiting.append((put, answer))
        if self._due is None and self._in_flight < IN_FLIGHT:
            self._due = self._reactor.callLater(0, self._send)
        return answer

    def _send(self) -> None:
        self._due = None
        while self._waiting and self._in_flight < IN_FLIGHT:
            batch: list[tuple[Put, Deferred[bytes]]] = []
            octets = 0
            while self._waiting and len(batch) < MOST_ENTRIES:
                put = self._waiting[0][0]
                octets += len(put.form) + len(put.content)
                if batch and octets > MOST_OCTETS:
                    break
                batch.append(self._waiting.popleft())
            self._in_flight += 1
            Deferred.fromCoroutine(self._call(batch)).addErrback(_unexpected)

    async def _call(self, batch: list[tuple[Put, Deferred[bytes]]]) -> None:
        try:
            answers = await self._put([put for put, _ in batch])
        except Exception:
            failure = Failure()
            self._in_flight -= 1
            self._again()
            for _, answer in batch:
                if not answer.called:
                    answer.errback(failure)
            return
        self._in_flight -= 1
        self._again()
        for (_, answer), said in zip(batch, answers, strict=True):
            if not answer.called:
                answer.callback(said)

    def _again(self) -> None:
        # In the next pass: those who are answered now may put again.
        if self._waiting and self._due is None:
            self._due = self._reactor.callLater(0, self._send)


class Pieces:
    """Large content on its way into the queue of ``calls``."""

    def __init__(self, calls: Calls, ids: Ids) -> None:
        self._calls = calls
        self._ids = ids
        self._places = DeferredSemaphore(_PIECES_ALL)

    def key(self) -> str:
        """A key for content that is about to come."""
        return f"{self._calls.prefix}:pieces:{self._ids.new()}"

    async def store(self, key: str, content: Content) -> tuple[int, int]:
        """Store content under ``key``: its size, and how many pieces. Raises QueueFull, QueueUnavailable, and what
        the content raises."""
        under_way: deque[Deferred[None]] = deque()
        count = size = 0
        held = bytearray()

        async def send(data: bytes) -> None:
            nonlocal count
            if len(under_way) >= _PIECES_EACH:
                await under_way.popleft()
            under_way.append(self._piece(key, count, data))
            count += 1

        try:
            async for piece in content.chunks():
                size += len(piece)
                if not held and len(piece) == CHUNK:  # as content comes that is ours: no need to copy it
                    await send(piece)
                    continue
                held += piece
                while len(held) >= CHUNK:
                    await send(bytes(held[:CHUNK]))
                    del held[:CHUNK]
            if held:
                await send(bytes(held))
            while under_way:
                await under_way.popleft()
        except BaseException:
            # All of them have ended before the key is forgotten, or one would come behind and make it again.
            await DeferredList(list(under_way), consumeErrors=True)
            raise
        return size, count

    def _piece(self, key: str, number: int, data: bytes) -> Deferred[None]:
        return self._places.run(lambda: Deferred.fromCoroutine(self._calls.piece(key, number, data)))

    def forget(self, key: str) -> None:
        """Delete pieces that no entry needs, in the background; what is left ends by itself."""
        forgetting = Deferred.fromCoroutine(self._calls.unlink(key))
        forgetting.addErrback(lambda failure: failure.trap(QueueUnavailable))


def _unexpected(failure: Failure) -> None:
    failure.trap(CancelledError, Exception)
    _log.failure("a put was not answered", failure=failure)
