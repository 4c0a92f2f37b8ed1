"""One place in the reactor for a connection's socket, whoever of the connection listens on it.

What talks on a connection takes turns: the connection at rest, a cursor, a talk. Each comes to the reactor for every
statement, and none may stay there while libpq is called: libpq closes the socket of a connection that it finds broken,
and the next connection gets its number. So the reactor watches a duplicate of the socket, which is closed here and
nowhere else, and it is told only of what changes: that something is there is worked on by whoever listens then.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.python.failure import Failure


class Watch:
    """Stands in for ``reactor`` before those who listen and write on the socket ``number``. Raises OSError when there
    are too many files."""

    LEAN = True  # see net/lean_poll.py

    def __init__(self, reactor: Any, number: int) -> None:
        self.callLater = reactor.callLater
        self.seconds = reactor.seconds
        self._reactor = reactor
        self._number = os.dup(number)
        self._reader: Any = None
        self._writer: Any = None
        self._reading = False  # what the reactor was told
        self._writing = False

    # ---- what those who listen see of a reactor

    def addReader(self, who: Any) -> None:
        """From now on it is ``who`` that hears what comes."""
        self._reader = who
        if not self._reading and self._number >= 0:
            self._reading = True
            self._reactor.addReader(self)

    def removeReader(self, who: Any) -> None:
        """``who`` hears nothing any more. The reactor is told when something comes that nobody hears."""
        if self._reader is who:
            self._reader = None

    def addWriter(self, who: Any) -> None:
        """``who`` is told when there is room."""
        self._writer = who
        if not self._writing and self._number >= 0:
            self._writing = True
            self._reactor.addWriter(self)

    def removeWriter(self, who: Any) -> None:
        """It is not, any more."""
        if self._writer is who:
            self._writer = None
            self._write_no_more()

    def close(self) -> None:
        """Watch it no more. Idempotent."""
        if self._number < 0:
            return
        self._reader = self._writer = None
        self._read_no_more()
        self._write_no_more()
        number, self._number = self._number, -1
        os.close(number)

    # ---- IReadWriteDescriptor

    def fileno(self) -> int:
        """The duplicate; -1 once it is closed."""
        return self._number

    def logPrefix(self) -> str:
        return "PostgreSQL"

    def doRead(self) -> Any:
        """Something came."""
        if self._reader is not None:
            return self._reader.doRead()
        self._read_no_more()
        return None

    def doWrite(self) -> Any:
        """There is room. Nobody may want it any more, when something came at the same time."""
        return None if self._writer is None else self._writer.doWrite()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor saw it go, and has let it go."""
        self._reading = self._writing = False
        listens = self._writer if self._reader is None else self._reader
        self._reader = self._writer = None
        if listens is not None:
            listens.connectionLost(reason)

    def _read_no_more(self) -> None:
        if self._reading:
            self._reading = False
            self._reactor.removeReader(self)

    def _write_no_more(self) -> None:
        if self._writing:
            self._writing = False
            self._reactor.removeWriter(self)
