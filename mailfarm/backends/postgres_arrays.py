"""Parameters for PostgreSQL in binary: whole columns of rows as arrays, and single values.

A statement over many rows has one array a column, so its text does not depend on how many rows there are: it is
prepared once. Nothing of a value is written as text or read as text again.

The form of an array (``array_recv`` in PostgreSQL's source), all numbers in network order::

    dimensions (1), whether there are nulls, type, count, lower bound (1), then length and octets of each; -1: null
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct, pack
from typing import Any, Final, NamedTuple

from .postgres_sql import clean

TEXT, INT8, BYTEA = 25, 20, 17
"""Types by their number in ``pg_type``, and by that of their arrays:"""
_ARRAYS: Final = {TEXT: 1009, INT8: 1016, BYTEA: 1001}
_NAMES: Final = {1009: "text[]", 1016: "bigint[]", 1001: "bytea[]"}
_UNKNOWN: Final = 0
"""The type of what the server is to find out."""

_NULL: Final = b"\xff\xff\xff\xff"
_EMPTY: Final = pack("!iii", 0, 0, TEXT)
_head = Struct("!iiIii").pack
_length = Struct("!i").pack
_int8 = Struct("!q").pack


class Param(NamedTuple):
    """A parameter: the number of its type, and its octets; None: null. Text goes as text, all else in binary."""

    type: int
    data: bytes | None

    @property
    def binary(self) -> int:
        """libpq's word for its form."""
        return int(self.type != _UNKNOWN)


def value(given: Any) -> Param:
    """A single value. Raises TypeError for a type that goes as text only."""
    kind = type(given)
    if given is None:
        return Param(_UNKNOWN, None)
    if kind is str:
        return Param(_UNKNOWN, text(given))
    if kind is int:
        return Param(INT8, _int8(given))
    if kind is bytes:
        return Param(BYTEA, given)
    raise TypeError(f"no binary form for {kind.__name__}")


def columns(rows: Sequence[Sequence[Any]]) -> list[Param | None]:
    """An array for each column of ``rows``, of which there is one at least; None for one that has only nulls (not all
    have). Raises
    TypeError for a column of several types, or of one without a binary form."""
    return [_column(column) for column in zip(*rows, strict=True)]


def type_name(param: Param) -> str:
    """The SQL name of an array's type."""
    return _NAMES[param.type]


def text(given: str) -> bytes:
    """Text as PostgreSQL can store it: U+0000 and lone surrogates become U+FFFD."""
    try:
        data = given.encode()
    except UnicodeEncodeError:
        return clean(given).encode()
    return clean(given).encode() if b"\0" in data else data


def texts(values: Sequence[str]) -> Param:
    """An array of text, which may be empty."""
    return Param(_ARRAYS[TEXT], _array(TEXT, _texts(values, False), False) if values else _EMPTY)


def _column(column: Sequence[Any]) -> Param | None:
    kinds = set(map(type, column))
    nulls = type(None) in kinds
    kinds.discard(type(None))
    if not kinds:
        return None
    if kinds == {int}:
        if not nulls:
            return Param(_ARRAYS[INT8], _numbers(column))
        return Param(_ARRAYS[INT8], _array(INT8, [None if each is None else _int8(each) for each in column], nulls))
    if kinds == {str}:
        return Param(_ARRAYS[TEXT], _array(TEXT, _texts(column, nulls), nulls))
    if kinds <= {bytes, memoryview}:
        return Param(_ARRAYS[BYTEA], _array(BYTEA, column, nulls))
    raise TypeError("a column without a binary form")


def _numbers(column: Sequence[int]) -> bytes:
    words = [8] * (2 * len(column))
    words[1::2] = column
    return _head(1, 0, INT8, len(column), 1) + _numbers_form(len(column)).pack(*words)


@lru_cache(512)
def _numbers_form(count: int) -> Struct:
    return Struct("!" + "iq" * count)


def _array(kind: int, items: Sequence[bytes | memoryview | None], nulls: bool) -> bytes:
    parts: list[Any] = [b""] * (2 * len(items) + 1)
    parts[0] = _head(1, int(nulls), kind, len(items), 1)
    if nulls:
        parts[1::2] = [_NULL if item is None else _length(len(item)) for item in items]
        parts[2::2] = [item or b"" for item in items]
    else:
        parts[1::2] = map(_length, map(len, items))  # type: ignore[arg-type]  # there is no null
        parts[2::2] = items
    return b"".join(parts)


def _texts(column: Sequence[str | None], nulls: bool) -> Sequence[bytes | None]:
    if not nulls:
        try:
            data = [*map(str.encode, column)]  # type: ignore[arg-type]  # there is no null
        except UnicodeEncodeError:
            pass
        else:
            if b"\0" not in b"".join(data):
                return data
    return [None if each is None else text(each) for each in column]
