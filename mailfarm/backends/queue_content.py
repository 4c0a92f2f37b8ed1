"""Content as a queue hands it out: whole in memory when small, read piece by piece when not. And what every queue holds
its callers to."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from twisted.internet.defer import Deferred

from mailfarm.errors import QueueUnavailable
from mailfarm.ports import CHUNK, Queue, Shard, Spooled

AHEAD = 2
"""Pieces of content that are asked for while one is looked at: each is a journey to the store."""


class Whole:
    """Content of at most ``CHUNK`` octets."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    async def chunks(self) -> AsyncIterator[bytes]:
        if self._data:
            yield self._data

    def close(self) -> None: ...


class Stored:
    """Content of ``size`` octets in a backend. ``load(n)`` gives its piece number ``n``, counted from 0."""

    __slots__ = ("_load", "size")

    def __init__(self, size: int, load: Callable[[int], Awaitable[bytes]]) -> None:
        self.size = size
        self._load = load

    async def chunks(self) -> AsyncIterator[bytes]:
        """The pieces. While one is looked at the next is on its way. Raises NotFound when the entry was ended
        meanwhile, QueueUnavailable."""
        coming: deque[Deferred[bytes]] = deque()
        asked = 0
        left = self.size
        try:
            while left > 0:
                while len(coming) <= AHEAD and (asked * CHUNK < self.size or not coming):
                    coming.append(Deferred.fromCoroutine(_loaded(self._load(asked))))
                    asked += 1
                data = await coming.popleft()
                yield data
                left -= len(data)
        finally:
            for each in coming:  # nobody waits for them any more
                each.addErrback(lambda failure: None)

    def close(self) -> None: ...


async def _loaded(piece: Awaitable[bytes]) -> bytes:
    return await piece


NEWER_PAUSE = 30.0
"""Seconds for which an entry that only a newer mailfarm can read is left to others."""


def check_size(spooled: Spooled, octets: int) -> None:
    """Raises ValueError when content is not as long as it says."""
    if octets != spooled.content.size:
        raise ValueError(f"content of {spooled.id} says {spooled.content.size} octets and gives {octets}")


async def shard_of(name: str, queue: Queue) -> Shard:
    """How deep this queue is, or why it does not say."""
    try:
        return Shard(name, await queue.depth())
    except QueueUnavailable as error:
        return Shard(name, None, str(error))


def nonce_of(id: str, holder: str) -> str:
    """What stands in the fences of one take. Fences are opaque, so it may say whose they are."""
    return f"{id}@{holder}" if holder else id


def holder_of(nonce: str) -> str:
    """Whose fence it is, if it says so."""
    return nonce.partition("@")[2]


def kept_reason(reason: str) -> str:
    """What is kept of the reason why an entry waits: 1,000 characters that can be stored."""
    return reason[:1000].encode("utf-8", "replace").decode()
