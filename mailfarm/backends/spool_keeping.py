"""Keeping mail in the local spool: those that come while the disk is at work wait for it, and are kept together.

Small mail is written where it is synced; large mail is written and synced before, a piece at a time, so that it holds
up nobody. Each file is synced, the folder once for all of a group, and then all are told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailfarm.ports import CHUNK, Spooled

from .queue_content import check_size
from .spool_folder import Part, SpoolFolder

Run = Callable[[Callable[[], Any]], Deferred[Any]]

TOGETHER: Final = 200
"""Mails that are kept together at most."""

_log = Logger()


class Keeping:
    """Keeps mail in ``folder``. ``run`` does work in a thread, ``clock`` gives microseconds since 1970."""

    def __init__(self, folder: SpoolFolder, run: Run, clock: Callable[[], int]):
        self._folder = folder
        self._run = run
        self._clock = clock
        self._gathered: list[tuple[Callable[[], Part], Deferred[int]]] = []
        self._keeping = False
        self._idle: list[Deferred[None]] = []

    async def keep(self, start: bytes, spooled: Spooled) -> int:
        """The mail's number once it would survive a power cut; ``start`` is what stands before its content. Raises
        OSError, and what the content raises."""
        small = spooled.content.size <= CHUNK
        make = await (self._small(start, spooled) if small else self._large(start, spooled))
        kept: Deferred[int] = Deferred()
        self._gathered.append((make, kept))
        if not self._keeping:
            self._keeping = True
            Deferred.fromCoroutine(self._work()).addErrback(_unexpected)
        return await kept

    async def idle(self) -> None:
        """Returns when nothing is being kept."""
        if self._keeping:
            idle: Deferred[None] = Deferred()
            self._idle.append(idle)
            await idle

    async def _small(self, start: bytes, spooled: Spooled) -> Callable[[], Part]:
        pieces = [start, *[piece async for piece in spooled.content.chunks()]]
        check_size(spooled, sum(map(len, pieces)) - len(start))
        return lambda: _written(self._folder.part(), pieces)

    async def _large(self, start: bytes, spooled: Spooled) -> Callable[[], Part]:
        part: Part = await self._run(self._folder.part)
        try:
            await self._run(lambda: part.write(start))
            pieces: list[bytes] = []
            held = size = 0
            async for piece in spooled.content.chunks():
                pieces.append(piece)
                held += len(piece)
                size += len(piece)
                if held >= CHUNK:
                    await self._run(partial(_written, part, pieces))
                    pieces, held = [], 0
            check_size(spooled, size)
            await self._run(lambda: _written(part, pieces).sync())
        except BaseException:
            await self._run(part.abandon)
            raise
        return lambda: part

    async def _work(self) -> None:
        while self._gathered:
            batch, self._gathered = self._gathered[:TOGETHER], self._gathered[TOGETHER:]
            makes, now = [make for make, _ in batch], self._clock()
            results: Sequence[int | Exception]
            try:
                results = await self._run(partial(self._folder.keep, makes, now))
            except Exception as error:
                results = [error] * len(batch)
            for (_, kept), result in zip(batch, results, strict=True):
                if isinstance(result, int):
                    kept.callback(result)
                else:
                    kept.errback(result)
        self._keeping = False
        idle, self._idle = self._idle, []
        for each in idle:
            each.callback(None)


def _written(part: Part, pieces: Sequence[bytes]) -> Part:
    try:
        for piece in pieces:
            part.write(piece)
    except BaseException:
        part.abandon()
        raise
    return part


def _unexpected(failure: Any) -> None:
    _log.failure("mail could not be kept in the spool", failure=failure)
