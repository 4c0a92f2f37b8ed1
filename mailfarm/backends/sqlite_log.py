"""Keeping SQLite's write-ahead log short without holding anyone up.

What is in the log has to be copied into the database some day (a checkpoint): reads and writes of megabytes, and two
fsyncs. SQLite does it inside the commit that makes the log 1,000 pages long; that commit then takes tens of
milliseconds. Here a thread of its own copies a few megabytes at a time, beside the writer.

SQLite starts the log anew only when all of it is copied, which never happens beside a busy writer. So when the log has
become large the writer copies the little that is left, between two groups.
"""

from __future__ import annotations

import sqlite3
from threading import Event, Thread

from twisted.logger import Logger

from .sqlite_open import PAGE

_COPY_OCTETS = 4 * 1024 * 1024  # written since the last checkpoint, about
_RESTART_FRAMES = 32 * 1024 * 1024 // PAGE  # the log's length at which the writer helps
_FORCE_FRAMES = 8 * _RESTART_FRAMES  # and at which it waits for readers to let go

_log = Logger()


class Log:
    """The log of the database that both connections are to; ``copier`` belongs to this object from now on."""

    def __init__(self, copier: sqlite3.Connection, writer: sqlite3.Connection) -> None:
        self._copier = copier
        self._writer = writer
        self._written = 0
        self._frames = 0  # its length, as the copier last saw it
        self._wanted = Event()
        self._closing = False
        self._thread = Thread(target=self._copy_loop, name="mailfarm sqlite log", daemon=True)
        self._thread.start()

    def wrote(self, jobs: int, octets: int) -> None:
        """The writer, between two groups, says what it has committed."""
        self._written += octets + 2 * PAGE * jobs
        if self._written >= _COPY_OCTETS:
            self._written = 0
            self._wanted.set()
        if self._frames >= _RESTART_FRAMES:
            mode = "RESTART" if self._frames >= _FORCE_FRAMES else "PASSIVE"
            self._frames = 0
            self._copy(self._writer, mode)

    def close(self) -> None:
        """Copy all of it: the writer's last word, when no reader is left."""
        self._closing = True
        self._wanted.set()
        self._thread.join()
        self._copier.close()
        self._copy(self._writer, "TRUNCATE")

    def _copy_loop(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._closing:
                return
            frames = self._copy(self._copier, "PASSIVE")
            if frames >= _RESTART_FRAMES:
                frames = self._copy(self._copier, "PASSIVE")  # what came meanwhile: the writer is left with very little
            self._frames = frames

    def _copy(self, connection: sqlite3.Connection, mode: str) -> int:
        """Returns how many frames the log has."""
        try:
            frames: int = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[1]
        except sqlite3.Error as error:  # what is not copied today is copied tomorrow
            _log.warn("the log could not be copied into the database: {error}", error=error)
            return 0
        return frames
