"""The engine under the embedded backends: one SQLite file, one thread that writes, a few that read.

A commit costs an fsync, so commits are shared. The writer takes whatever waits (a *group*: bounded in jobs, octets and
time), runs each job in a savepoint so that a failing one rolls back alone, commits once, and only then hands all
results to the reactor, in one call. While it syncs the next group gathers; nothing is ever held back to make a group
larger.

Jobs of the same kind, such as the queue's puts, can be run together by ``write_many``: one statement of many rows
spares the interpreter lock, which is let go and fought for again around every statement.

The log is copied into the database (checkpointed) by a thread of its own, a few megabytes at a time, beside the
writer. SQLite starts the log anew only when all of it is copied, which never happens beside a busy writer; so when the
log has become large the writer copies the little that is left, between two groups.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from time import monotonic
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

from . import sqlite_open
from .sqlite_open import DatabaseFull, Owner, understandable

__all__ = ["DatabaseFull", "Engine"]

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], Any]
Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]

GROUP_JOBS = 200
GROUP_OCTETS = 8 * 1024 * 1024
GROUP_SECONDS = 0.025

_COPY_OCTETS = 4 * 1024 * 1024  # written since the last checkpoint, about
_RESTART_FRAMES = 32 * 1024 * 1024 // sqlite_open.PAGE  # the log's length at which the writer helps
_FORCE_FRAMES = 8 * _RESTART_FRAMES  # and at which it waits for readers to let go

_log = Logger()


class _Job:
    """One piece of work on its way through a thread and back."""

    __slots__ = ("deferred", "error", "item", "result", "size", "together", "work")

    def __init__(self, work: Work | None, size: int, together: Together | None = None, item: Any = None) -> None:
        self.work = work
        self.together = together
        self.item = item
        self.size = size
        self.result: Any = None
        self.error: BaseException | None = None
        self.deferred: Deferred[Any] = Deferred()


class _GroupLost(Exception):
    """SQLite rolled the whole transaction back by itself (disk full, I/O error)."""


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
        """Commits since the start."""
        self.jobs = 0
        """Writing jobs that were committed or rolled back since the start."""
        self._deliver = deliver
        self._busy_timeout = busy_timeout
        self._max_jobs = max_jobs
        self._max_octets = max_octets
        self._durable = path is not None
        self._temporary = None if path is not None else Path(tempfile.mkdtemp(prefix="mailfarm-"))
        self.path = path if path is not None else self._temporary / "mailfarm.sqlite"  # type: ignore[operator]
        self._writes: SimpleQueue[_Job | None] = SimpleQueue()
        self._reads: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = Lock()  # of the four numbers below: jobs come from the reactor's thread and go in any
        self._writing = 0
        self._octets = 0
        self._reading = 0
        self._closing = False
        self._closed = False
        self._on_closed: list[Deferred[None]] = []
        self._copy_wanted = Event()
        self._copied = 0
        self._log_frames = 0
        self._stopping = False
        try:
            self._open(readers)
        except BaseException:
            if self._temporary is not None:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise
        self._threads = [Thread(target=self._read_loop, args=(c,), daemon=True) for c in self._readers]
        self._threads.append(Thread(target=self._copy_loop, daemon=True))
        self._writer_thread = Thread(target=self._write_loop, name="mailfarm sqlite writer", daemon=True)
        for thread in (*self._threads, self._writer_thread):
            thread.start()

    def write(self, work: Callable[[sqlite3.Connection], T], size: int = 0) -> Deferred[T]:
        """Run ``work`` in the writer's thread, in a transaction, and fire with its result once that is durable.

        ``size`` is the octets it holds until then. Fails with what ``work`` raises, DatabaseUnavailable, DatabaseFull.
        """
        return self._submit_write(_Job(work, size))

    def write_many(
        self, together: Callable[[sqlite3.Connection, Sequence[Any]], Sequence[T]], item: Any, size: int = 0
    ) -> Deferred[T]:
        """The same for one ``item`` of many: ``together`` gets the items of a whole group that were given with it, and
        returns a result for each. If it raises it is run again for each item alone."""
        return self._submit_write(_Job(None, size, together, item))

    def read(self, work: Callable[[sqlite3.Connection], T]) -> Deferred[T]:
        """Run ``work`` in a reader's thread, on a snapshot. Fails with what it raises, DatabaseUnavailable."""
        with self._lock:
            if self._closing:
                return fail(DatabaseUnavailable("the database is closed"))
            if self._reading >= self._max_jobs:
                return fail(DatabaseUnavailable(f"{self._reading} reads already wait for the database"))
            self._reading += 1
            job = _Job(work, 0)
            self._reads.put(job)
        return job.deferred

    @property
    def congested(self) -> bool:
        """Whether half of what may wait for the writer already does."""
        return self._writing * 2 >= self._max_jobs or self._octets * 2 >= self._max_octets

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
                self._writes.put(None)
        return done

    # Opening

    def _open(self, readers: int) -> None:
        folder = self.path.parent
        try:
            made = not folder.exists()
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
                sqlite_open.sync_folder(folder)
                if made:
                    sqlite_open.sync_folder(folder.parent)
            self._copier = self._connect(1024 * 1024)
            connections.append(self._copier)
            self._readers = []
            for _ in range(readers):
                self._readers.append(self._connect(4 * 1024 * 1024, readable_only=True))
                connections.append(self._readers[-1])
        except BaseException as error:
            for connection in connections:
                connection.close()
            self._owner.release()
            if isinstance(error, sqlite3.DatabaseError) and getattr(error, "sqlite_errorcode", 0) & 0xFF in (
                sqlite3.SQLITE_NOTADB,
                sqlite3.SQLITE_CORRUPT,
            ):
                raise SchemaMismatch(f"{self.path} is not a mailfarm database: {error}") from None
            reason = understandable(error)
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

    def _submit_write(self, job: _Job) -> Deferred[Any]:
        with self._lock:
            if self._closing:
                return fail(DatabaseUnavailable("the database is closed"))
            if self._writing >= self._max_jobs:
                return fail(DatabaseUnavailable(f"{self._writing} jobs already wait for the database"))
            # one job larger than the cap may wait alone: what it holds is in memory already
            if self._octets and self._octets + job.size > self._max_octets:
                return fail(DatabaseUnavailable(f"{self._octets} octets already wait for the database"))
            self._writing += 1
            self._octets += job.size
            self._writes.put(job)  # inside the lock, so that none follows the None of close
        return job.deferred

    def _write_loop(self) -> None:
        while not self._stopping:
            job = self._writes.get()
            if job is None:
                break
            group: list[_Job] = []
            try:
                self._write_group(job, group)
            except BaseException as error:
                _fail_all(group, error)
            self._send(self._settle_writes, group)
            self._tidy_log(group)
        self._shut()

    def _write_group(self, job: _Job, group: list[_Job]) -> None:
        """Run ``job`` and what waits behind it in one transaction. All that were taken stand in ``group`` afterwards,
        each with its result or its error."""
        connection = self._writer
        group.append(job)
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            # Whoever waits now has waited for the lock as well; one after the other they would wait for ever.
            while (waiting := self._next_write()) is not None:
                group.append(waiting)
            _fail_all(group, understandable(error))
            return
        try:
            self._run_group(job, group)
            connection.execute("COMMIT")
            self.groups += 1
        except BaseException as error:
            lost = error.__cause__ if isinstance(error, _GroupLost) and error.__cause__ is not None else error
            _fail_all(group, understandable(lost))
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _run_group(self, job: _Job | None, group: list[_Job]) -> None:
        together: dict[Together, list[_Job]] = {}
        ends = monotonic() + GROUP_SECONDS
        octets = 0
        while job is not None:
            if job.work is not None:
                self._run(job, job.work)
            else:
                assert job.together is not None
                together.setdefault(job.together, []).append(job)
            octets += job.size
            if len(group) >= GROUP_JOBS or octets >= GROUP_OCTETS or monotonic() > ends:
                break
            job = self._next_write()
            if job is not None:
                group.append(job)
        for run, jobs in together.items():
            self._run_together(run, jobs)

    def _next_write(self) -> _Job | None:
        try:
            job = self._writes.get_nowait()
        except Empty:
            return None
        if job is None:
            self._stopping = True
        return job

    def _run(self, job: _Job, work: Work) -> None:
        connection = self._writer
        connection.execute("SAVEPOINT job")
        try:
            job.result = work(connection)
        except BaseException as error:
            job.error = understandable(error)
            if not connection.in_transaction:
                raise _GroupLost from error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _run_together(self, run: Together, jobs: list[_Job]) -> None:
        trial = _Job(None, 0)
        self._run(trial, lambda connection: run(connection, [job.item for job in jobs]))
        if trial.error is None:
            for job, result in zip(jobs, trial.result, strict=True):
                job.result = result
        elif len(jobs) == 1 or isinstance(trial.error, DatabaseUnavailable):
            _fail_all(jobs, trial.error)
        else:
            for job in jobs:
                self._run(job, lambda connection, item=job.item: run(connection, [item])[0])  # type: ignore[misc]

    def _settle_writes(self, group: list[_Job]) -> None:
        with self._lock:
            self.jobs += len(group)
            self._writing -= len(group)
            self._octets -= sum(job.size for job in group)
        _fire(group)

    # The log

    def _tidy_log(self, group: list[_Job]) -> None:
        self._copied += sum(job.size for job in group) + 2 * sqlite_open.PAGE * len(group)
        if self._copied >= _COPY_OCTETS:
            self._copied = 0
            self._copy_wanted.set()
        if self._log_frames >= _RESTART_FRAMES:
            mode = "RESTART" if self._log_frames >= _FORCE_FRAMES else "PASSIVE"
            self._log_frames = 0
            try:
                self._writer.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
            except sqlite3.Error as error:
                _log.warn("the log could not be copied into the database: {error}", error=error)

    def _copy_loop(self) -> None:
        while True:
            self._copy_wanted.wait()
            self._copy_wanted.clear()
            if self._closing:
                return
            try:
                _busy, frames, _done = self._copier.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
                self._log_frames = frames
            except sqlite3.Error as error:
                _log.warn("the log could not be copied into the database: {error}", error=error)

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

    def _settle_read(self, job: _Job) -> None:
        with self._lock:
            self._reading -= 1
        _fire([job])

    # Ending

    def _send(self, settle: Callable[[Any], None], what: Any) -> None:
        try:
            self._deliver(lambda: settle(what))
        except Exception:
            _log.failure("results of the database could not be delivered")

    def _shut(self) -> None:
        self._copy_wanted.set()
        for thread in self._threads:
            thread.join()
        for connection in (*self._readers, self._copier):
            connection.close()
        try:
            self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        except sqlite3.Error as error:
            _log.warn("the log was left beside the database: {error}", error=error)
        self._writer.close()
        self._owner.release()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._send(self._settle_closed, None)

    def _settle_closed(self, _: None) -> None:
        with self._lock:
            self._closed = True
            waiting, self._on_closed = self._on_closed, []
        for deferred in waiting:
            deferred.callback(None)


def _fail_all(jobs: Sequence[_Job], error: BaseException) -> None:
    """Fail those that have no error of their own, each with an exception of its own: tracebacks grow where shared."""
    for job in jobs:
        if job.error is None:
            job.error = type(error)(str(error)) if isinstance(error, DatabaseUnavailable) else error


def _in_a_read(error: BaseException) -> BaseException:
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
        return RuntimeError("a read cannot write: use a unit")
    return understandable(error)


def _fire(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        try:
            if job.error is not None:
                job.deferred.errback(job.error)
            else:
                job.deferred.callback(job.result)
        except Exception:
            _log.failure("a result of the database could not be delivered")
