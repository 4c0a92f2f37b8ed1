"""The part of libpq that psycopg2 does not show, on psycopg2's own connections.

A psycopg2 connection that does not block cannot COPY, and psycopg2 sends no value in binary at all. libpq can do both,
and psycopg2 hands out its connection for that (``connection.pgconn_ptr``). What is called here is the libpq that
psycopg2 itself has loaded. The caller sees to it that psycopg2 asks nothing meanwhile.

https://www.postgresql.org/docs/current/libpq-async.html, libpq-copy.html
"""

from __future__ import annotations

import ctypes
from typing import Any, Final, NamedTuple

from psycopg2 import _psycopg

TEXT, INT8, INT4, BYTEA = 25, 20, 23, 17
"""Types by their number in ``pg_type``."""

_BAD_RESPONSE: Final = 5
_FATAL: Final = 7
_COPY_IN: Final = 4

_pointer, _text, _number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_loaded = ctypes.CDLL(_psycopg.__file__)  # finds what the driver is linked with


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


class Lost(Exception):
    """The connection cannot be used any more."""


class Result(NamedTuple):
    """What the server answered. ``code`` is the SQLSTATE of an error, and empty without one."""

    copy_in: bool
    rows: int
    code: str = ""
    text: str = ""
    constraint: str = ""


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
            return Result(status == _COPY_IN, int(_command_rows(found) or 0))
        finally:
            _clear(found)

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
