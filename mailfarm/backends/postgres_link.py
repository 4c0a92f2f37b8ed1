"""One connection to PostgreSQL, on txpostgres, that never waits for ever and is quiet when its server goes.

txpostgres drives psycopg2's connection from the reactor. This adds what a server that dies, stalls or restarts takes:

- every statement, and connecting, has a time limit; past it the connection is closed, since nothing else frees it;
- a connection that is lost while idle is closed without a traceback, and its pool is told;
- nothing that blocks: what nobody waits for any more ends by itself, or is closed after ``HURRY`` seconds (``PQcancel``
  would connect anew and wait); names are resolved elsewhere;
- while it connects, every reader and writer of its socket is taken out of the reactor before that is closed: a file
  descriptor left there would be mistaken for the next connection that gets its number. From then on see
  ``postgres_watch``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, TRANSACTION_STATUS_INERROR, TRANSACTION_STATUS_INTRANS
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.logger import Logger
from txpostgres import txpostgres

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

from .postgres_copy import Copying
from .postgres_errors import Again, first_line, meaning
from .postgres_libpq import Answer
from .postgres_pipeline import Asked, Journey
from .postgres_talk import Talk
from .postgres_watch import Watch

OLDEST_SERVER = 140000
HURRY = 1.0
"""Seconds a statement may take once nobody waits for it any more."""

_SETUP = """
    select current_setting('server_version_num')::integer, current_setting('server_encoding'), pg_is_in_recovery(),
           current_setting('fsync'),
           set_config('synchronous_commit',
                      case current_setting('synchronous_commit') when 'off' then 'on'
                      else current_setting('synchronous_commit') end, false),
           set_config('statement_timeout', %s, false),
           set_config('idle_in_transaction_session_timeout', %s, false),
           set_config('client_connection_check_interval', %s, false),
           set_config('plan_cache_mode', 'force_generic_plan', false),
           set_config('jit', 'off', false),
           set_config('bytea_output', 'hex', false)
"""
"""What is prepared is planned once: a plan made for a few rows costs more than it saves. Nothing here runs for so long
that compiling it would pay."""
_GIVEN_UP = "the statement was given up"
_log = Logger()


class _Cursor(txpostgres.Cursor):
    def _handleCancellation(self, f: Any) -> Any:
        return f  # PostgreSQL's own time limit: nobody here has cancelled anything


class Link(txpostgres.Connection):
    """A connection. ``answer`` is the seconds a statement may take; PostgreSQL itself gives it up a little earlier.
    ``on_end`` is called once, when the connection can be used no more."""

    cursorFactory = _Cursor
    reactor: Any = None
    """Where it listens: Twisted's while it connects, its ``Watch`` from then on."""

    def __init__(self, reactor: Any, *, answer: float, on_end: Callable[[Link], None]) -> None:
        super().__init__(reactor)
        self._answer = answer
        self._on_end = on_end
        self.why = ""
        """Why it has ended; empty while it is good."""
        self.idle_since = 0.0
        self._limit: Any = None
        self._watch: Watch | None = None
        self.types: dict[tuple[str, tuple[str, ...]], Sequence[int] | None] = {}
        """The types of columns that were asked for, by table and columns."""
        self._prepared: dict[str, bytes] = {}
        self.heard_at = 0.0
        """When it answered last (the reactor's seconds)."""
        self.unfinished = False
        """Whether a transaction is open that nobody wants any more: the next question begins with its end."""

    async def open(self, way: dict[str, str], within: float) -> None:
        """Connect and set up. Raises DatabaseUnavailable, SchemaMismatch."""
        timer = self.reactor.callLater(within, self.end, f"no connection within {within:g} s")
        try:
            await self._heard(self.connect(**way))
            self._settle()
            version, encoding, standby, fsync, *_ = await self._set_up()
        except psycopg2.Error as error:
            why = self.why or first_line(error)
            self.end(why)
            raise DatabaseUnavailable(why) from None
        except (ConnectionDone, ConnectionLost):
            if self.why is _GIVEN_UP:
                raise CancelledError from None
            raise DatabaseUnavailable(self.why) from None
        except OSError as error:
            self.end(f"it cannot be watched: {error.strerror}")
            raise DatabaseUnavailable(self.why) from None
        except BaseException:
            self.end("it was given up")
            raise
        finally:
            if timer.active():
                timer.cancel()
        if standby:
            self.end("it is a standby that cannot be written")
            raise DatabaseUnavailable(self.why)
        if version < OLDEST_SERVER or encoding != "UTF8":
            self.end("it cannot be used")
            raise SchemaMismatch(
                f"the database has the encoding {encoding} on PostgreSQL {version // 10000};"
                f" mailfarm needs UTF8 on {OLDEST_SERVER // 10000} or newer"
            )
        if fsync != "on":
            _log.warn("PostgreSQL runs with fsync off: what it says is stored may be lost when its machine stops")

    def _settle(self) -> None:
        """It is connected, and its socket stays the same. Raises psycopg2.Error when it is closed already, OSError."""
        self.reactor.removeReader(self)
        self.reactor = self._watch = Watch(self.reactor, self.fileno())
        self.reactor.addReader(self)

    async def _set_up(self) -> tuple[Any, ...]:
        own = max(self._answer - 1.5, self._answer / 2)  # it should be the first to give up, as it then says so
        times = [str(int(seconds * 1000)) for seconds in (own, self._answer, 1.0)]
        try:
            cursor = await self._execute(_SETUP, times)
        except psycopg2.errors.InvalidParameterValue:
            # a server on a system that cannot tell whether a client is still there
            cursor = await self._execute(_SETUP, [*times[:2], "0"])
        row: tuple[Any, ...] = cursor.fetchone()
        return row

    async def ask(self, sql: str, params: Sequence[Any] | None = None, within: float | None = None) -> Any:
        """Run one statement, or several with the last one's result; the cursor. Raises Again (the connection is lost
        or another unit was in the way), DatabaseUnavailable, psycopg2.Error."""
        return await self._within(self._answer if within is None else within, self._execute(sql, params))

    async def copy(self, sql: str, pieces: Iterator[bytearray]) -> int:
        """Give ``pieces`` to a COPY; how many rows it took. Raises what ``ask`` raises."""
        rows: int = await self._within(self._answer, self._talk(Copying(self, sql, pieces)))
        return rows

    async def journey(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """Ask several statements at once; an answer to each. Raises what ``ask`` raises."""
        answers: Sequence[Answer] = await self._within(self._answer, self._talk(Journey(self, asked, self._prepared)))
        return answers

    def noticed(self) -> str:
        """What the server has said beside its answers since it was asked for the last time."""
        try:
            self.pollable().poll()  # takes up what libpq has kept
        except psycopg2.Error as error:
            self.end(first_line(error))
        said, self.notices[:] = " ".join(self.notices).strip(), []
        return said

    async def _within(self, seconds: float, answer: Awaitable[Any]) -> Any:
        timer = self.reactor.callLater(seconds, self.end, f"no answer within {seconds:g} s")
        self._limit = timer
        try:
            found = await answer
            self.heard_at = self.reactor.seconds()
            return found
        except psycopg2.Error as error:
            # a server that shuts down says so, and then closes
            mean = meaning(error, bool(self.why) or self.closed != 0)
            if isinstance(mean, Again) and mean.why == "lost":
                self.end(str(mean))
            if mean is error:
                raise
            raise mean from None
        except (ConnectionDone, ConnectionLost):
            if self.why is _GIVEN_UP:
                raise CancelledError from None  # the caller's wish: nothing to be run again
            raise Again("lost", f"the connection to PostgreSQL was lost ({self.why or 'it closed'})") from None
        except CancelledError:
            self.end(_GIVEN_UP)
            raise
        finally:
            self._limit = None
            if timer.active():
                timer.cancel()

    @property
    def asking(self) -> bool:
        """Whether a statement is under way."""
        return self._limit is not None

    def hurry(self) -> None:
        """Nobody waits for the statement under way any more: it has ``HURRY`` seconds to end."""
        if self._limit is not None and self._limit.getTime() > self.reactor.seconds() + HURRY:
            self._limit.reset(HURRY)

    async def _execute(self, sql: str, params: Sequence[Any] | None) -> Any:
        self._check()
        cursor = self.cursor()
        await self._heard(cursor.execute(sql, params))
        self._check()  # it may have ended between the answer's arrival and now
        return cursor

    async def _talk(self, talk: Talk) -> Any:
        self._check()
        talk.start()
        heard = await self._heard(talk.done)
        self._check()
        return heard

    def _check(self) -> None:
        if self.why:
            raise Again("lost", f"the connection to PostgreSQL was lost ({self.why})")

    def _heard(self, asked: Deferred[Any]) -> Deferred[Any]:
        """What txpostgres gives, in a Deferred that may be cancelled at any time: its own ones fire once more when
        their answer had arrived."""
        heard: Deferred[Any] = Deferred(lambda _: self.end(_GIVEN_UP))

        def hear(result: Any) -> None:
            if not heard.called:
                heard.callback(result)

        asked.addBoth(hear)
        return heard

    @property
    def resting(self) -> bool:
        """Whether it can be used: nothing is under way, and no transaction is open unless it is ``unfinished``."""
        if self.why or self.closed:
            return False
        status = self.get_transaction_status()
        left_open = (TRANSACTION_STATUS_INTRANS, TRANSACTION_STATUS_INERROR)
        return status == TRANSACTION_STATUS_IDLE or (self.unfinished and status in left_open)

    def end(self, why: str = "it was closed") -> None:
        """Close. What waits for an answer fails. Idempotent."""
        if self.why:
            return
        self.why = why
        for each in (self, *self._cursors):
            self.reactor.removeReader(each)
            self.reactor.removeWriter(each)
        if self._watch is not None:
            self._watch.close()
        if self._connection is not None:
            self.close()
        self._on_end(self)

    # ---- IReadWriteDescriptor, for a connection at rest or connecting

    def doRead(self) -> None:
        """Something came unasked: connecting goes on, a notice, or the end."""
        if self._pollingD is not None:
            txpostgres._PollingMixin.doRead(self)
            return
        try:
            self._connection.poll()
        except psycopg2.Error as error:
            self.end(first_line(error))
            return
        if self._connection.closed:
            self.end("PostgreSQL closed the connection")

    def connectionLost(self, reason: Any) -> None:
        """The reactor saw it go, or ``close`` says so."""
        if self._pollingD is not None or self.why:
            super().connectionLost(reason)
        elif not self._cursors:
            self.end("PostgreSQL closed the connection")
