"""The Database port on PostgreSQL.

A unit is two or more journeys on one connection::

    select clock                              -> tx.now; also finds out a connection that is dead
    begin isolation level ...; first statement
    ... more statements
    what waited (``postgres_tx``); commit     -> the result, once it is durable

One that is begun ``late`` on a connection that has answered within the last second leaves out the first: its clock
comes with its first statement. A read that asks ``once`` is one journey there, from its beginning to its end; when it
asks more after all, it is run again as any other read.

**Isolation.** A unit sees one snapshot (REPEATABLE READ), and is run again from its start when another has changed a
row that it changes: no update is lost, whatever ``work`` does. A unit whose first call is ``tx.lock`` waits for its
rows in line and then sees, in each statement, all that is committed by then (READ COMMITTED): units on one busy mailbox
take turns and are never run again; one that waits four seconds for a row gives up (RowsUnavailable). Reads see one
snapshot and cannot write.

**Failures.** A unit is run again on a conflict, a deadlock, or a connection lost before COMMIT was sent. Once that was
sent and no answer came, nobody knows: DatabaseUnavailable, and its caller may find that it was done. No unit of the
house minds: filing is told by ``filed``, marking, deleting and expiring find nothing left to do, and a mailbox or a
credential made under a name answers Conflict.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import psycopg2
from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable

from .postgres_address import Server
from .postgres_errors import Again
from .postgres_link import Link
from .postgres_metrics import Metrics
from .postgres_partitions import Partitions
from .postgres_pipeline import CLOCK
from .postgres_pool import Pool
from .postgres_schema import check_standing, read_standing
from .postgres_tx import END, LATE, ONCE, READ, READS, UNIT, AskedMore, Caller, Tx

T = TypeVar("T")

MOST_TRIES = 30
"""How often a unit is run on conflicts; with ``patience`` it ends earlier."""
PROMPT = 3.0
"""Seconds in which a server that is there tells the time."""
FRESH = 1.0
"""Seconds for which a connection that has answered is taken to be good."""
_log = Logger()


class PostgresDatabase:
    """The Database port on a PostgreSQL server.

    ``url`` is libpq's, ``password`` goes before one in it. Each unit and each read takes one of at most ``pool``
    connections, and waits up to ``wait`` seconds for it. A statement may take ``answer`` seconds. A unit is not begun
    again after ``patience`` seconds. ``name`` is shown in pg_stat_activity. Raises ConfigurationError.
    """

    def __init__(
        self,
        url: str,
        reactor: Any,
        *,
        password: str = "",
        pool: int = 8,
        registry: CollectorRegistry | None = None,
        name: str = "mailfarm",
        wait: float = 5.0,
        answer: float = 15.0,
        patience: float = 10.0,
        most_waiting: int = 2_000,
        connect: float = 4.0,
    ) -> None:
        self._reactor = reactor
        self._patience = patience
        self._prompt = min(PROMPT, answer)
        server = Server.parse(url, password, name)
        self.pool = Pool(
            server, reactor, size=pool, wait=wait, answer=answer, connect=connect, most_waiting=most_waiting
        )
        self._metrics = Metrics(registry, self.pool)
        self._partitions = Partitions(self.unit, self.read, reactor.seconds)

    async def start(self) -> None:
        """Begin to connect. Returns at once, also while PostgreSQL is away."""
        self.pool.start()

    async def stop(self) -> None:
        """Take no more units, finish those under way, and close. Idempotent."""
        await self.pool.stop()

    @property
    def away(self) -> str:
        """Why PostgreSQL cannot be reached; empty as long as nobody has noticed that it cannot."""
        return self.pool.away

    async def check_schema(self) -> None:
        """Whether this program can work with the schema that is there. Raises SchemaOld (temporary: wait for ``mailfarm
        schema``), SchemaMismatch (newer, or none of ours), DatabaseUnavailable."""
        check_standing(await self.read(read_standing))

    def unit(self, work: Callable[[Tx], Awaitable[T]], *, late: bool = False) -> Deferred[T]:
        """Run ``work`` in one transaction; fires once that is durable. Fails with what ``work`` raises,
        DatabaseUnavailable."""
        return self._begin(work, LATE if late else UNIT)

    def read(self, work: Callable[[Tx], Awaitable[T]], *, once: bool = False) -> Deferred[T]:
        """Run ``work`` on a snapshot. A statement that would write fails."""
        return self._begin(work, ONCE if once else READ)

    def prune(self) -> Deferred[int]:
        """Make partitions for days to come, drop one whose day is over, delete some content that had none; how many
        were dropped and deleted."""
        return Deferred.fromCoroutine(self._partitions.prune())

    def _begin(self, work: Callable[[Tx], Awaitable[T]], begin: Sequence[str]) -> Deferred[T]:
        caller = Caller()
        answer: Deferred[T] = Deferred(caller.give_up)

        def done(result: Any) -> None:
            if not answer.called:  # it is, when its caller gave up: then nobody wants to know
                answer.callback(result)

        caller.running = Deferred.fromCoroutine(self._run(work, begin, caller))
        caller.running.addBoth(done)
        return answer

    async def _run(self, work: Callable[[Tx], Awaitable[T]], begin: Sequence[str], caller: Caller) -> T:
        with self._metrics.timed("read" if begin in READS else "unit") as timed:
            tries = 0
            while True:
                tries += 1
                try:
                    return await self._once(work, begin, caller)
                except AskedMore:
                    begin = READ
                    continue
                except Again as error:
                    caller.check()
                    self._metrics.retried(error.why)
                    if tries >= MOST_TRIES or timed.seconds() >= self._patience:
                        raise DatabaseUnavailable(f"given up after {tries} tries: {error}") from None
                    # 1 ms, 2 ms, 4 ms ... 0.25 s: those who were in each other's way come back at different times
                    pause = min(0.001 * 2 ** min(tries, 20), 0.25) * (0.5 + random.random())
                await deferLater(self._reactor, pause)

    async def _once(self, work: Callable[[Tx], Awaitable[T]], begin: Sequence[str], caller: Caller) -> T:
        link = caller.link = await self.pool.take()
        tx = Tx(link, begin, caller)
        try:
            if begin not in (LATE, ONCE) or self._reactor.seconds() - link.heard_at > FRESH:
                tx.now = await self._clock(link)
                caller.check()
            try:
                result = await work(tx)
            except BaseException:
                if tx.problem is not None and isinstance(tx.problem, Again | AskedMore):
                    raise tx.problem from None  # whatever work made of it
                raise
            if tx.problem is not None:
                raise tx.problem
            if not tx.empty and begin not in READS:
                await self._commit(tx, link)
                tx.begun = False
            return result
        finally:
            tx.close()
            caller.link = None
            link.unfinished = link.unfinished or tx.begun
            if link.unfinished and not link.why and not self.pool.waiting:
                # the answer tells nothing that anyone waits for
                Deferred.fromCoroutine(self._leave(link)).addErrback(_trouble)
            else:
                self.pool.give(link)  # who takes it next begins with the end of this

    async def _clock(self, link: Link) -> int:
        try:
            question = f"{END}; select {CLOCK}" if link.unfinished else f"select {CLOCK}"
            link.unfinished = False
            now: int = (await link.ask(question, within=self._prompt)).fetchone()[0]
        except Again:
            self.pool.suspect()
            raise
        return now

    async def _commit(self, tx: Tx, link: Link) -> None:
        try:
            said = await tx.commit()
        except Again as error:
            if error.why != "lost":
                raise
            raise DatabaseUnavailable(f"whether it was stored is not known: {error}") from None
        if said != "COMMIT":
            raise DatabaseUnavailable(f"PostgreSQL answered COMMIT with {said}")
        if "replica" in (notice := link.noticed()):
            # a standby that should have it too was not waited for: stored here, and not as safe as was asked for
            raise DatabaseUnavailable(f"whether it was stored safely is not known: {notice}")

    async def _leave(self, link: Link) -> None:
        try:
            await link.ask(END)
            link.unfinished = False
        except (DatabaseUnavailable, psycopg2.Error):
            pass  # nothing was to be kept, and the pool forgets a connection that is not at rest
        finally:
            self.pool.give(link)


def _trouble(failure: Any) -> None:
    _log.failure("a connection could not be given back", failure=failure)
