"""A group: the jobs that share one transaction and one commit.

Each runs in a savepoint, so that a failing one rolls back alone. When SQLite gives up the whole transaction by itself
(disk full, I/O error), or the COMMIT fails, all of them have failed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable

from .sqlite_open import understandable

Work = Callable[[sqlite3.Connection], Any]
Together = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]

GROUP_JOBS = 200
GROUP_OCTETS = 8 * 1024 * 1024
GROUP_SECONDS = 0.025

_log = Logger()


class Job:
    """One piece of work on its way through a thread and back. ``size`` is the octets it holds meanwhile."""

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
    """SQLite rolled the whole transaction back by itself. Its cause says why."""


def begin_group(connection: sqlite3.Connection, jobs: list[Job], busy_timeout: float) -> None:
    """Run ``jobs``, all of them to be run together, in a transaction that ``finish_group`` commits. Each that fails has
    its error. Raises sqlite3.Error when there can be no transaction at once; then nothing has been done.

    ``busy_timeout`` is the connection's, in seconds.
    """
    if connection.in_transaction:
        connection.execute("ROLLBACK")  # the last group's failed
    connection.execute("PRAGMA busy_timeout=0")
    try:
        connection.execute("BEGIN IMMEDIATE")
    finally:
        connection.execute(f"PRAGMA busy_timeout={int(busy_timeout * 1000)}")
    try:
        _run_all(connection, jobs)
    except BaseException as error:
        _lose(connection, jobs, error)


def finish_group(connection: sqlite3.Connection, group: list[Job], following: Callable[[], Job | None]) -> None:
    """Commit what ``begin_group`` began, and with it what is ``following``, which is added to ``group``."""
    if not connection.in_transaction:
        return  # it was lost, and all of them know
    if all(job.error is not None for job in group):
        _roll_back(connection)  # there is nothing to commit, and perhaps the rest of what was lost
        return
    try:
        if (job := following()) is not None:
            more = [job]
            group.append(job)
            try:
                _run_group(connection, more, following)
            finally:
                group += more[1:]
        connection.execute("COMMIT")
    except BaseException as error:
        _lose(connection, group, error)


def write_group(connection: sqlite3.Connection, first: Job, following: Callable[[], Job | None]) -> list[Job]:
    """Run ``first`` and what is ``following`` (None: nothing waits) in one transaction, up to the bounds above.

    Returns all that were taken, each with its result or its error.
    """
    group = [first]
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")  # the last group's failed
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.Error as error:
        # Whoever waits now has waited for the lock as well; one after the other they would wait for ever.
        while (job := following()) is not None:
            group.append(job)
        fail_all(group, understandable(error))
        return group
    try:
        _run_group(connection, group, following)
        connection.execute("COMMIT")
    except BaseException as error:
        _lose(connection, group, error)
    return group


def _lose(connection: sqlite3.Connection, group: list[Job], error: BaseException) -> None:
    cause = error.__cause__ if isinstance(error, _GroupLost) and error.__cause__ is not None else error
    fail_all(group, understandable(cause))
    _roll_back(connection)


def _roll_back(connection: sqlite3.Connection) -> None:
    try:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
    except sqlite3.Error:
        _log.failure("a group could not be rolled back; the next one tries again")


def _run_group(connection: sqlite3.Connection, group: list[Job], following: Callable[[], Job | None]) -> None:
    together: list[Job] = []
    ends = monotonic() + GROUP_SECONDS
    octets = 0
    job: Job | None = group[0]
    while job is not None:
        if job.work is not None:
            _run(connection, job, job.work)
        else:
            together.append(job)
        octets += job.size
        if len(group) >= GROUP_JOBS or octets >= GROUP_OCTETS or monotonic() > ends:
            break
        job = following()
        if job is not None:
            group.append(job)
    _run_all(connection, together)


def _run_all(connection: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    kinds: dict[Together, list[Job]] = {}
    for job in jobs:
        assert job.together is not None
        kinds.setdefault(job.together, []).append(job)
    for run, those in kinds.items():
        _run_together(connection, run, those)


def _run(connection: sqlite3.Connection, job: Job, work: Work) -> None:
    connection.execute("SAVEPOINT job")
    try:
        job.result = work(connection)
    except BaseException as error:
        job.error = understandable(error)
        if not connection.in_transaction:
            raise _GroupLost from error
        connection.execute("ROLLBACK TO job")
    connection.execute("RELEASE job")


def _run_together(connection: sqlite3.Connection, run: Together, jobs: list[Job]) -> None:
    trial = Job(None, 0)
    _run(connection, trial, lambda db: run(db, [job.item for job in jobs]))
    if trial.error is None:
        for job, result in zip(jobs, trial.result, strict=True):
            job.result = result
    elif len(jobs) == 1 or isinstance(trial.error, DatabaseUnavailable):
        fail_all(jobs, trial.error)
    else:
        for job in jobs:
            _run(connection, job, partial(_alone, run, job.item))


def _alone(run: Together, item: Any, db: sqlite3.Connection) -> Any:
    return run(db, [item])[0]


def fail_all(jobs: Sequence[Job], error: BaseException) -> None:
    """Fail those that have no error of their own, each with an exception of its own: tracebacks grow where shared."""
    for job in jobs:
        if job.error is None:
            job.error = type(error)(str(error)) if isinstance(error, DatabaseUnavailable) else error


def fire(jobs: Sequence[Job]) -> None:
    """Tell everyone who waits for these, in the reactor's thread."""
    for job in jobs:
        try:
            if job.error is not None:
                job.deferred.errback(job.error)
            else:
                job.deferred.callback(job.result)
        except Exception:
            _log.failure("a result of the database could not be delivered")
