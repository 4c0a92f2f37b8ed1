"""NAME
    sweep - delete what has expired

SYNOPSIS
    mailfarm sweep

DESCRIPTION
    Every few seconds, by the database's clock:

        mailboxes that have ended are closed: announced, their address free again, their credentials gone;
        what was in a closed mailbox is cleared away, down to the last chunk and event;
        messages whose retention is over are deleted, with an event in their mailbox;
        their content goes with the last of them: row by row in SQLite, a day's partition at a time in PostgreSQL once
        that day (UTC) is over, where also room for the content of days to come is made;
        the ids of what was filed more than thirty days ago are forgotten: nothing comes from the queue that late.

    Each step is a small unit of its own, so that nobody waits long for the sweep. One pass makes at most a thousand
    steps; what is left is the next one's. Two sweeps at once do no harm.

    A mailbox takes no mail and is not found from the moment it ends, whether it is swept yet or not.

    By itself it needs the cache and the database: see mailfarm help process.

SETTINGS
    MAILFARM_SWEEP_INTERVAL   seconds between two passes

DIAGNOSTICS
    a pass was given up       the database did not answer; the next pass goes on
    cannot drop the partition of ..., cannot make the partition of ...
                              someone reads the tables for long (a backup), or the database's user may not make tables:
                              it is tried again a minute later, and nothing waits for it; content of a day without a
                              partition is deleted row by row
    metrics mailfarm_sweep_swept_total by kind: mailboxes, messages, content (rows or
    partitions), filed; mailfarm_sweep_steps_total
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mailfarm.config import SweepSettings
from mailfarm.errors import Temporary
from mailfarm.ids import Ids
from mailfarm.mailboxes import filing, messages, store
from mailfarm.mailboxes.announce import announce
from mailfarm.ports import Bus, Database, Tx

T = TypeVar("T")

STEPS = 1000
"""Units one pass makes at most."""
MAILBOXES = 100
"""Mailboxes closed in one unit."""
MESSAGES = 500
"""Messages expired in one unit."""
FILED_KEPT = 30 * 86400 * 1_000_000
"""Microseconds for which it is remembered what was filed."""


class Sweep:
    """The service. ``reactor`` is an IReactorTime."""

    log = Logger()

    def __init__(
        self,
        *,
        settings: SweepSettings,
        database: Database,
        bus: Bus,
        ids: Ids,
        reactor: Any,
        registry: CollectorRegistry,
    ) -> None:
        self._settings = settings
        self._database = database
        self._bus = bus
        self._ids = ids
        self._stopping = False
        self._over: Deferred[Any] | None = None
        self._loop = LoopingCall(lambda: Deferred.fromCoroutine(self._pass()))
        self._loop.clock = reactor
        self._swept = Counter("mailfarm_sweep_swept", "What was deleted", ("kind",), registry=registry)
        self._steps = Counter("mailfarm_sweep_steps", "Units of work", registry=registry)

    async def start(self) -> None:
        """Begin with a pass at once."""
        self._stopping = False
        self._over = self._loop.start(self._settings.interval)

    async def stop(self) -> None:
        """Finish the step under way. Idempotent."""
        self._stopping = True
        over, self._over = self._over, None
        if over is not None:
            if self._loop.running:
                self._loop.stop()
            await over

    async def sweep(self) -> None:
        """One pass. Raises DatabaseUnavailable."""
        left = STEPS
        for step in (self._close, self._clear, self._expire, self._prune, self._forget):
            while left > 0 and not self._stopping:
                left -= 1
                self._steps.inc()
                if not await step():
                    break

    async def _pass(self) -> None:
        try:
            await self.sweep()
        except Temporary as error:
            self.log.warn("a pass was given up: {error}", error=error)
        except Exception:  # a loop that must live
            self.log.failure("a pass was given up")

    async def _close(self) -> bool:
        closed = await self._unit(lambda tx: store.expire_mailboxes(tx, self._ids, MAILBOXES))
        announce(self._bus, closed)
        self._swept.labels("mailboxes").inc(len(closed))
        return len(closed) == MAILBOXES

    async def _clear(self) -> bool:
        return await self._unit(store.clear_closed)

    async def _expire(self) -> bool:
        changes = await self._unit(lambda tx: messages.expire(tx, self._ids, MESSAGES))
        announce(self._bus, changes)
        self._swept.labels("messages").inc(sum(len(change.messages) for change in changes))
        return bool(changes)

    async def _prune(self) -> bool:
        removed = await self._database.prune()
        self._swept.labels("content").inc(removed)
        return removed > 0

    async def _forget(self) -> bool:
        async def forget(tx: Tx) -> int:
            return await filing.forget_filed(tx, tx.now - FILED_KEPT)

        forgotten = await self._unit(forget)
        self._swept.labels("filed").inc(forgotten)
        return forgotten > 0

    def _unit(self, work: Callable[[Tx], Awaitable[T]]) -> Awaitable[T]:
        return self._database.unit(work)
