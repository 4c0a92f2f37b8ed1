"""What is gathered runs in the reactor's thread; only the commit is the writer's."""

from __future__ import annotations

import sqlite3
import threading

import pytest
import pytest_twisted
from sqlite_house import Gate, count, insert
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater

from mailfarm.backends.sqlite_engine import DatabaseFull
from mailfarm.errors import DatabaseUnavailable


async def passes():
    """A few passes of the reactor."""
    for _ in range(5):
        await deferLater(reactor, 0)


class Threads:
    """Inserts its items, and remembers in which thread; ``bad`` cannot be inserted."""

    def __init__(self):
        self.runs = []

    def __call__(self, db, items):
        here = threading.current_thread() is threading.main_thread()
        self.runs.append(("reactor" if here else "writer", len(items)))
        for item in items:
            if item == "bad":
                raise ValueError("bad")
            insert(item)(db)
        return items


@pytest_twisted.ensureDeferred
async def test_what_is_gathered_runs_in_the_reactors_thread_and_shares_a_commit(engine):
    work = Threads()
    before = engine.groups
    results = [engine.gather(work, str(n)) for n in range(20)]
    assert work.runs == []  # not before all who speak now have been heard
    assert await gatherResults(results) == [str(n) for n in range(20)]
    assert work.runs == [("reactor", 20)]
    assert engine.groups - before == 1
    assert await engine.read(count) == 20


@pytest_twisted.ensureDeferred
async def test_a_group_in_the_reactors_thread_is_bounded(engine):
    work = Threads()
    await gatherResults([engine.gather(work, str(n)) for n in range(150)])
    assert [many for _, many in work.runs] == [64, 64, 22]
    work.runs.clear()
    await gatherResults([engine.gather(work, f"large {n}", 600_000) for n in range(3)])
    assert [many for _, many in work.runs] == [2, 1]


@pytest_twisted.ensureDeferred
async def test_what_is_gathered_waits_while_the_writer_has_the_connection(engine):
    work = Threads()
    gate = Gate(engine)
    results = [engine.gather(work, str(n)) for n in range(5)]
    await passes()
    assert work.runs == []
    gate.open()
    await gatherResults(results)
    assert sum(many for _, many in work.runs) == 5
    assert engine.jobs == 6


@pytest_twisted.ensureDeferred
async def test_jobs_that_wait_share_the_commit_of_what_was_gathered(engine):
    gathered = [engine.gather(Threads(), str(n)) for n in range(5)]
    written = [engine.write(insert(f"w{n}")) for n in range(5)]
    await gatherResults([*gathered, *written])
    assert await engine.read(count) == 10
    assert engine.groups <= 3


@pytest_twisted.ensureDeferred
async def test_one_of_many_gathered_fails_alone(engine):
    work = Threads()
    results = [engine.gather(work, name) for name in ("c", "bad", "d")]
    with pytest.raises(ValueError, match="bad"):
        await results[1]
    assert [await results[0], await results[2]] == ["c", "d"]
    assert work.runs == [("reactor", 3), ("reactor", 1), ("reactor", 1), ("reactor", 1)]


@pytest_twisted.ensureDeferred
async def test_where_another_program_has_the_lock_the_writer_waits_for_it(engine, tmp_path):
    other = sqlite3.connect(tmp_path / "farm" / "mail.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    work = Threads()
    result = engine.gather(work, "a")
    await passes()
    assert not result.called
    other.execute("ROLLBACK")
    other.close()
    assert await result == "a"
    assert work.runs == [("writer", 1)]


@pytest_twisted.ensureDeferred
async def test_a_commit_that_fails_fails_all_that_were_gathered(engine):
    def orphans(db, items):
        db.execute("PRAGMA defer_foreign_keys=ON")  # so that the COMMIT finds it
        for item in items:
            db.execute(
                "INSERT INTO token (id, account, name, secret_sha256, scopes, created_at)"
                " VALUES (?, 'nobody', 'x', ?, '', 0)",
                (item, item),
            )
        return items

    results = [engine.gather(orphans, "a"), engine.gather(orphans, "b"), engine.write(insert("c"))]
    for result in results[:2]:
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            await result
    results[2].addErrback(lambda failure: failure.trap(sqlite3.IntegrityError))
    await results[2]
    assert await engine.gather(Threads(), "d") == "d"


@pytest_twisted.ensureDeferred
async def test_a_full_disk_fails_what_was_gathered_and_nothing_after_it(engine):
    (pages,) = engine._writer.execute("PRAGMA page_count").fetchone()
    await engine.write(lambda db: db.execute(f"PRAGMA max_page_count={pages}").fetchall())
    large = "x" * 1_000_000
    results = [engine.gather(Threads(), name) for name in (large, large + "y")]
    for result in results:
        with pytest.raises(DatabaseFull):
            await result
    assert await engine.gather(Threads(), "small") == "small"


@pytest_twisted.ensureDeferred
async def test_what_was_gathered_is_written_before_the_end(engine):
    work = Threads()
    results = [engine.gather(work, str(n)) for n in range(5)]
    await engine.close()
    assert [await result for result in results] == [str(n) for n in range(5)]
    with pytest.raises(DatabaseUnavailable, match="closed"):
        await engine.gather(work, "late")


@pytest_twisted.ensureDeferred
async def test_units_and_what_is_gathered_do_not_starve_each_other(engine):
    work = Threads()

    async def write(name):
        for n in range(100):
            await engine.write(insert(f"{name} {n}"))

    async def gather(name):
        for n in range(100):
            await engine.gather(work, f"{name} {n}")

    runs = [run(f"{run.__name__} {n}") for n in range(4) for run in (write, gather)]
    await gatherResults([Deferred.fromCoroutine(run) for run in runs])
    assert await engine.read(count) == 800
