"""What a PostgreSQL server answers, octet by octet, to talks of ours through libpq.

The server is a socket in this process: it greets as PostgreSQL does, hears whatever it is asked, and answers with the
octets it is given. psycopg2, libpq and the talks are the real ones.
"""

from __future__ import annotations

import atexit
import select
import shutil
import socket
import tempfile
from functools import cache
from pathlib import Path
from struct import pack
from typing import Any, Final

import psycopg2
from psycopg2.extensions import POLL_OK
from twisted.internet.error import ConnectionLost
from twisted.python.failure import Failure

from mailfarm.backends.postgres_arrays import value
from mailfarm.backends.postgres_copy import Copying
from mailfarm.backends.postgres_pipeline import Asked, Journey
from mailfarm.backends.postgres_talk import Talk

MOST: Final = 2000
"""Answers that one talk may take of libpq: far more than were ever sent."""
_PORT: Final = 5432


class Endless(BaseException):
    """A talk goes on for ever: nothing may catch this."""


def said(kind: bytes, body: bytes) -> bytes:
    """A message as the server sends it."""
    return kind + pack("!i", 4 + len(body)) + body


_SETTINGS = (b"server_version\x0016.1", b"client_encoding\0UTF8", b"DateStyle\0ISO", b"standard_conforming_strings\0on")
_GREETING = b"".join(
    (
        said(b"R", pack("!i", 0)),
        *[said(b"S", setting + b"\0") for setting in _SETTINGS],
        said(b"K", pack("!ii", 1, 2)),
        said(b"Z", b"I"),
    )
)


@cache
def _listener() -> tuple[socket.socket, Path]:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(folder / f".s.PGSQL.{_PORT}"))
    made.listen(1)
    atexit.register(shutil.rmtree, folder)
    atexit.register(made.close)
    return made, folder


class _Link:
    """What a talk needs of its connection, and nothing that waits."""

    def __init__(self) -> None:
        listener, folder = _listener()
        self.connection = psycopg2.connect(host=str(folder), port=_PORT, user="fuzz", dbname="fuzz", async_=1)
        self.server, _ = listener.accept()
        self.server.sendall(_GREETING)
        while self.connection.poll() != POLL_OK:
            select.select([self.connection], [self.connection], [], 1)
        self.server.setblocking(False)
        self.reactor = self
        self.why = ""
        self.talk: Talk | None = None

    def pollable(self) -> Any:
        return self.connection

    def end(self, why: str) -> None:
        if not self.why:
            self.why = why
            assert self.talk is not None
            self.talk.connectionLost(Failure(ConnectionLost()))

    def close(self) -> None:
        self.server.close()
        self.connection.close()

    def cursorRunning(self, talk: Talk) -> None: ...
    def cursorFinished(self, talk: Talk) -> None: ...
    def addReader(self, talk: Talk) -> None: ...
    def addWriter(self, talk: Talk) -> None: ...
    def removeReader(self, talk: Talk) -> None: ...
    def removeWriter(self, talk: Talk) -> None: ...


class _Counting:
    """libpq, asked for no more answers than there can be."""

    def __init__(self, libpq: Any) -> None:
        self._libpq = libpq
        self._left = MOST

    def __getattr__(self, name: str) -> Any:
        if name in ("result", "answer"):
            self._left -= 1
            if self._left < 0:
                raise Endless
        return getattr(self._libpq, name)


def _outcome(link: _Link, talk: Talk, pieces: list[bytes]) -> tuple[bool, str]:
    """Whether the connection is given up, and what the talk came to. The server goes away behind its answers."""
    outcomes: list[Any] = []
    link.talk = talk
    talk.libpq = _Counting(talk.libpq)  # a libpq for all that a talk does with it
    talk.done.addBoth(outcomes.append)
    try:
        talk.start()
        for piece in (*pieces, None):
            if outcomes:
                break
            if piece is None:
                link.server.shutdown(socket.SHUT_WR)
            elif piece:
                link.server.sendall(piece)
            talk.doRead()
        if not outcomes:
            talk.doRead()
    except Endless:
        raise AssertionError("the talk goes on for ever") from None
    assert outcomes, "nobody is told what became of the talk"
    (found,) = outcomes
    good = not isinstance(found, Failure)
    assert good or not link.why or found.check(Exception)
    return bool(link.why), repr(found) if good else type(found.value).__name__


def journey(pieces: list[bytes]) -> tuple[bool, str]:
    """Two statements in one journey, of which one is prepared."""
    link = _Link()
    try:
        asked = [Asked("select $1", [value("a")]), Asked("commit", keep=False)]
        return _outcome(link, Journey(link, asked, {}), pieces)
    finally:
        link.close()


def copying(pieces: list[bytes]) -> tuple[bool, str]:
    """A COPY of two pieces."""
    link = _Link()
    try:
        return _outcome(link, Copying(link, "COPY t FROM STDIN", iter([bytearray(b"one"), bytearray(b"two")])), pieces)
    finally:
        link.close()
