"""Large content in the embedded queue: in pieces under a key of its own, before there is an entry.

Pieces that no entry needs (the put failed half way, the entry has ended) are deleted a few at a time, so that the end
of a 50 MB mail holds nobody up. What a crash leaves of them is swept when the queue opens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Content

from .sqlite_engine import Engine
from .sqlite_queue_rows import Rows

_FORGET_ROWS = 8  # in one unit: 2 MiB

_log = Logger()


class Pieces:
    """The pieces of one queue. ``apart`` is the queue's way of handing out what the engine gives."""

    def __init__(self, engine: Engine, rows: Rows, ids: Ids, apart: Callable[[Deferred[Any]], Deferred[Any]]) -> None:
        self._engine = engine
        self._rows = rows
        self._ids = ids
        self._apart = apart
        self._uploading: set[str] = set()

    def begin(self) -> str:
        """A key for content that is about to come. ``end`` must follow."""
        key = self._ids.new()
        self._uploading.add(key)
        return key

    async def store(self, key: str, content: Content) -> int:
        """Store content under ``key``; its size. Raises QueueFull, QueueUnavailable, and what the content raises."""
        number = size = 0
        held = bytearray()
        async for piece in content.chunks():
            held += piece
            size += len(piece)
            while len(held) >= CHUNK:
                await self._store_piece(key, number, bytes(held[:CHUNK]))
                del held[:CHUNK]
                number += 1
        if held:
            await self._store_piece(key, number, bytes(held))
        return size

    def _store_piece(self, key: str, number: int, data: bytes) -> Deferred[None]:
        work = partial(self._rows.put_chunk, chunks=key, number=number, data=data)
        return self._apart(self._engine.write(work, len(data)))

    def end(self, key: str, kept: bool) -> None:
        """The content has its entry (``kept``), or perhaps not: then it is forgotten, unless it has one after all."""
        self._uploading.discard(key)
        if not kept:
            self.forget((key,))

    def forget(self, keys: Sequence[str]) -> None:
        """Delete the pieces under these keys that no entry needs, in the background."""
        if forgettable := [key for key in keys if key not in self._uploading]:
            Deferred.fromCoroutine(self._forget(forgettable)).addErrback(
                lambda failure: _log.warn("pieces were left for the next sweep: {error}", error=failure.value)
            )

    async def _forget(self, keys: Sequence[str]) -> None:
        for key in keys:
            while await self._engine.write(partial(self._rows.forget_chunks, chunks=key, limit=_FORGET_ROWS)):
                pass
