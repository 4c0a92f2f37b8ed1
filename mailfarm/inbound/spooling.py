"""Accepting while no shard of the queue is well: mail goes into the local spool, and from there into the queue later.

The order is kept as far as one listener's mail has one: while mail of ours waits in the spool, what comes goes there
too, behind it, also when the queue is back. When the spool has no more room and the queue does, it goes into the queue
at once, ahead of what waits: better out of order than refused.

What the queue can never hold is refused, also while it is away: it could never leave the spool.
Only a queue that is away is a reason to spool. One that is full, or behind, pushes back, and who sends is told.
A put that failed may have been done all the same; what is spooled then has the same id, and is filed once.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Protocol

from mailfarm.errors import QueueFull, QueueUnavailable
from mailfarm.ports import Spooled

from .accept import Intake


class LocalSpool(Protocol):
    """What is needed of the spool (``backends/spool_disk.py``)."""

    @property
    def backlog(self) -> bool:
        """Whether mail of ours waits in it."""

    def check(self, size: int) -> None:
        """As ``Queue.admit``, at once."""

    def put(self, spooled: Spooled) -> Awaitable[None]:
        """As ``Queue.put``."""


class SpooledQueue(Intake, Protocol):
    """What is needed of the queue."""

    def fits(self, size: int) -> None:
        """Raises TooLarge when it can never hold so many octets, as far as it is known; also while it is away."""


class SpoolingIntake:
    """The Intake of a listener that has a ``spool``."""

    def __init__(self, queue: SpooledQueue, spool: LocalSpool) -> None:
        self._queue = queue
        self._spool = spool

    async def admit(self, size: int) -> None:
        """Whether content of ``size`` octets (0: unknown) would find room in either. Raises QueueFull,
        QueueUnavailable."""
        self._queue.fits(size)
        try:
            await self._queue.admit(size)
        except QueueUnavailable:
            self._spool.check(size)

    async def put(self, spooled: Spooled) -> None:
        """Returns when the mail would survive a crash. Raises QueueFull, QueueUnavailable."""
        self._queue.fits(spooled.content.size)
        if not self._spool.backlog:
            try:
                await self._queue.put(spooled)
            except QueueUnavailable:
                await self._spool.put(spooled)
            return
        try:
            await self._spool.put(spooled)
        except (QueueFull, QueueUnavailable) as why:
            try:
                await self._queue.put(spooled)
            except QueueUnavailable:
                raise why from None  # what it says is of both
