"""Many octets into PostgreSQL: ``COPY ... FROM STDIN`` in binary, on the connection and in the transaction of a unit.

As text in a statement 1 MB of content costs 8 ms of CPU here and 12 in PostgreSQL, which reads two hex digits for each
octet; copied it costs 1 and 5. It takes one more journey than a statement, so small rows stay with those.

https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format"
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import Any, Final

from twisted.python.failure import Failure

from .postgres_libpq import BYTEA, INT4, INT8, TEXT
from .postgres_sql import clean
from .postgres_talk import Talk, error_of

PAYS: Final = 32 * 1024
"""Octets of bytes in one row from which on it and its neighbours are copied."""
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
    for column in zip(*rows, strict=True):
        if isinstance(column[0], int | str):
            continue
        kinds = set(map(type, column))
        if kinds.isdisjoint((int, str)) and len(max(filter(None, column), key=len, default=b"")) >= PAYS:
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


class Copying(Talk):
    """One COPY on the connection ``link``. ``done`` fires with the number of rows; fails with psycopg2.Error."""

    def __init__(self, link: Any, sql: str, pieces: Iterator[bytearray]) -> None:
        super().__init__(link)
        self._sql = sql
        self._pieces = pieces
        self._giving = False
        self._rows = 0
        self._error: Exception | None = None

    def begin(self) -> None:
        """Say that a COPY comes."""
        self.libpq.send(self._sql)

    def hear(self) -> bool:
        """Give the next piece, or hear what became of them."""
        if self._giving:
            self._give()
            return False
        result = self.libpq.result()
        if result is None:
            return True
        self._giving = result.copy_in
        self._rows = result.rows
        if result.code and self._error is None:
            self._error = error_of(result)
        return False

    def outcome(self) -> Any:
        """The rows, or the first error."""
        return self._rows if self._error is None else Failure(self._error)

    def _give(self) -> None:
        try:
            piece = next(self._pieces, None)
        except Exception as error:  # a value that is not of its column's type
            piece, self._error = None, error
        if piece is not None:
            self.libpq.put(piece)
            return
        self._giving = False
        self.libpq.end(None if self._error is None else "a value does not fit")


def _text(value: str) -> bytes:
    try:
        data = value.encode()
    except UnicodeEncodeError:
        data = b"\0"
    return clean(value).encode() if b"\0" in data else data
