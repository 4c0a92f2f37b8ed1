"""The Database port on PostgreSQL.

A unit is three or more questions, each a round trip, on one connection::

    select clock                              -> tx.now; also finds out a connection that is dead
    begin isolation level ...; first statement
    ... more statements
    commit                                    -> the result, once it is durable

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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeVar

import psycopg2
from prometheus_client import CollectorRegistry
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable

from . import postgres_copy, postgres_sql
from .postgres_address import Server
from .postgres_errors import Again, ReadOnly
from .postgres_link import Link
from .postgres_metrics import Metrics
from .postgres_partitions import Partitions
from .postgres_pool import Pool
from .postgres_schema import check_standing, read_standing

T = TypeVar("T")

_CLOCK = "select (extract(epoch from clock_timestamp()) * 1000000)::bigint"
_UNIT = "BEGIN ISOLATION LEVEL REPEATABLE READ; "
_LOCKING = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = '4s'; "
_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
_END = "ROLLBACK"  # also of reads, which have nothing to keep

MOST_TRIES = 30
"""How often a unit is run on conflicts; with ``patience`` it ends earlier."""
PROMPT = 3.0
"""Seconds in which a server that is there tells the time."""
_log = Logger()


class Caller:
    """Who waits for a unit. Once it has given up, no further statement of the unit is asked: what is under way ends,
    and nothing is kept. So who gives up costs no connection, which would be dear to make anew."""

    __slots__ = ("gave_up", "link", "running")

    def __init__(self) -> None:
        self.gave_up = False
        self.link: Link | None = None
        self.running: Deferred[Any] | None = None

    def give_up(self, _: object = None) -> None:
        """It waits no more."""
        self.gave_up = True
        if self.link is not None and self.link.asking:
            self.link.hurry()
        elif self.running is not None:
            self.running.cancel()  # in line for a connection, or between two tries

    def check(self) -> None:
        """Raises CancelledError."""
        if self.gave_up:
            raise CancelledError


class Tx:
    """An open unit: see ``ports.Tx``."""

    __slots__ = ("_begin", "_caller", "_link", "begun", "now", "problem")

    def __init__(self, link: Link, begin: str, caller: Caller) -> None:
        self._link: Link | None = link
        self._caller = caller
        self._begin = begin
        self.begun = False
        self.now = 0
        self.problem: Exception | None = None
        """The first error of a statement: PostgreSQL keeps nothing of a unit that had one."""

    async def _run(self, text: str, params: Sequence[Any], pieces: Iterator[bytearray] | None = None) -> Any:
        if self._link is None:
            raise RuntimeError("this unit has ended; a tx is good only inside the work it was given to")
        if self.problem is not None:
            raise self.problem
        if not self.begun:
            text = self._begin + text
            self.begun = True
        try:
            asked = self._link.ask(text, params) if pieces is None else self._link.copy(text, pieces)
            answer = await asked
            self._caller.check()
            return answer
        except CancelledError as error:
            self.problem = error
            raise
        except (ValueError, UnicodeEncodeError):  # the driver's, before anything was sent
            if pieces is not None:
                raise
            return await self._again([postgres_sql.clean(value) for value in params], text)
        except (psycopg2.Error, DatabaseUnavailable) as error:
            self.problem = error
            if isinstance(error, ReadOnly) and self._begin != _READ:
                # a server that was the primary: who connects anew finds the one that is
                self._link.end(str(error))
            raise

    async def _again(self, params: Sequence[Any], text: str) -> Any:
        assert self._link is not None
        try:
            return await self._link.ask(text, params)
        except Exception as error:
            self.problem = error
            raise

    async def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows changed."""
        cursor = await self._run(postgres_sql.translated(sql), params)
        return max(cursor.rowcount, 0)

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """All rows."""
        cursor = await self._run(postgres_sql.translated(sql), params)
        return _plain(cursor.fetchall(), cursor.description)

    async def row(self, sql: str, params: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        cursor = await self._run(postgres_sql.translated(sql), params)
        first = cursor.fetchone()
        return None if first is None else _plain([first], cursor.description)[0]

    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, ignore: bool = False
    ) -> int:
        """Insert many rows; the number inserted."""
        if not ignore and postgres_copy.pays(rows):
            types = await self._types(table, tuple(columns))
            if types is not None:
                pieces = postgres_copy.encoded(rows, types)
                copied: int = await self._run(postgres_copy.statement(table, columns), (), pieces)
                return copied
        inserted = 0
        for some in postgres_sql.batches(rows):
            text = postgres_sql.insert_text(table, tuple(columns), len(some), ignore)
            cursor = await self._run(text, [value for row in some for value in row])
            inserted += cursor.rowcount
        return inserted

    async def _types(self, table: str, columns: tuple[str, ...]) -> Sequence[int] | None:
        """The columns' types; None if one is not known to COPY here."""
        if self._link is None or (table, columns) not in self._link.types:
            row = await self.row(postgres_copy.TYPES, (list(columns), table))
            assert self._link is not None
            types = row[0] if row else None
            self._link.types[table, columns] = types if postgres_copy.known(types, len(columns)) else None
        return self._link.types[table, columns]

    async def lock(self, table: str, ids: Sequence[str]) -> None:
        """Lock rows by id, in id order, until the unit ends."""
        if not self.begun and self._begin == _UNIT:
            self._begin = _LOCKING
        if ids:
            # the array is one literal: thousands of ids are parsed as one
            await self._run(
                f"SELECT count(*) FROM (SELECT 1 FROM {table} WHERE id = ANY (%s::text[]) ORDER BY id FOR UPDATE) x",
                [_array(ids)],
            )


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

    def unit(self, work: Callable[[Tx], Awaitable[T]]) -> Deferred[T]:
        """Run ``work`` in one transaction; fires once that is durable. Fails with what ``work`` raises,
        DatabaseUnavailable."""
        return self._begin(work, _UNIT)

    def read(self, work: Callable[[Tx], Awaitable[T]]) -> Deferred[T]:
        """Run ``work`` on a snapshot. A statement that would write fails."""
        return self._begin(work, _READ)

    def prune(self) -> Deferred[int]:
        """Make partitions for days to come, drop one whose day is over, delete some content that had none; how many
        were dropped and deleted."""
        return Deferred.fromCoroutine(self._partitions.prune())

    def _begin(self, work: Callable[[Tx], Awaitable[T]], begin: str) -> Deferred[T]:
        caller = Caller()
        answer: Deferred[T] = Deferred(caller.give_up)

        def done(result: Any) -> None:
            if not answer.called:  # it is, when its caller gave up: then nobody wants to know
                answer.callback(result)

        caller.running = Deferred.fromCoroutine(self._run(work, begin, caller))
        caller.running.addBoth(done)
        return answer

    async def _run(self, work: Callable[[Tx], Awaitable[T]], begin: str, caller: Caller) -> T:
        with self._metrics.timed("read" if begin == _READ else "unit") as timed:
            tries = 0
            while True:
                tries += 1
                try:
                    return await self._once(work, begin, caller)
                except Again as error:
                    caller.check()
                    self._metrics.retried(error.why)
                    if tries >= MOST_TRIES or timed.seconds() >= self._patience:
                        raise DatabaseUnavailable(f"given up after {tries} tries: {error}") from None
                    # 1 ms, 2 ms, 4 ms ... 0.25 s: those who were in each other's way come back at different times
                    pause = min(0.001 * 2 ** min(tries, 20), 0.25) * (0.5 + random.random())
                await deferLater(self._reactor, pause)

    async def _once(self, work: Callable[[Tx], Awaitable[T]], begin: str, caller: Caller) -> T:
        link = caller.link = await self.pool.take()
        tx = Tx(link, begin, caller)
        try:
            tx.now = await self._clock(link)
            caller.check()
            try:
                result = await work(tx)
            finally:
                tx._link = None
                if tx.problem is not None and isinstance(tx.problem, Again):
                    raise tx.problem  # whatever work made of it
            if tx.problem is not None:
                raise tx.problem
            if tx.begun and begin != _READ:
                await self._commit(link)
                tx.begun = False
            return result
        finally:
            caller.link = None
            link.unfinished = tx.begun
            if link.unfinished and not link.why and not self.pool.waiting:
                # the answer tells nothing that anyone waits for
                Deferred.fromCoroutine(self._leave(link)).addErrback(_trouble)
            else:
                self.pool.give(link)  # who takes it next begins with the end of this

    async def _clock(self, link: Link) -> int:
        try:
            question = f"{_END}; {_CLOCK}" if link.unfinished else _CLOCK
            link.unfinished = False
            now: int = (await link.ask(question, within=self._prompt)).fetchone()[0]
        except Again:
            self.pool.suspect()
            raise
        return now

    async def _commit(self, link: Link) -> None:
        try:
            cursor = await link.ask("COMMIT")
        except Again as error:
            if error.why != "lost":
                raise
            raise DatabaseUnavailable(f"whether it was stored is not known: {error}") from None
        if cursor.statusmessage != "COMMIT":
            raise DatabaseUnavailable(f"PostgreSQL answered COMMIT with {cursor.statusmessage}")
        if link.notices:
            # a standby that should have it too was not waited for: stored here, and not as safe as was asked for
            said, link.notices[:] = " ".join(link.notices).strip(), []
            if "replica" in said:
                raise DatabaseUnavailable(f"whether it was stored safely is not known: {said}")

    async def _leave(self, link: Link) -> None:
        try:
            await link.ask(_END)
            link.unfinished = False
        except (DatabaseUnavailable, psycopg2.Error):
            pass  # nothing was to be kept, and the pool forgets a connection that is not at rest
        finally:
            self.pool.give(link)


def _trouble(failure: Any) -> None:
    _log.failure("a connection could not be given back", failure=failure)


def _array(values: Sequence[str]) -> str:
    quoted = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in quoted) + "}"


def _plain(rows: list[tuple[Any, ...]], description: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    """The rows with bytes for bytea, where psycopg2 has memoryviews."""
    if any(column[1] == 17 for column in description or ()):
        return [tuple([bytes(v) if type(v) is memoryview else v for v in row]) for row in rows]
    return rows
