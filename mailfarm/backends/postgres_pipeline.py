"""Several statements in one journey: libpq's pipeline mode, on the connection and in the transaction of a unit.

::

    begin, clock, lock, question, question  ->  one write  ->  their answers, in order
    insert, insert, update, commit          ->  one write  ->  ...

What one of them needs from another's answer is another journey. Once one fails PostgreSQL does none of those behind it:
a COMMIT at the end is done only if everything before it was. Values go in binary (``postgres_arrays``), and a statement
that is asked again is prepared: PostgreSQL reads its text once for each connection.

https://www.postgresql.org/docs/current/libpq-pipeline-mode.html
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from twisted.python.failure import Failure

from mailfarm.ports import NOW, Rows

from . import postgres_arrays
from .postgres_arrays import Param
from .postgres_libpq import Answer, Lost
from .postgres_talk import Talk, error_of

MOST_PREPARED: Final = 100
"""Statements that a connection knows by name at most; what comes then is sent with its text."""

CLOCK: Final = "(extract(epoch from clock_timestamp()) * 1000000)::bigint"
"""Microseconds since 1970, by the server's clock."""

_MARKS = re.compile(r"'(?:[^']|'')*'|\(values \?\) as (?P<name>\w+)|\?")


class Asked(NamedTuple):
    """A statement with ``$1``, ``$2`` ... and its parameters. ``keep``: prepare it."""

    sql: str
    params: Sequence[Param] = ()
    keep: bool = True


def asked(sql: str, given: Sequence[Any]) -> Asked:
    """A statement of the house, with ``?`` for each parameter and ``(values ?) as v`` for each that is Rows. Raises
    TypeError for values without a binary form."""
    params: list[Param] = []
    shapes: list[tuple[str, ...] | None] = []
    for each in given:
        if each is NOW:
            shapes.append(None)
        elif isinstance(each, Rows):
            arrays = postgres_arrays.columns(each.rows)
            if None in arrays:
                raise TypeError("a column of nulls has no type")
            params += filter(None, arrays)
            shapes.append(tuple([postgres_arrays.type_name(array) for array in arrays if array]))
        else:
            params.append(postgres_arrays.value(each))
            shapes.append(())
    return Asked(_numbered(sql, tuple(shapes)), params)


@lru_cache(256)
def _numbered(sql: str, shapes: tuple[tuple[str, ...] | None, ...]) -> str:
    """``sql`` with ``$1``, ``$2`` ... for its parameters: the types of arrays, none for one value, None for NOW."""
    left = iter(shapes)
    number = 0

    def piece(match: re.Match[str]) -> str:
        nonlocal number
        if match[0].startswith("'"):
            return match[0]
        shape = next(left)
        if shape is None:
            return CLOCK
        if not shape:
            number += 1
            return f"${number}"
        arrays = [f"${number + place}::{type}" for place, type in enumerate(shape, 1)]
        names = [f"column{place}" for place in range(1, len(shape) + 1)]
        number += len(shape)
        return f"unnest({', '.join(arrays)}) as {match['name']} ({', '.join(names)})"

    return _MARKS.sub(piece, sql)


@lru_cache(256)
def insert(table: str, columns: tuple[str, ...], types: tuple[str, ...], ignore: bool) -> str:
    """An INSERT of any number of rows: an array a column, of these types; an empty one is a column of nulls."""
    names = [f"c{number}" for number in range(len(columns))]
    given = [name for name, type in zip(names, types, strict=True) if type]
    marks = [f"${number}::{type}" for number, type in enumerate(filter(None, types), 1)]
    values = [name if type else "null" for name, type in zip(names, types, strict=True)]
    tail = " on conflict do nothing" if ignore else ""
    return (
        f"insert into {table} ({', '.join(columns)}) select {', '.join(values)}"
        f" from unnest({', '.join(marks)}) as v({', '.join(given)}){tail}"
    )


class Journey(Talk):
    """Ask these statements on the connection ``link``. ``done`` fires with an ``Answer`` for each; fails with the
    psycopg2.Error of the first that failed. ``known`` are the names of the statements it has prepared so far."""

    def __init__(self, link: Any, statements: Sequence[Asked], known: dict[str, bytes]) -> None:
        super().__init__(link)
        self._statements = statements
        self._known = known
        self._expected: deque[str | None] = deque()  # what is prepared; None: an answer
        self._answers: list[Answer] = []
        self._error: Exception | None = None

    def begin(self) -> None:
        """Say everything."""
        libpq = self.libpq
        libpq.enter_pipeline()
        for sql, params, keep in self._statements:
            name = self._known.get(sql)
            if name is None and keep and len(self._known) < MOST_PREPARED:
                name = b"m%d" % len(self._known)
                self._known[sql] = name
                libpq.prepare(name, sql, [param.type for param in params])
                self._expected.append(sql)
            if name is None:
                libpq.query(sql, params)
            else:
                libpq.execute(name, params)
            self._expected.append(None)
        libpq.sync()

    def hear(self) -> bool:
        """Take the answers that are there. Whether all are."""
        while not self.libpq.busy:
            answer = self.libpq.answer()
            if answer is None:
                continue
            if answer.synced:
                self.libpq.leave_pipeline()
                return True
            if answer.code and not self._expected:
                raise Lost(answer.text)  # the server has ended behind the last answer, perhaps a COMMIT's
            if answer.code:
                self._error = error_of(answer)  # the only one: what comes behind it is skipped
            prepared = self._expected.popleft()
            if prepared is None:
                self._answers.append(answer)
            elif answer.code or answer.skipped:
                del self._known[prepared]
        return False

    def outcome(self) -> Any:
        """What ``done`` fires with."""
        return self._answers if self._error is None else Failure(self._error)
