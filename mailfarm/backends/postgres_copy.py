"""Many octets into PostgreSQL: ``COPY ... FROM STDIN`` in binary, on the connection and in the transaction of a unit.

As text in a statement 1 MB of content costs 8 ms of CPU here and 12 in PostgreSQL, which reads two hex digits for each
octet; copied it costs 1 and 5. It takes one more journey than a statement, so small rows stay with those.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from struct import Struct
from types import SimpleNamespace
from typing import Any, Final

import psycopg2
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .postgres_libpq import BYTEA, INT4, INT8, TEXT, Libpq, Lost, Result
from .postgres_sql import clean

PAYS: Final = 32 * 1024
"""Octets of bytes in some rows from which on they are copied."""
GATHER: Final = 64 * 1024
"""Octets after which a piece is sent."""
TYPES: Final = """
    select array_agg(a.atttypid::bigint order by w.place) from unnest(?::text[]) with ordinality w (name, place)
    join pg_attribute a on a.attrelid = ?::regclass and a.attname = w.name and a.attnum > 0
"""
"""Asks for the types of columns: their names, and the table's."""

_SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"
_NULL = b"\xff\xff\xff\xff"
_count = Struct("!h").pack
_length = Struct("!i").pack
_int4 = Struct("!ii").pack
_int8 = Struct("!iq").pack


def pays(rows: Iterable[Sequence[Any]]) -> bool:
    """Whether to copy these rows."""
    octets = 0
    for row in rows:
        for value in row:
            if isinstance(value, bytes | memoryview):
                octets += len(value)
        if octets >= PAYS:
            return True
    return False


def encoded(rows: Iterable[Sequence[Any]], types: Sequence[int]) -> Iterator[bytearray]:
    """The rows as COPY reads them, in pieces."""
    out = bytearray(_SIGNATURE)
    for row in rows:
        out += _count(len(types))
        for value, type in zip(row, types, strict=True):
            if value is None:
                out += _NULL
            elif type == INT4:
                out += _int4(4, value)
            elif type == INT8:
                out += _int8(8, value)
            else:
                data = _text(value) if type == TEXT else value
                out += _length(len(data))
                out += data
        if len(out) >= GATHER:
            yield out
            out = bytearray()
    out += _END
    yield out


def known(types: Sequence[int] | None, columns: int) -> bool:
    """Whether ``encoded`` knows all of them, and they are as many as there are columns."""
    return types is not None and len(types) == columns and {*types} <= {TEXT, INT4, INT8, BYTEA}


def statement(table: str, columns: Sequence[str]) -> str:
    """The COPY that reads what ``encoded`` gives."""
    return f"COPY {table} ({', '.join(columns)}) FROM STDIN (FORMAT binary)"


class Copying:
    """One COPY on the txpostgres connection ``link``, which it replaces in the reactor meanwhile. ``done`` fires with
    the number of rows; fails with psycopg2.Error."""

    def __init__(self, link: Any, sql: str, pieces: Iterator[bytearray]) -> None:
        self.done: Deferred[int] = Deferred()
        self._link = link
        self._reactor = link.reactor
        self._libpq = Libpq(link.pollable())
        self._sql = sql
        self._pieces = pieces
        self._giving = self._over = False
        self._rows = 0
        self._error: Exception | None = None

    def start(self) -> None:
        """Begin."""
        self._link.cursorRunning(self)
        self._go_on(lambda: self._libpq.send(self._sql))

    # ---- IReadWriteDescriptor

    def fileno(self) -> int:
        """The connection's socket; -1 once it has none."""
        number: int = self._link.fileno()
        return number

    def logPrefix(self) -> str:
        return "copying"

    def doRead(self) -> None:
        """Something came."""
        self._go_on(self._libpq.consume)

    def doWrite(self) -> None:
        """There is room for more."""
        self._go_on(lambda: None)

    def connectionLost(self, reason: Failure) -> None:
        """The connection was closed under it."""
        self._finish(reason)

    # ---- the conversation

    def _go_on(self, step: Callable[[], None]) -> None:
        # libpq closes the socket of a connection that it finds broken, and by then the reactor must not watch it
        self._reactor.removeReader(self)
        self._reactor.removeWriter(self)
        try:
            step()
            sent = self._talk()
        except Lost as error:
            self._link.end(str(error))  # and that comes to connectionLost
            return
        if self._over:
            self._finish(self._rows if self._error is None else Failure(self._error))
            return
        self._reactor.addReader(self)
        if not sent:
            self._reactor.addWriter(self)

    def _talk(self) -> bool:
        """Say and hear what can be said and heard now. Whether all that was said has been sent."""
        while self._libpq.flush():
            if self._giving:
                self._give()
            elif self._libpq.busy:
                return True
            else:
                result = self._libpq.result()
                if result is None:
                    self._over = True
                    return True
                self._giving = result.copy_in
                self._rows = result.rows
                if result.code and self._error is None:
                    self._error = _error(result)
        return False

    def _give(self) -> None:
        try:
            piece = next(self._pieces, None)
        except Exception as error:  # a value that is not of its column's type
            piece, self._error = None, error
        if piece is not None:
            self._libpq.put(piece)
            return
        self._giving = False
        self._libpq.end(None if self._error is None else "a value does not fit")

    def _finish(self, outcome: Any) -> None:
        if not self.done.called:
            self._link.cursorFinished(self)
            self.done.callback(outcome)  # a Failure goes the other way by itself


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = b"\0"
    return clean(value).encode() if b"\0" in data else data  # type: ignore[no-any-return]  # clean text is text


def _error(result: Result) -> psycopg2.Error:
    """What psycopg2 would have raised."""
    error: psycopg2.Error = _error_class(result.code)(result.text)
    error.__setstate__({"pgcode": result.code})  # type: ignore[attr-defined]  # its stubs do not know how it unpickles
    error.diag = SimpleNamespace(  # type: ignore[misc,assignment]
        message_primary=result.text, constraint_name=result.constraint or None
    )
    return error


@lru_cache(64)
def _error_class(code: str) -> Any:
    try:
        known = psycopg2.errors.lookup(code)
    except KeyError:
        known = psycopg2.DatabaseError
    return type(known.__name__, (known,), {"diag": None})  # psycopg2's own diag can only be what libpq gave it
