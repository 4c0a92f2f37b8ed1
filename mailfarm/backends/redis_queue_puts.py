"""Putting into a queue on Redis: many entries a call, large content ahead of its entry.

What is put within one pass of the reactor goes in one call, for a server that syncs before it answers syncs once for
all of it. A server has one call at a time: while that is under way the next ones gather, and go to whichever server is
free first. So a call holds as much as there is to put, and a slow server keeps nobody waiting but those whom it was
given. Each caller is answered by the reply that holds its own entry, never before.

Content above ``CHUNK`` octets goes ahead in pieces, a few at a time on a lane of their own, under a key that ends by
itself after ``PIECES_KEPT`` seconds. The script that makes the entry takes that end away. So an entry is always whole,
and nothing needs to be swept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.errors import QueueFull, QueueUnavailable
from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Content, Spooled

from .queue_content import check_size
from .redis_connection import Parts
from .redis_queue_calls import Calls, Put
from .spool_form import to_form

MOST_ENTRIES = 200
MOST_OCTETS = 1024 * 1024
"""A call holds no more entries, and no more octets unless one entry alone does."""

_PIECES_EACH = 4  # pieces of one content under way
_PIECES_ALL = 8  # and of all: 2 MiB that a take or a put may find in its way

_log = Logger()


class Way(Protocol):
    """A server that takes entries. ``unavailable`` says why it does not, if so; ``put_all`` makes a call of them."""

    @property
    def unavailable(self) -> QueueUnavailable | None: ...
    async def put_all(self, puts: list[Put]) -> list[bytes]: ...


Said = tuple[Way, bytes | Exception]
"""Which server it was, and what it said about an entry or failed with."""


class Puts:
    """Gathers puts into calls, one at a time for each of ``ways``, which take turns."""

    def __init__(self, reactor: Any, ways: Sequence[Way]) -> None:
        self._reactor = reactor
        self._free = deque(ways)
        self._busy = 0
        self._waiting: deque[tuple[Put, Deferred[Said]]] = deque()
        self._due: Any = None

    def add(self, put: Put) -> Deferred[Said]:
        """What came of this entry. Never fails."""
        answer: Deferred[Said] = Deferred()
        self._waiting.append((put, answer))
        if self._due is None and self._free:
            self._due = self._reactor.callLater(0, self._send)
        return answer

    def _send(self) -> None:
        self._due = None
        while self._waiting and self._free:
            way = self._next()
            if way is None:
                return
            batch: list[tuple[Put, Deferred[Said]]] = []
            octets = 0
            while self._waiting and len(batch) < MOST_ENTRIES:
                put = self._waiting[0][0]
                octets += len(put.form) + len(put.content)
                if batch and octets > MOST_OCTETS:
                    break
                batch.append(self._waiting.popleft())
            self._busy += 1
            Deferred.fromCoroutine(self._call(way, batch)).addErrback(_unexpected)

    def _next(self) -> Way | None:
        """The next one that is well, or None: one that has a call under way may be, and else nobody waits."""
        for _ in range(len(self._free)):
            way = self._free.popleft()
            why = way.unavailable
            if why is None:
                return way
            self._free.append(way)
        if not self._busy:
            waiting, self._waiting = self._waiting, deque()
            for _, answer in waiting:
                _tell(answer, (way, why or QueueUnavailable("it was away")))
        return None

    async def _call(self, way: Way, batch: list[tuple[Put, Deferred[Said]]]) -> None:
        said: Sequence[bytes | Exception]
        try:
            said = await way.put_all([put for put, _ in batch])
        except Exception as error:
            said = [error] * len(batch)
        self._busy -= 1
        self._free.append(way)
        if self._waiting and self._due is None:
            # in the next pass: those who are answered now may put again
            self._due = self._reactor.callLater(0, self._send)
        for (_, answer), one in zip(batch, said, strict=True):
            _tell(answer, (way, one))


async def packed(spooled: Spooled) -> Put:
    """Mail with small content. Raises Invalid, ValueError, and what the content raises."""
    form = to_form(spooled)
    data = b"".join([piece async for piece in spooled.content.chunks()])
    check_size(spooled, len(data))
    return Put(spooled.id, len(data), form, data)


def is_new(said: bytes | Exception, id: str) -> bool:
    """Whether the entry was not there before. Raises QueueFull, QueueUnavailable, and what the call failed with."""
    if isinstance(said, Exception):
        raise said
    if said == b"full":
        raise QueueFull("the queue holds as many entries, or as much content, as it may")
    if said == b"lost":
        raise QueueUnavailable(f"the content of {id} was not there any more when its entry came")
    return said == b"stored"


def _tell(answer: Deferred[Said], said: Said) -> None:
    if not answer.called:
        answer.callback(said)


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
        held: Parts = []
        room = CHUNK

        async def send() -> None:
            nonlocal count, held, room
            if len(under_way) >= _PIECES_EACH:
                await under_way.popleft()
            under_way.append(self._piece(key, count, held))
            count += 1
            held, room = [], CHUNK

        try:
            async for part in content.chunks():
                size += len(part)
                while len(part) >= room:
                    held.append(part[:room])
                    part = part[room:]
                    await send()
                if part:
                    held.append(part)
                    room -= len(part)
            if held:
                await send()
            while under_way:
                await under_way.popleft()
        except BaseException:
            # All of them have ended before the key is forgotten, or one would come behind and make it again.
            await DeferredList(list(under_way), consumeErrors=True)
            raise
        return size, count

    def _piece(self, key: str, number: int, data: Parts) -> Deferred[None]:
        return self._places.run(lambda: Deferred.fromCoroutine(self._calls.piece(key, number, data)))

    def forget(self, key: str) -> None:
        """Delete pieces that no entry needs, in the background; what is left ends by itself."""
        forgetting = Deferred.fromCoroutine(self._calls.unlink(key))
        forgetting.addErrback(lambda failure: failure.trap(QueueUnavailable))


def _unexpected(failure: Failure) -> None:
    failure.trap(CancelledError, Exception)
    _log.failure("a put was not answered", failure=failure)
