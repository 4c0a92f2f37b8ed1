"""An open unit on PostgreSQL, and who waits for it.

What nobody needs an answer of waits in the unit (``insert``, ``tell``) and goes with the next question, or with COMMIT,
in one journey. So does the beginning of the unit. In a unit that was begun ``late`` so do the clock and the locks: all
of filing a batch is two journeys. A read that asks ``once`` is one, with its clock, its question and its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import psycopg2
from twisted.internet.defer import CancelledError, Deferred

from mailfarm.errors import DatabaseUnavailable

from . import postgres_arrays, postgres_copy, postgres_pipeline, postgres_sql
from .postgres_errors import ReadOnly
from .postgres_libpq import Answer
from .postgres_link import Link
from .postgres_pipeline import CLOCK, Asked

UNIT = ("BEGIN ISOLATION LEVEL REPEATABLE READ",)
LOCKING = ("BEGIN ISOLATION LEVEL READ COMMITTED", "SET LOCAL lock_timeout = '4s'")
LATE = LOCKING[:1]
READ = ("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",)
ONCE = ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",)
"""The same, for one question; the comma tells the two apart."""
READS = (READ, ONCE)
END = "ROLLBACK"
"""Also of reads, which have nothing to keep."""

MOST_WAITING = 1024 * 1024
"""Octets that wait in a unit; what goes beyond is sent at once."""

_END = Asked(END)
_CLOCK_AND_LIMITS = Asked(
    f"select {CLOCK}, set_config('lock_timeout', '4s', true), set_config('enable_seqscan', 'off', true),"
    " set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin', 'off', true)"
)
"""A plan that is made while tables are small and kept while they grow must go by their indexes from the beginning."""


class AskedMore(Exception):
    """A read that was to ask once asks again: its snapshot is gone."""


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
    """An open unit: see ``ports.Tx``. ``begin`` are the statements it begins with."""

    __slots__ = ("_begin", "_caller", "_link", "_octets", "_over", "_waiting", "begun", "now", "problem")

    def __init__(self, link: Link, begin: Sequence[str], caller: Caller) -> None:
        self._link: Link | None = link
        self._caller = caller
        self._begin = begin
        self._waiting: list[Asked] = []
        self._octets = 0
        self._over = False
        self.begun = False
        self.now = 0
        self.problem: Exception | None = None
        """The first error of a statement: PostgreSQL keeps nothing of a unit that had one."""

    async def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows changed."""
        cursor = await self._run(postgres_sql.translated(sql), params)
        return max(cursor.rowcount, 0)

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """All rows."""
        if self._begin is ONCE:
            return (await self.several([(sql, params)]))[0]
        cursor = await self._run(postgres_sql.translated(sql), params)
        return _plain(cursor.fetchall(), cursor.description)

    async def row(self, sql: str, params: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        if self._begin is ONCE:
            return next(iter(await self.rows(sql, params)), None)
        cursor = await self._run(postgres_sql.translated(sql), params)
        first = cursor.fetchone()
        return None if first is None else _plain([first], cursor.description)[0]

    async def several(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Sequence[tuple[Any, ...]]]:
        """The rows of each."""
        answers = await self._go([postgres_pipeline.asked(sql, params) for sql, params in questions])
        return [answer.rows for answer in answers]

    async def tell(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Execute it by the end of the unit."""
        await self._put_off(postgres_pipeline.asked(sql, params))

    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, ignore: bool = False
    ) -> int:
        """Insert many rows; the number inserted."""
        if not rows:
            return 0
        if not ignore and postgres_copy.pays(rows):
            types = await self._types(table, tuple(columns))
            if types is not None:
                pieces = postgres_copy.encoded(rows, types)
                copied: int = await self._run(postgres_copy.statement(table, columns), (), pieces)
                return copied
        arrays = postgres_arrays.columns(rows)
        kinds = tuple(["" if array is None else postgres_arrays.type_name(array) for array in arrays])
        sql = postgres_pipeline.insert(table, tuple(columns), kinds, ignore)
        asked = Asked(sql, [array for array in arrays if array is not None])
        if ignore or self._begin in READS:  # the number is not known before, or what it says is an error
            return (await self._go([asked]))[0].changed
        await self._put_off(asked)
        return len(rows)

    async def lock(self, table: str, ids: Sequence[str]) -> None:
        """Lock rows by id, in id order, until the unit ends."""
        if not self.begun and self._begin == UNIT:
            self._begin = LOCKING
        if not ids:
            return
        asked = Asked(
            f"select count(*) from (select 1 from {table} where id = any ($1::text[]) order by id for update) x",
            [postgres_arrays.texts(ids)],
        )
        if self._begin == LATE:
            await self._put_off(asked)
        else:
            await self._go([asked])

    async def commit(self) -> str:
        """Send what waits, and COMMIT behind it; what PostgreSQL said to that."""
        answers = await self._go([Asked("COMMIT", keep=False)])
        return answers[0].command

    @property
    def empty(self) -> bool:
        """Whether it has nothing to commit."""
        return not self.begun and not self._waiting

    def close(self) -> None:
        """Nothing more may be asked through it."""
        self._link = None

    # ----

    def _open_link(self) -> Link:
        if self._link is None:
            raise RuntimeError("this unit has ended; a tx is good only inside the work it was given to")
        if self._over and self.problem is None:
            self.problem = AskedMore()
        if self.problem is not None:
            raise self.problem
        return self._link

    async def _put_off(self, asked: Asked) -> None:
        self._open_link()
        self._waiting.append(asked)
        self._octets += sum(len(param.data or b"") for param in asked.params)
        if self._octets > MOST_WAITING:
            await self._go([])

    async def _go(self, asked: Sequence[Asked]) -> Sequence[Answer]:
        """Ask these, and what waits before them; their answers."""
        link = self._open_link()
        statements = [*self._waiting, *asked]
        self._waiting, self._octets = [], 0
        clock = -1
        if not self.begun:
            once = self._begin is ONCE
            begin = [Asked(text, keep=once) for text in self._begin]
            if once or self._begin == LATE:
                if link.unfinished:
                    begin.insert(0, Asked(END, keep=False))
                    link.unfinished = False
                clock = len(begin)
                begin.append(_CLOCK_AND_LIMITS)
            statements = [*begin, *statements]
            if once:
                statements.append(_END)
            self.begun = True
        answers = await self._guarded(link, link.journey(statements))
        if clock >= 0:
            (self.now, *_) = answers[clock].rows[0]
        if self._begin is ONCE:
            answers = answers[:-1]
            self.begun, self._over = False, True
        return answers[len(answers) - len(asked) :]

    async def _run(self, text: str, params: Sequence[Any], pieces: Iterator[bytearray] | None = None) -> Any:
        self._over = self._over or self._begin is ONCE  # that goes by ``_go``
        link = self._open_link()
        if self._waiting or (self._begin == LATE and not self.begun):
            await self._go([])
        if not self.begun:
            text = "; ".join([*self._begin, text])
            self.begun = True
        if pieces is not None:
            return await self._guarded(link, link.copy(text, pieces))
        try:
            return await self._guarded(link, link.ask(text, params))
        except ValueError:  # the driver's, before anything was sent
            return await self._guarded(link, link.ask(text, [postgres_sql.clean(value) for value in params]))

    async def _guarded(self, link: Link, asking: Any) -> Any:
        try:
            answer = await asking
            self._caller.check()
            return answer
        except CancelledError as error:
            self.problem = error
            raise
        except (psycopg2.Error, DatabaseUnavailable) as error:
            self.problem = error
            if isinstance(error, ReadOnly) and self._begin not in READS:
                # a server that was the primary: who connects anew finds the one that is
                link.end(str(error))
            raise

    async def _types(self, table: str, columns: tuple[str, ...]) -> Sequence[int] | None:
        """The columns' types; None if one is not known to COPY here."""
        types = self._open_link().types
        if (table, columns) not in types:
            row = await self.row(postgres_copy.TYPES, (list(columns), table))
            found = row[0] if row else None
            types[table, columns] = found if postgres_copy.known(found, len(columns)) else None
        return types[table, columns]


def _plain(rows: list[tuple[Any, ...]], description: Sequence[Any] | None) -> list[tuple[Any, ...]]:
    """The rows with bytes for bytea, where psycopg2 has memoryviews."""
    if any(column[1] == 17 for column in description or ()):
        return [tuple([bytes(v) if type(v) is memoryview else v for v in row]) for row in rows]
    return rows
