"""The part of libpq that psycopg2 does not show, on psycopg2's own connections.

A psycopg2 connection that does not block cannot COPY, and psycopg2 sends no value in binary at all. libpq can do both,
and psycopg2 hands out its connection for that (``connection.pgconn_ptr``). What is called here is the libpq that
psycopg2 itself has loaded. The caller sees to it that psycopg2 asks nothing meanwhile.

https://www.postgresql.org/docs/current/libpq-async.html, libpq-copy.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from psycopg2 import _psycopg

from .postgres_arrays import Param

TEXT, INT8, INT4, BYTEA = 25, 20, 23, 17
"""Types by their number in ``pg_type``."""

_BAD_RESPONSE: Final = 5
_FATAL: Final = 7
_COPY_IN: Final = 4
_COPIES_TO_US: Final = (3, 8)  # out, and both ways: libpq would say so again for ever
_SYNCED: Final = 10
_ABORTED: Final = 11

_pointer, _text, _number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
# Finds what the driver is linked with. The interpreter stays locked: no call blocks, and to unlock it each time would
# mean to wait for any thread that computes.
_loaded = ctypes.PyDLL(_psycopg.__file__)


def _function(name: str, result: Any, *arguments: Any) -> Any:
    found = getattr(_loaded, name)
    found.restype, found.argtypes = result, arguments
    return found


_send_query = _function("PQsendQuery", _number, _pointer, _text)
_flush = _function("PQflush", _number, _pointer)
_consume_input = _function("PQconsumeInput", _number, _pointer)
_is_busy = _function("PQisBusy", _number, _pointer)
_get_result = _function("PQgetResult", _pointer, _pointer)
_put_copy_data = _function("PQputCopyData", _number, _pointer, _pointer, _number)
_put_copy_end = _function("PQputCopyEnd", _number, _pointer, _text)
_error_message = _function("PQerrorMessage", _text, _pointer)
_result_status = _function("PQresultStatus", _number, _pointer)
_result_error_field = _function("PQresultErrorField", _text, _pointer, _number)
_command_rows = _function("PQcmdTuples", _text, _pointer)
_clear = _function("PQclear", None, _pointer)
_enter_pipeline = _function("PQenterPipelineMode", _number, _pointer)
_exit_pipeline = _function("PQexitPipelineMode", _number, _pointer)
_pipeline_sync = _function("PQpipelineSync", _number, _pointer)
_prepare = _function("PQsendPrepare", _number, _pointer, _text, _text, _number, _pointer)
_query_params = _function(
    "PQsendQueryParams", _number, _pointer, _text, _number, _pointer, _pointer, _pointer, _pointer, _number
)
_query_prepared = _function(
    "PQsendQueryPrepared", _number, _pointer, _text, _number, _pointer, _pointer, _pointer, _number
)
_row_count = _function("PQntuples", _number, _pointer)
_column_count = _function("PQnfields", _number, _pointer)
_column_type = _function("PQftype", ctypes.c_uint, _pointer, _number)
_value = _function("PQgetvalue", _text, _pointer, _number, _number)
_is_null = _function("PQgetisnull", _number, _pointer, _number, _number)
_command = _function("PQcmdStatus", _text, _pointer)


class Lost(Exception):
    """The connection cannot be used any more."""


class Result(NamedTuple):
    """What the server answered. ``code`` is the SQLSTATE of an error, and empty without one."""

    copy_in: bool
    rows: int
    code: str = ""
    text: str = ""
    constraint: str = ""


class Answer(NamedTuple):
    """What the server answered to a statement of a pipeline. ``synced``: to none, it was the end. ``skipped``: one
    before it had failed. ``code`` is the SQLSTATE of an error."""

    rows: list[tuple[Any, ...]]
    command: str = ""
    synced: bool = False
    skipped: bool = False
    code: str = ""
    text: str = ""
    constraint: str = ""

    @property
    def changed(self) -> int:
        """The number of rows changed."""
        last = self.command.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0


class Libpq:
    """The connection under a psycopg2 ``connection``, at rest, for one statement. No call blocks; each may raise
    Lost."""

    __slots__ = ("_at",)

    def __init__(self, connection: Any) -> None:
        self._at = connection.pgconn_ptr

    def send(self, sql: str) -> None:
        """Ask; ``flush`` sends it."""
        self._check(_send_query(self._at, sql.encode()))

    def flush(self) -> bool:
        """Whether all that was asked has been sent. False: wait until it can be written or read."""
        left = _flush(self._at)
        self._check(left >= 0)
        return bool(left == 0)

    def consume(self) -> None:
        """Read what has come."""
        self._check(_consume_input(self._at))

    @property
    def busy(self) -> bool:
        """Whether ``result`` would have to wait."""
        return bool(_is_busy(self._at))

    def result(self) -> Result | None:
        """The next one; None when there is no more."""
        found = _get_result(self._at)
        if not found:
            return None
        try:
            status = _result_status(found)
            if status in (_BAD_RESPONSE, _FATAL):
                code, text, constraint = (_field(found, name) for name in "CMn")
                if not code:  # libpq itself says so: there is no server any more
                    raise Lost(self._why())
                return Result(False, 0, code, text, constraint)
            if status in _COPIES_TO_US:
                raise Lost("it copies to us, which nobody asked for")
            return Result(status == _COPY_IN, int(_command_rows(found) or 0))
        finally:
            _clear(found)

    # ---- pipelines

    def enter_pipeline(self) -> None:
        """From now on statements are sent without waiting for answers."""
        self._check(_enter_pipeline(self._at))

    def leave_pipeline(self) -> None:
        """All has been answered."""
        self._check(_exit_pipeline(self._at))

    def sync(self) -> None:
        """That was all."""
        self._check(_pipeline_sync(self._at))

    def prepare(self, name: bytes, sql: str, types: Sequence[int]) -> None:
        """Make a statement known by a name. 0: the server finds out the type."""
        given = (ctypes.c_uint * len(types))(*types)
        self._check(_prepare(self._at, name, sql.encode(), len(types), given))

    def execute(self, name: bytes, params: Sequence[Param]) -> None:
        """Ask a statement that is known."""
        many = len(params)
        self._check(_query_prepared(self._at, name, many, *_given(params), 0))

    def query(self, sql: str, params: Sequence[Param]) -> None:
        """Ask one that is not."""
        many = len(params)
        types = (ctypes.c_uint * many)(*[param.type for param in params])
        self._check(_query_params(self._at, sql.encode(), many, types, *_given(params), 0))

    def answer(self) -> Answer | None:
        """The next one; None between two statements."""
        found = _get_result(self._at)
        if not found:
            return None
        try:
            status = _result_status(found)
            if status == _SYNCED:
                return Answer([], synced=True)
            if status == _ABORTED:
                return Answer([], skipped=True)
            if status in (_BAD_RESPONSE, _FATAL):
                code, text, constraint = (_field(found, name) for name in "CMn")
                if not code:
                    raise Lost(self._why())
                return Answer([], code=code, text=text, constraint=constraint)
            return Answer(_rows(found), _command(found).decode())
        finally:
            _clear(found)

    # ---- copying

    def put(self, data: bytearray) -> None:
        """Give a piece of what is copied. It is kept in memory until it is flushed."""
        self._check(_put_copy_data(self._at, (ctypes.c_char * len(data)).from_buffer(data), len(data)) == 1)

    def end(self, error: str | None = None) -> None:
        """That was all of it; or with ``error``, nothing of it is to be kept."""
        self._check(_put_copy_end(self._at, None if error is None else error.encode()) == 1)

    def _check(self, good: object) -> None:
        if not good:
            raise Lost(self._why())

    def _why(self) -> str:
        said: bytes = _error_message(self._at) or b""
        return " ".join(said.decode("utf-8", "replace").split()) or "it does not work any more"


def _field(result: Any, name: str) -> str:
    said: bytes | None = _result_error_field(result, ord(name))
    return (said or b"").decode("utf-8", "replace")


def _given(params: Sequence[Param]) -> tuple[Any, Any, Any]:
    many = len(params)
    values = (_text * many)(*[param.data for param in params])
    lengths = (_number * many)(*[0 if param.data is None else len(param.data) for param in params])
    return values, lengths, (_number * many)(*[param.binary for param in params])


def _rows(result: Any) -> list[tuple[Any, ...]]:
    many = _row_count(result)
    if not many:
        return []
    types = [_column_type(result, column) for column in range(_column_count(result))]
    readers = [(column, _READERS.get(type, bytes.decode)) for column, type in enumerate(types)]
    found = []
    for row in range(many):
        values = []
        for column, read in readers:
            data = _value(result, row, column)
            values.append(read(data) if data or not _is_null(result, row, column) else None)
        found.append(tuple(values))
    return found


_READERS: Final[dict[int, Callable[[bytes], Any]]] = {
    20: int, 21: int, 23: int, 16: lambda data: data == b"t", 17: lambda data: bytes.fromhex(data[2:].decode()),
    700: float, 701: float,
}  # fmt: skip
"""How the text of a value is read, by its type; any other is text."""
