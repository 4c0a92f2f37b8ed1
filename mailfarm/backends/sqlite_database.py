"""The Database port on SQLite. Units run in the writer's thread, reads in a reader's.

The methods of ``Tx`` are coroutines that never suspend, so a whole unit runs without one thread hop. That is also the
rule a unit has to keep: it awaits its ``tx`` and nothing else.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred

from mailfarm.ports import NOW, Rows

from .sqlite_engine import Engine

T = TypeVar("T")
Item = TypeVar("Item")

PRUNED_ROWS = 500
"""Contents one step of pruning deletes at most, and ..."""
PRUNED_OCTETS = 64 * 1024 * 1024
"""... their octets, unless it is one that is larger."""

SMALL = 64 * 1024
"""Octets of an item that is written in the reactor's thread, which is held up for a fraction of a millisecond."""

_ROWS = 128  # in one INSERT at most: a few statement texts serve every number of rows


class Tx:
    """An open unit: see ``ports.Tx``."""

    __slots__ = ("_connection", "_variables", "now")

    def __init__(self, connection: sqlite3.Connection, now: int) -> None:
        self._connection: sqlite3.Connection | None = connection
        self._variables = connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        self.now = now

    def _run(self, sql: str, params: Sequence[Any]) -> sqlite3.Cursor:
        if self._connection is None:
            raise RuntimeError("this unit has ended; a tx is good only inside the work it was given to")
        return self._connection.execute(sql, params)

    async def execute(self, sql: str, params: Sequence[Any] = ()) -> int:
        """The number of rows changed."""
        cursor = self._run(sql, params)
        changed = cursor.rowcount
        cursor.close()
        return max(changed, 0)

    async def rows(self, sql: str, params: Sequence[Any] = ()) -> Sequence[tuple[Any, ...]]:
        """All rows."""
        return self._run(sql, params).fetchall()

    async def row(self, sql: str, params: Sequence[Any] = ()) -> tuple[Any, ...] | None:
        """The first row, or None."""
        cursor = self._run(sql, params)
        first: tuple[Any, ...] | None = cursor.fetchone()
        cursor.close()  # a statement that was not read to its end would keep its snapshot
        return first

    async def several(self, questions: Sequence[tuple[str, Sequence[Any]]]) -> Sequence[Sequence[tuple[Any, ...]]]:
        """The rows of each."""
        return [self._run(*self._spread(sql, params)).fetchall() for sql, params in questions]

    async def tell(self, sql: str, params: Sequence[Any] = ()) -> None:
        """Execute it."""
        self._run(*self._spread(sql, params)).close()

    def _spread(self, sql: str, params: Sequence[Any]) -> tuple[str, Sequence[Any]]:
        """The statement with a mark for each value of Rows, and NOW told."""
        flat: list[Any] = []
        for param in params:
            if isinstance(param, Rows):
                row = f"({', '.join('?' * len(param.rows[0]))})"
                sql = sql.replace("(values ?)", f"(values {', '.join([row] * len(param.rows))})", 1)
                flat += [value for each in param.rows for value in each]
            else:
                flat.append(self.now if param is NOW else param)
        return sql, flat

    async def insert(
        self, table: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, ignore: bool = False
    ) -> int:
        """Insert many rows; the number inserted."""
        tail = " ON CONFLICT DO NOTHING" if ignore else ""
        return insert_rows(self._run, self._variables, f"INSERT INTO {table} ({', '.join(columns)})", tail, rows)

    async def lock(self, table: str, ids: Sequence[str]) -> None:
        """Nothing: writers are one at a time."""


def insert_rows(
    run: Callable[[str, Sequence[Any]], sqlite3.Cursor],
    variables: int,
    head: str,
    tail: str,
    rows: Sequence[Sequence[Any]],
) -> int:
    """Insert ``rows`` in statements of 128, 64, 32 ... 1 rows, so that the statement cache knows them all."""
    inserted = 0
    at = 0
    if not rows:
        return 0
    width = len(rows[0])
    many = _ROWS
    while many * width > variables and many > 1:
        many //= 2
    mark = f"({', '.join('?' * width)})"
    while at < len(rows):
        while many > len(rows) - at:
            many //= 2
        flat = [value for row in rows[at : at + many] for value in row]
        cursor = run(f"{head} VALUES {', '.join([mark] * many)}{tail}", flat)
        inserted += cursor.rowcount
        cursor.close()
        at += many
    return inserted


def drive(work: Callable[[Tx], Awaitable[T]], connection: sqlite3.Connection, now: int) -> T:
    """Run ``work`` to its end here and now. Raises what it raises; RuntimeError if it awaits anything but its tx."""
    tx = Tx(connection, now)
    steps = work(tx).__await__()
    try:
        next(iter(steps))
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        tx._connection = None
    close = getattr(steps, "close", None)
    if close is not None:
        close()
    raise RuntimeError("a unit may await only its tx: anything else would hold up every other writer")


class Database:
    """The Database port on an ``Engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def unit(self, work: Callable[[Tx], Awaitable[T]], *, late: bool = False) -> Deferred[T]:
        """Run ``work`` in one transaction; fires once that is durable. Fails with what ``work`` raises,
        DatabaseUnavailable."""
        clock = self._engine.clock
        return self._engine.write(lambda connection: drive(work, connection, clock()))

    def read(self, work: Callable[[Tx], Awaitable[T]], *, once: bool = False) -> Deferred[T]:
        """Run ``work`` on a snapshot. A statement that would write fails."""
        clock = self._engine.clock
        return self._engine.read(lambda connection: drive(work, connection, clock()))

    def gather(
        self, work: Callable[[Tx, Sequence[Item]], Awaitable[T]], told: Callable[[T], None]
    ) -> Callable[[Item, int], Deferred[None]]:
        """What takes an item and its octets, and fires once ``work``, given it and all others that waited at the same
        time, is durable. Where that fails, ``work`` is given each of them alone. ``told`` gets what ``work`` gave, in
        the reactor's thread, once for each time and before the last of its items is told."""
        engine = self._engine

        def together(connection: sqlite3.Connection, items: Sequence[Item]) -> Sequence[T | None]:
            result = drive(lambda tx: work(tx, items), connection, engine.clock())
            return [*[None] * (len(items) - 1), result]

        def tell(result: T | None) -> None:
            if result is not None:
                told(result)

        def add(item: Item, size: int) -> Deferred[None]:
            write = engine.gather if size <= SMALL else engine.write_many
            return write(together, item, size).addCallback(tell)

        return add

    def prune(self) -> Deferred[int]:
        """Delete some content whose time is over and of which no message is left, with its chunks; how many."""
        return self.unit(_prune)


async def _prune(tx: Tx) -> int:
    found = await tx.rows(
        "select id, size from content where until <= ? and until < 9223372036854775807"  # the index's own condition
        " and not exists (select 1 from message where message.content = content.id) order by until limit ?",
        (tx.now, PRUNED_ROWS),
    )
    gone: list[str] = []
    octets = 0
    for id, size in found:
        octets += size
        if gone and octets > PRUNED_OCTETS:
            break
        gone.append(id)
    return await tx.execute(f"delete from content where id in ({', '.join('?' * len(gone))})", gone) if gone else 0
