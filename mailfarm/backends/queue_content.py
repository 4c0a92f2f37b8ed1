"""Content as a queue hands it out: whole in memory when small, read piece by piece when not."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable


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
