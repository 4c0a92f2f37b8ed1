"""The engine under the embedded backends: one SQLite file, one thread that writes, a few that read.

A commit costs an fsync, so commits are shared. The writer takes whatever waits (a *group*: bounded in jobs, octets and
time), runs each job in a savepoint so that a failing one rolls back alone, commits once, and only then hands all
results to the reactor, in one call. While it syncs the next group gathers; nothing is ever held back to make a group
larger.

Jobs of the same kind, such as the queue's puts, can be run together by ``write_many``: one statement of many rows
spares the interpreter lock, which is let go and fought for again around every statement. ``gather`` spares it
altogether: the reactor's thread runs the statements, and the writer only commits.

A group is in ``sqlite_group``, which thread has its turn in ``sqlite_line``, the care of the write-ahead log in
``sqlite_log``, the file in ``sqlite_open``, and in ``sqlite_place`` whether it still is where it was.
"""

from __future__ import annotations

import atexit
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from math import inf
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from time import monotonic
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

from . import sqlite_open
from .sqlite_group import Job, begin_group, fail_all, finish_group, fire, write_group
from .sqlite_line import Line
from .sqlite_log import Log
from .sqlite_open import DatabaseFull, Owner, understandable
from .sqlite_place import Place

__all__ = ["DatabaseFull", "Engine"]

T = TypeVar("T")
_log = Logger()


class Engine:
    """A SQLite database file, open for this process alone.

    ``path`` None keeps everything in a private temporary folder, unsynced, until ``close``.
    ``clock`` gives microseconds since 1970. ``deliver`` runs a callable in the reactor's thread
    (``reactor.callFromThread``). At most ``max_jobs`` jobs and ``max_octets`` octets of theirs wait at once, reads and
    writes counted apart; one more fails at once with DatabaseUnavailable.

    Opening blocks. Raises DatabaseUnavailable (in use, locked, unreadable), SchemaMismatch.
    """

    def __init__(
        self,
        path: Path | None,
        *,
        clock: Callable[[], int],
        deliver: Callable[[Callable[[], None]], Any],
        readers: int = 3,
        busy_timeout: float = 5.0,
        max_jobs: int = 10_000,
        max_octets: int = 64 * 1024 * 1024,
    ) -> None:
        self.clock = clock
        self.groups = 0
        """Groups since the start: as many commits, or attempts at one."""
        self.jobs = 0
        """Writing jobs in them."""
        self._deliver = deliver
        self._busy_timeout = busy_timeout
        self._max_jobs = max_jobs
        self._durable = path is not None
        self._temporary: Path | None = None
        if path is None:
            self._temporary = sqlite_open.temporary_folder()
            path = self._temporary / "mailfarm.sqlite"
        self.path = path
        self._line = Line(max_jobs, max_octets)
        self._run_soon = False
        self._found = -inf  # when a commit last found the file in its place
        self._reads: SimpleQueue[Job | None] = SimpleQueue()
        self._lock = Lock()  # of all below: jobs come from the reactor's thread and go in any
        self._reading = 0
        self._closing = False
        self._closed = False
        self._on_closed: list[Deferred[None]] = []
        try:
            self._open(readers)
        except BaseException:
            self._remove_temporary()
            raise
        # a process that ends without closing cleans up as well, unless it is killed
        atexit.register(self._remove_temporary)
        self._threads = [
            Thread(target=self._read_loop, args=(connection,), name="mailfarm sqlite reader", daemon=True)
            for connection in self._readers
        ]
        for thread in (*self._threads, Thread(target=self._write_loop, name="mailfarm sqlite writer", daemon=True)):
            thread.start()

    def write(self, work: Callable[[sqlite3.Connection], T], size: int = 0) -> Deferred[T]:
        """Run ``work`` in the writer's thread, in a transaction, and fire with its result once that is durable.

        ``size`` is the octets it holds until then. Fails with what ``work`` raises, DatabaseUnavailable, DatabaseFull.
        """
        return self._submit(Job(work, size))

    def write_many(
        self, together: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[T]], item: Any, size: int = 0
    ) -> Deferred[T]:
        """The same for one ``item`` of many: ``together`` gets the items of a whole group that were given with it, and
        returns a result for each. If it raises it is run again for each item alone."""
        return self._submit(Job(None, size, together, item))

    def gather(
        self, together: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[T]], item: Any, size: int = 0
    ) -> Deferred[T]:
        """The same, but ``together`` runs in the reactor's thread where it can, when that has heard all who speak now:
        for work of a few dozen microseconds an item. Only the commit is the writer's."""
        result = self._submit(Job(None, size, together, item), gather=True)
        self._run_gathered_soon()
        return result

    def read(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Run ``work`` in a reader's thread, on a snapshot. Fails with what it raises, DatabaseUnavailable."""
        with self._lock:
            if self._closing:
                return fail(DatabaseUnavailable("the database is closed"))
            if self._reading >= self._max_jobs:
                return fail(DatabaseUnavailable(f"{self._reading} reads already wait for the database"))
            self._reading += 1
            job = Job(work, 0)
            self._reads.put(job)
        return job.deferred

    @property
    def filled(self) -> float:
        """The part of what may wait for the writer that does."""
        return self._line.filled

    def check(self, age: float = 0.0) -> None:
        """Whether what is written now would be found again. Raises DatabaseUnavailable when the file was taken away.

        Every commit looks, before anyone is told of it: with ``age`` one that found the file so many seconds ago, or
        less, is believed.
        """
        if monotonic() - self._found >= age:
            self._place.check()

    def close(self) -> Deferred[None]:
        """Take no more work, finish what waits, and close. Never fails; may be called again."""
        done: Deferred[None] = Deferred()
        with self._lock:
            if self._closed:
                done.callback(None)
                return done
            self._on_closed.append(done)
            if not self._closing:
                self._closing = True
                for _ in self._readers:
                    self._reads.put(None)
                self._line.close()
        return done

    # Opening

    def _open(self, readers: int) -> None:
        folder = self.path.parent
        try:
            made = [each for each in (folder, *folder.parents) if not each.exists()]
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._owner = Owner(self.path)
        except OSError as error:
            raise DatabaseUnavailable(f"{folder} cannot be used: {error.strerror}") from None
        connections: list[sqlite3.Connection] = []
        try:
            self._writer = self._connect(16 * 1024 * 1024)
            connections.append(self._writer)
            sqlite_open.migrate(self._writer, self.path)
            if self._durable:
                for each in (folder, *[below.parent for below in made]):
                    sqlite_open.sync_folder(each)
            for _ in range(readers):
                connections.append(self._connect(4 * 1024 * 1024, readable_only=True))
            self._readers = connections[1:]
            connections.append(self._connect(1024 * 1024))
            self._place = Place(self.path)
            self._wal = Log(connections[-1], self._writer, self._busy_timeout)
        except BaseException as error:
            for connection in connections:
                connection.close()
            self._owner.release()
            if isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                sqlite3.SQLITE_NOTADB,
                sqlite3.SQLITE_CORRUPT,
            ):
                raise SchemaMismatch(f"{self.path} is not a mailfarm database: {error}") from None
            reason = error.strerror if isinstance(error, OSError) else understandable(error)
            if reason is error:
                raise
            raise DatabaseUnavailable(f"{self.path}: {reason}") from None

    def _connect(self, cache: int, readable_only: bool = False) -> sqlite3.Connection:
        return sqlite_open.connect(
            self.path,
            busy_timeout=self._busy_timeout,
            cache=cache,
            durable=self._durable,
            readable_only=readable_only,
        )

    # Writing

    def _submit(self, job: Job, *, gather: bool = False) -> Deferred[Any]:
        try:
            self._line.add(job, gather=gather)
        except DatabaseUnavailable as error:
            return fail(error)
        return job.deferred

    def _run_gathered_soon(self) -> None:
        if not self._run_soon:
            self._run_soon = True
            self._send(self._run_gathered, None)

    def _run_gathered(self, _: None = None) -> None:
        """In the reactor's thread, when that has heard all who speak now."""
        self._run_soon = False
        group = self._line.take_gathered()
        if not group:
            return
        try:
            begin_group(self._writer, group, self._busy_timeout)
        except sqlite3.Error:  # another program has locked it, perhaps: the writer can wait for that
            self._line.not_begun(group)
        else:
            self._line.begun(group)

    def _write_loop(self) -> None:
        line, log = self._line, self._wal
        while True:
            begun, first = line.next_turn(lambda: log.rest)
            if begun is not None:
                group = begun
                finish_group(self._writer, group, line.next_waiting)
            elif first is not None:
                group = write_group(self._writer, first, line.next_any)
            elif line.over:
                break
            else:
                log.tidy()
                self._let_go()
                continue
            self.groups += 1
            self.jobs += len(group)
            length = 0
            try:
                length = self._place.check()
                self._found = monotonic()
            except DatabaseUnavailable as error:  # it is committed, to a file that nobody will ever open again
                self._found = -inf
                fail_all(group, error)
            if log.wrote(len(group), sum(each.size for each in group), length):
                self._send(self._settle_writes, group)
                log.care()
                self._let_go()
            else:
                line.let_go()  # first, so that settling can go on with what was gathered
                self._send(self._settle_writes, group)
        self._shut()

    def _let_go(self) -> None:
        if self._line.let_go():
            self._send(self._run_gathered, None)

    def _settle_writes(self, group: list[Job]) -> None:
        self._line.ended(group)
        fire(group)
        if self._line.gathered:
            self._run_gathered_soon()  # and with it what is about to come: who is busy commits less often

    # Reading

    def _read_loop(self, connection: sqlite3.Connection) -> None:
        while (job := self._reads.get()) is not None:
            assert job.work is not None
            try:
                connection.execute("BEGIN")
                job.result = job.work(connection)
            except BaseException as error:
                job.error = _in_a_read(error)
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                job.error = job.error or understandable(error)
            self._send(self._settle_read, job)

    def _settle_read(self, job: Job) -> None:
        with self._lock:
            self._reading -= 1
        fire([job])

    # Ending

    def _send(self, settle: Callable[[Any], None], what: Any) -> None:
        try:
            self._deliver(lambda: settle(what))
        except Exception:
            _log.failure("results of the database could not be delivered")

    def _shut(self) -> None:
        for thread in self._threads:
            thread.join()
        for connection in self._readers:
            connection.close()
        self._wal.close()
        self._writer.close()
        self._owner.release()
        self._remove_temporary()
        self._send(self._settle_closed, None)

    def _remove_temporary(self) -> None:
        atexit.unregister(self._remove_temporary)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def _settle_closed(self, _: None) -> None:
        with self._lock:
            self._closed = True
            waiting, self._on_closed = self._on_closed, []
        for deferred in waiting:
            deferred.callback(None)


def _in_a_read(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return RuntimeError("a read cannot write: use a unit")
    return understandable(error)
