"""Content as a queue hands it out: whole in memory when small, read piece by piece when not. And what every queue holds
its callers to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from mailfarm.ports import Spooled


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
        """The pieces. Raises NotFound when the entry was ended meanwhile, QueueUnavailable."""
        left = self.size
        number = 0
        while left > 0:
            data = await self._load(number)
            yield data
            left -= len(data)
            number += 1

    def close(self) -> None: ...


NEWER_PAUSE = 30.0
"""Seconds for which an entry that only a newer mailfarm can read is left to others."""


def check_size(spooled: Spooled, octets: int) -> None:
    """Raises ValueError when content is not as long as it says."""
    if octets != spooled.content.size:
        raise ValueError(f"content of {spooled.id} says {spooled.content.size} octets and gives {octets}")


def kept_reason(reason: str) -> str:
    """What is kept of the reason why an entry waits: 1,000 characters that can be stored."""
    return reason[:1000].encode("utf-8", "replace").decode()
