"""Keeping SQLite's write-ahead log short without holding anyone up.

What is in the log has to be copied into the database some day (a checkpoint): reads and writes of megabytes, and two
fsyncs. SQLite does it inside the commit that makes the log 1,000 pages long; that commit then takes tens of
milliseconds. Here a thread of its own copies a few megabytes at a time, beside the writer.

SQLite starts the log anew only when all of it is copied, which never happens beside a busy writer. So when the log has
become large the writer copies the little that is left, between two groups.

Starting anew leaves the file as long as it was, with mail in it that may be deleted by now. So the file is cut to
nothing when it is opened, when the writer rests, now and then when it does not, and at the end. Cutting waits for
nobody: while a reader needs the log it is tried again.
"""

from __future__ import annotations

import sqlite3
from threading import Event, Thread
from time import monotonic

from twisted.logger import Logger

from .sqlite_open import PAGE

REST = 0.25
"""Seconds without work after which the writer tidies up: first all is copied, and so much later the log is cut."""

_COPY_OCTETS = 4 * 1024 * 1024  # written since the last checkpoint, about
_RESTART_FRAMES = 32 * 1024 * 1024 // PAGE  # the log's length at which the writer helps
_FORCE_FRAMES = 8 * _RESTART_FRAMES  # and at which it waits for readers to let go
_CUT_SECONDS = 30.0  # the longest the log is not cut under a writer that never rests
_CUT_AGAIN = 1.0  # seconds until that is tried again when a reader needs the log

_log = Logger()


class Log:
    """The log of the database that both connections are to; ``copier`` belongs to this object from now on.

    ``busy_timeout`` is the writer's, in seconds. Everything but ``close`` is the writer's to call.
    """

    def __init__(self, copier: sqlite3.Connection, writer: sqlite3.Connection, busy_timeout: float) -> None:
        self._copier = copier
        self._writer = writer
        self._busy_timeout = busy_timeout
        self._written = 0  # since the last checkpoint was asked for, about
        self._length = 0  # of the file, in octets
        self._frames = 0  # of the log, as the copier last saw it
        self._all_copied = False  # has been asked for since the last write
        self._wanted = Event()
        self._closing = False
        self._cut_at = 0.0
        self._cut()  # whoever was killed has left its log behind
        self._thread = Thread(target=self._copy_loop, name="mailfarm sqlite log", daemon=True)
        self._thread.start()

    @property
    def rest(self) -> float | None:
        """Seconds without work after which ``tidy`` is to be called; None: there is nothing to tidy."""
        return REST if self._length else None

    def wrote(self, jobs: int, octets: int, length: int) -> bool:
        """So much was committed, and the log's file has this length now. Whether ``care`` is to be called before the
        next group.

        Where the file grows that is what was written. It does not while a log that was started anew fills it again.
        """
        self._written += max(length - self._length, octets + 2 * PAGE * jobs)
        self._length = length
        self._all_copied = False
        if self._written >= _COPY_OCTETS:
            self._written = 0
            self._wanted.set()
        return self._frames >= _RESTART_FRAMES or (length > 0 and monotonic() >= self._cut_at)

    def care(self) -> None:
        """Between two groups: see to it that the log ends some day."""
        if self._frames >= _FORCE_FRAMES:
            self._frames = 0
            self._copy(self._writer, "TRUNCATE")
        elif self._frames >= _RESTART_FRAMES:
            self._frames = 0
            self._copy(self._writer, "PASSIVE")
        if self._length and monotonic() >= self._cut_at:
            self._cut()

    def tidy(self) -> None:
        """The writer rests."""
        if self._all_copied:
            self._cut()
        else:
            self._all_copied = True
            self._written = 0
            self._wanted.set()

    def close(self) -> None:
        """Copy all of it: the writer's last word, when no reader is left."""
        self._closing = True
        self._wanted.set()
        self._thread.join()
        self._copier.close()
        self._copy(self._writer, "TRUNCATE")

    def _cut(self) -> None:
        """Make the log's file empty, unless somebody needs it right now."""
        self._writer.execute("PRAGMA busy_timeout=0")
        try:
            cut = self._copy(self._writer, "TRUNCATE") == 0
        finally:
            self._writer.execute(f"PRAGMA busy_timeout={int(self._busy_timeout * 1000)}")
        if cut:
            self._length = 0
        self._cut_at = monotonic() + (_CUT_SECONDS if cut else _CUT_AGAIN)

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
        """Returns how many frames the log has; -1 when that was not to be learnt."""
        try:
            busy, frames, _ = connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        except sqlite3.Error as error:  # what is not copied today is copied tomorrow
            _log.warn("the log could not be copied into the database: {error}", error=error)
            return -1
        return -1 if busy and not frames else int(frames)
