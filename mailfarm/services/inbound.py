"""NAME
    inbound - file received mail into mailboxes

SYNOPSIS
    mailfarm inbound

DESCRIPTION
    Takes what the listeners have put into the queue "inbound", parses and packs it, and files it into the mailboxes its
    recipients lead to: one message for each content and mailbox, however many recipients lead there. What is filed is
    announced on the bus, then the queue's entry is ended.

    Two batches are under way at once, so that one is parsed while the other commits; of large mail each has two parts
    under way, for the same reason. Large content is parsed in a thread, and no more than 64 MiB of content stand in
    memory at once (one message alone may be larger).

    Nothing is filed twice: the id under which something was spooled is remembered for thirty days, also when its
    reader has deleted the message since. A mailbox that has ended meanwhile gets nothing; that is counted as dropped.

    A message that cannot be filed is tried again after 2, 4, 8 ... seconds. From the fourth try on it is not parsed any
    more but filed as it is, with a finding that says so. After the queue's tries it is set aside: kept, listed, out of
    the others' way. While the database does not answer nothing is set aside: the same batch is tried until it does.
    When it answers but cannot work on one mailbox, whose row somebody keeps locked for instance, what leads there goes
    back into the queue for 5, 10, 20 ... 60 seconds, and everything else is filed. None of this uses up a try.

    In mailfarm dev without URLs most mail is filed by the listeners, in the transaction that accepts it; what comes by
    the queue is the rest, and the metrics below count both.

    By itself it needs the queue, the cache and the database: see mailfarm help process.

    On SIGTERM: nothing new is taken, batches under way are finished, and what cannot be finished because a store is
    away goes back into the queue at once.

    A message that is parsed for two minutes hangs. In a thread it is filed as it is, with a finding that says so; the
    process then finishes its batches and ends with exit code 1, since a thread cannot be ended: have it started again.
    One that keeps the whole process from working is ended with it (SIGPROF, after two minutes of CPU time; the log has
    where every thread was), and its entry comes again when its lease ends: see above.

SETTINGS
    MAILFARM_INBOUND_BATCH   entries taken from the queue at once
    MAILFARM_INBOUND_LEASE   seconds until another worker may take an entry; extended while work goes on

DIAGNOSTICS
    waiting for the database: ..., waiting for the queue: ...
                             at the start, every five seconds until it has answered; the line has the reason
    message ...: it could not be filed
                             the line has the reason; the message is tried again, then set aside
    the database did not take a batch
                             locked, full or away: nothing is lost; it is tried again after up to 15 seconds
    nothing could be taken; the queue is asked again: ...
                             the queue is away; the line has the reason, and mail waits there
    the database cannot work on mailbox or message ...
                             locked for more than four seconds, or damaged: look who holds locks (pg_stat_activity) and
                             what PostgreSQL's log says; what leads there waits in the queue with this reason
    a message was parsed for 120 s and hangs
                             it is kept, and the process ends: please report it, with the message if you may
    metrics mailfarm_inbound_messages_total by outcome: filed, known (filed before), dropped, failed, unparsed, retried
                             (a batch), held (gone back because the database cannot work on its mailbox);
    mailfarm_inbound_held    entries being worked on
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge
from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredSemaphore, gatherResults
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.task import LoopingCall
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

from mailfarm.config import InboundSettings
from mailfarm.errors import LeaseLost, Temporary
from mailfarm.ids import Ids
from mailfarm.inbound.pipeline import Pipeline, said
from mailfarm.ports import Attempt, Bus, Database, Queue

T = TypeVar("T")

WORKERS = 2
WAIT = 30.0
"""Seconds one take waits for an entry."""
IN_MEMORY = 64 * 1024 * 1024
"""Octets of content that stand in memory at once."""
AFTER_TROUBLE = 1.0
"""Seconds until the queue is asked again when it did not answer, and until what must be alone is taken again."""
LONGEST = 120.0
"""Seconds of one message in a thread; 50 MB take some tenths of one. What takes longer hangs: it is filed unparsed, and
the process ends once its batches are, to be started again, for a thread cannot be ended."""
LOST_TOGETHER = 2
"""Tries of an entry beside others. From then on nothing else is in this process with it: if its worker dies of it,
nobody else's mail has used up a try."""


class Inbound:
    """The service. ``clock`` gives microseconds since 1970, ``reactor`` is Twisted's. ``stuck`` is told why this
    process should end, in an orderly way."""

    log = Logger()

    def __init__(
        self,
        *,
        settings: InboundSettings,
        queue: Queue,
        database: Database,
        bus: Bus,
        ids: Ids,
        clock: Callable[[], int],
        reactor: Any,
        registry: CollectorRegistry,
        workers: int = WORKERS,
        in_memory: int = IN_MEMORY,
        stuck: Callable[[str], None] = lambda why: None,
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._reactor = reactor
        self._workers = workers
        self._stuck = stuck
        self._stopping = False
        self._running: list[Deferred[None]] = []
        self._turns = DeferredSemaphore(workers)
        self._takes: set[Deferred[Sequence[Attempt]]] = set()
        self._alone = False
        self._waits: set[Deferred[Any]] = set()  # what stop() need not wait for
        self._behind: set[Deferred[None]] = set()  # and what it waits for last
        self._pipeline = Pipeline(queue=queue, database=database, bus=bus, ids=ids, room=_Room(in_memory), host=self)
        self._extending = LoopingCall(self._extend)
        self._extending.clock = reactor
        self._messages = Counter(
            "mailfarm_inbound_messages", "Messages, by what became of them", ("outcome",), registry=registry
        )
        held = Gauge("mailfarm_inbound_held", "Queue entries being worked on", registry=registry)
        held.set_function(lambda: len(self._pipeline.held))

    async def start(self) -> None:
        """Begin to work."""
        self._stopping = False
        self._extending.start(self._settings.lease / 3, now=False)
        self._running = [Deferred.fromCoroutine(self._work()) for _ in range(self._workers)]

    async def stop(self) -> None:
        """Take nothing more and finish what is under way; a take that is under way is undone. Idempotent."""
        self._stopping = True
        for waiting in tuple(self._waits):
            waiting.cancel()
        running, self._running = self._running, []
        await DeferredList(running)
        await DeferredList(list(self._behind))
        if self._extending.running:
            self._extending.stop()

    async def _work(self) -> None:
        while not self._stopping:
            await self._turns.acquire()
            try:
                if not self._stopping:
                    await self._turn()
            finally:
                self._turns.release()

    async def _turn(self) -> None:
        try:
            attempts = await self._take()
        except CancelledError:
            return
        except Temporary as error:
            self.trouble("nothing could be taken; the queue is asked again", error)
            await self.pause(AFTER_TROUBLE)
            return
        except Exception:  # a loop that must live
            self.log.failure("nothing could be taken; the queue is asked again")
            await self.pause(AFTER_TROUBLE)
            return
        if any(attempt.tries > LOST_TOGETHER for attempt in attempts):
            await self._work_alone(attempts)
        elif attempts:
            await self._work_on(attempts)

    async def _take(self) -> Sequence[Attempt]:
        taking = Deferred.fromCoroutine(_await(self._queue.take(self._settings.batch, self._settings.lease, WAIT)))
        self._takes.add(taking)
        try:
            return await self._unless_stopped(taking)
        finally:
            self._takes.discard(taking)

    async def _work_alone(self, attempts: Sequence[Attempt]) -> None:
        """Nothing else is taken or worked on in this process meanwhile: it may die of these."""
        fences = [attempt.fence for attempt in attempts]
        if self._alone:
            await self._queue.give_back(fences, after=AFTER_TROUBLE)
            return
        self._alone = True
        self._pipeline.held |= set(fences)  # their leases last while we wait for the others
        try:
            turns = [self._turns.acquire() for _ in range(self._workers - 1)]  # before who is cancelled asks again
            for taking in tuple(self._takes):
                taking.cancel()
            for turn in turns:
                await turn
            try:
                await self._work_on(attempts)
            finally:
                for _ in range(self._workers - 1):
                    self._turns.release()
        finally:
            self._alone = False

    async def _work_on(self, attempts: Sequence[Attempt]) -> None:
        try:
            await self._pipeline.work(attempts)
        except Exception:  # a loop that must live: the leases end, and the entries come again
            self.log.failure("a batch of {count} was given up", count=len(attempts))
            await self.pause(AFTER_TROUBLE)

    async def _unless_stopped(self, awaitable: Awaitable[T]) -> T:
        """Wait, but no longer than until the service stops: then raise CancelledError."""
        waiting = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(_await(awaitable))
        self._waits.add(waiting)
        try:
            result: T = await waiting
            return result
        finally:
            self._waits.discard(waiting)

    def _extend(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self._extend_all())

    async def _extend_all(self) -> None:
        # all at once: where one of several stores is away, the leases of the others are extended all the same
        extending = [Deferred.fromCoroutine(self._extend_one(fence)) for fence in tuple(self._pipeline.held)]
        results = await gatherResults(extending)
        if errors := [error for error in results if error is not None]:
            self.trouble(f"{len(errors)} of {len(results)} leases could not be extended", errors[0])

    async def _extend_one(self, fence: str) -> BaseException | None:
        if fence not in self._pipeline.held:
            return None
        try:
            await self._queue.extend(fence, self._settings.lease)
        except LeaseLost:
            pass  # another worker has it: whoever files first files, the other finds it filed
        except Exception as error:  # a loop that must live
            return error
        return None

    # ---- what the pipeline asks of its host

    def seconds(self) -> float:
        """A steady clock."""
        now: float = self._reactor.seconds()
        return now

    async def compute(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread. Raises TookTooLong after ``LONGEST`` seconds."""
        working = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), work)
        try:
            result: T = await working.addTimeout(LONGEST, self._reactor)
        except TookTooLong:
            self._stuck(f"a message was parsed for {LONGEST:g} s and hangs; it is kept as it is. Start this again")
            raise
        return result

    async def together(self, works: Iterator[Awaitable[None]], most: int) -> None:
        """Await all of them, ``most`` at a time."""

        async def some() -> None:
            for work in works:
                await work

        ended: list[tuple[bool, Any]] = await DeferredList(
            [Deferred.fromCoroutine(some()) for _ in range(most)], consumeErrors=True
        )
        for good, outcome in ended:
            if not good:
                outcome.raiseException()

    def behind(self, work: Awaitable[None]) -> None:
        """Have ``work`` done while others go on; ``stop`` waits for it."""
        working = Deferred.fromCoroutine(_await(work))
        self._behind.add(working)
        working.addErrback(lambda failure: self.log.failure("the end of a batch failed", failure=failure))
        working.addBoth(lambda _: self._behind.discard(working))

    async def pause(self, seconds: float) -> bool:
        """Wait; False when the service stops."""
        if self._stopping:
            return False
        over: Deferred[None] = Deferred()
        call = self._reactor.callLater(seconds, over.callback, None)
        try:
            await self._unless_stopped(over)
        except CancelledError:
            return False
        finally:
            if call.active():
                call.cancel()
        return not self._stopping

    def count(self, what: str, many: int) -> None:
        """Count messages by outcome."""
        if many:
            self._messages.labels(what).inc(many)

    def trouble(self, what: str, error: BaseException) -> None:
        """Log what went wrong."""
        self.log.error("{what}: {error}", what=what, error=said(error))


class _Room:
    """A budget of octets, first come, first served."""

    def __init__(self, octets: int) -> None:
        self._octets = octets
        self._used = 0
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()

    def enter(self, octets: int) -> Deferred[None]:
        entered: Deferred[None] = Deferred()
        self._waiting.append((octets, entered))
        self._admit()
        return entered

    def leave(self, octets: int) -> None:
        self._used -= octets
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            octets, entered = self._waiting[0]
            if self._used and self._used + octets > self._octets:
                return
            self._waiting.popleft()
            self._used += octets
            entered.callback(None)


async def _await(awaitable: Awaitable[T]) -> T:
    return await awaitable
