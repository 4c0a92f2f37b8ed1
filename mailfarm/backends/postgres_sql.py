"""The SQL of the house, with ``?`` for each parameter, as psycopg2 takes it.

psycopg2 writes values into the statement's text (there are no bound parameters in its protocol), bytes as two hex
digits each (what is large goes by ``postgres_copy``). So a statement's size is counted before it is made, and a text that PostgreSQL cannot store is found out
here: U+0000 and lone surrogates become U+FFFD. Nothing that must stay byte for byte is ever text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

_PIECES = re.compile(r"""('(?:[^']|'')*'|"(?:[^"]|"")*")|(\?)|(%)""")

MOST_ROWS = 200
"""Rows in one INSERT at most."""
MOST_OCTETS = 8 * 1024 * 1024
"""Octets of one INSERT at most, unless it is one row that is larger."""
_SURROGATES = re.compile("[\x00\ud800-\udfff]")


@lru_cache(1024)
def translated(sql: str) -> str:
    """``sql`` with ``%s`` for each ``?`` outside quotes, and every other percent sign doubled."""

    def piece(match: re.Match[str]) -> str:
        quoted, mark, _ = match.groups()
        if quoted:
            return quoted.replace("%", "%%")
        return "%s" if mark else "%%"

    return _PIECES.sub(piece, sql)


def clean(value: Any) -> Any:
    """The value, if it is text without what PostgreSQL cannot store."""
    return _SURROGATES.sub("\ufffd", value) if isinstance(value, str) else value


def batches(rows: Sequence[Sequence[Any]]) -> Iterator[Sequence[Sequence[Any]]]:
    """``rows`` in order, parted into what one INSERT takes."""
    start = octets = 0
    for number, row in enumerate(rows):
        size = sum(map(_octets, row))
        if number > start and (number - start >= MOST_ROWS or octets + size > MOST_OCTETS):
            yield rows[start:number]
            start, octets = number, 0
        octets += size
    if start < len(rows):
        yield rows[start:]


def _octets(value: Any) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else 3 * len(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return 2 * len(value)
    return 12


@lru_cache(1024)
def insert_text(table: str, columns: tuple[str, ...], rows: int, ignore: bool) -> str:
    """An INSERT of this many rows, in psycopg2's form."""
    row = f"({', '.join(['%s'] * len(columns))})"
    tail = " ON CONFLICT DO NOTHING" if ignore else ""
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {', '.join([row] * rows)}{tail}"
