"""NAME
    spool - bring mail from this machine's disk into the queue

SYNOPSIS
    mailfarm spool

DESCRIPTION
    With MAILFARM_SPOOL the listeners, mx and submission, keep mail on local disk while no shard of the queue takes it:
    250 is said when the mail would survive a power cut. Each brings it into the queue by itself once a shard is back,
    the oldest first; each also takes over what a process that has ended left in the same folder.

    This service does the latter and nothing else. It is for machines where no listener may be running when the queue
    is back: one on each, with the folder that the listeners there use. More than one does no harm.

    A mail is removed from the disk when the queue has confirmed it. Nothing is filed twice: it keeps the id under which
    it was accepted. Up to 100 mails and 1 MiB go together, or one above 256 KiB alone; then whoever drains rests for as
    long as that took, so that listeners stay responsive.

    By itself it needs the queue: see mailfarm help process. How the spool works, and what to do with what cannot be
    read any more, is in mailfarm help local-spool.

    On SIGTERM: what waits goes into the queue as long as that takes mail, within MAILFARM_GRACE; the rest stays on the
    disk for who comes next.

SETTINGS
    MAILFARM_SPOOL_SIZE   octets a process may keep in the spool; beyond it mail is answered 452
    MAILFARM_SPOOL        the folder; empty: mail is answered 451 while no shard of the queue takes it
    MAILFARM_BACKLOG, MAILFARM_RESERVE, MAILFARM_GRACE

DIAGNOSTICS
    no queue takes mail: it is kept in ...
                          the first mail since the spool was last empty
    the queue takes no mail from the spool: ...
                          said once; the line has the reason. It is tried again every half second
    the spool is empty: ... mails went into the queue
                          all is well again
    mails in ... have no owner any more: they are drained from here
                          the process that kept them has ended
    mail ... in ... is passed over and tried again in ... s: ...
                          the queue has room for others and never took it, or its file cannot be read; the line has the
                          reason. It is kept and tried after 10, 20, 40 ... 600 seconds, and the others are drained
    mail ... cannot go into the queue: ...; it is kept as ...
                          the file is not what was written: look at the disk, and at the file
    metrics mailfarm_spool_entries, _octets, _oldest_seconds, _passed_over (of what this process drains), _stored_total,
    _drained_total, _adopted_total, _damaged (files on this machine that cannot be read)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from mailfarm.errors import QueueBehind, QueueFull, Temporary
from mailfarm.inbound.accept import Intake
from mailfarm.ports import Spooled

MOST: Final = 100
"""Mails that go into the queue together."""
OCTETS: Final = 1024 * 1024
"""And their octets on the disk: with the queue's own caps on a call, one call to one shard."""
ADOPT: Final = 10.0
"""Seconds between two looks for what a process that has ended left."""
AGAIN: Final = 0.5
"""Seconds until the queue is asked again that did not take mail."""
REST: Final = 0.25
"""The longest rest after some mails, in seconds."""


class Mail(Protocol):
    """A mail in the spool."""

    @property
    def spooled(self) -> Spooled: ...


class Disk(Protocol):
    """What is needed of the spool (``backends/spool_disk.py``)."""

    heard: Callable[[], None]

    @property
    def depth(self) -> tuple[int, int]: ...
    @property
    def ready(self) -> bool: ...
    def adopt(self) -> Awaitable[int]: ...
    def oldest(self, most: int, octets: int) -> Awaitable[Sequence[Any]]: ...
    def forget(self, mails: Sequence[Any]) -> Awaitable[None]: ...
    def refused(self, mail: Any, why: str) -> bool: ...
    def set_aside(self, mail: Any, why: str) -> Awaitable[None]: ...


class Spool:
    """The service: drains ``disk`` into ``queue``, in a process of its own or in a listener's."""

    log = Logger()

    def __init__(self, *, disk: Disk, queue: Intake, reactor: Any) -> None:
        self._disk = disk
        self._queue = queue
        self._reactor = reactor
        self._stopping = False
        self._until = 0.0
        self._running: Deferred[None] | None = None
        self._waiting: Deferred[None] | None = None
        self._idle = False
        self._adopted_at = 0.0
        self._drained = 0
        self._said = False

    async def start(self) -> None:
        """Begin to work."""
        self._stopping = False
        self._adopted_at = self._reactor.seconds()
        self._disk.heard = self._heard
        self._running = Deferred.fromCoroutine(self._work())

    async def stop(self, grace: float) -> None:
        """Drain for at most ``grace`` seconds more, as long as the queue takes mail. Idempotent."""
        self._stopping = True
        self._until = self._reactor.seconds() + grace
        self._wake()
        running, self._running = self._running, None
        if running is not None:
            await running

    async def _work(self) -> None:
        while not self._stopping or self._disk.ready:
            went = False
            try:
                if not self._stopping and self._reactor.seconds() - self._adopted_at >= ADOPT:
                    self._adopted_at = self._reactor.seconds()
                    await self._disk.adopt()
                went = await self._some()
            except (Temporary, OSError) as error:
                self._put_off(str(error))
            except Exception:  # a loop that must live
                self.log.failure("the spool could not be drained")
            if self._stopping and (not went or self._reactor.seconds() >= self._until):
                break
            if not went and not self._stopping:
                self._idle = not self._disk.ready
                await self._pause(ADOPT if self._idle else AGAIN)
                self._idle = False
        if self._stopping and (left := self._disk.depth[0]):
            self.log.warn("{count} mails stay in the spool until another process takes them", count=left)

    async def _some(self) -> bool:
        """Bring the oldest into the queue; whether there are more to try at once. Raises QueueUnavailable, QueueFull
        when it did not take them all, OSError."""
        if not self._disk.ready:
            return False
        with suppress(QueueBehind):  # that is for new mail: this was accepted, and the queue's caps hold all the same
            await self._queue.admit(0)
        began = self._reactor.seconds()
        mails = await self._disk.oldest(MOST, OCTETS)
        puts = [Deferred.fromCoroutine(_put(self._queue, mail.spooled)) for mail in mails]
        outcomes: list[tuple[bool, Any]] = list(await DeferredList(puts, consumeErrors=True))
        taken = [mail for mail, (good, _) in zip(mails, outcomes, strict=True) if good]
        if taken:
            await self._disk.forget(taken)
            self._drained += len(taken)
        trouble: Exception | None = None
        passed = False
        for mail, (good, failure) in zip(mails, outcomes, strict=True):
            if good:
                continue
            if failure.check(Temporary, OSError):
                if trouble is None:
                    trouble = failure.value
                    # its own fault: the queue has room, or its own disk fails while its content is read
                    passed = failure.check(QueueFull, OSError) and self._disk.refused(mail, str(trouble))
            else:
                await self._disk.set_aside(mail, f"the queue will not take it: {failure.value!r}")
        if trouble is not None and not passed:
            raise trouble
        self._said = False
        if not self._disk.depth[0]:
            self.log.info("the spool is empty: {count} mails went into the queue", count=self._drained)
            self._drained = 0
        elif not self._stopping:
            # as long as that took: listeners have the other half of the time
            await self._pause(min(REST, self._reactor.seconds() - began))
        return self._disk.ready

    def _put_off(self, why: str) -> None:
        if not self._said:
            self._said = True
            self.log.warn("the queue takes no mail from the spool: {why}", why=why)

    def _heard(self) -> None:
        """There is something to drain. While the queue is away nobody looks at it sooner for that."""
        if self._idle:
            self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def _pause(self, seconds: float) -> None:
        """Wait, unless it stops."""
        self._waiting = over = Deferred[None]()
        ended = self._reactor.callLater(seconds, self._wake)
        await over
        if ended.active():
            ended.cancel()


async def _put(queue: Intake, spooled: Spooled) -> None:
    await queue.put(spooled)
