"""The engine: shared commits, jobs that fail alone, bounds, and an orderly end."""

from __future__ import annotations

import sqlite3
import threading

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, clock, soon, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater

from mailfarm.backends import sqlite_group
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import DatabaseFull, Engine
from mailfarm.errors import DatabaseUnavailable


def insert(name):
    def work(db):
        db.execute("INSERT INTO filed (spool, filed_at) VALUES (?, 0)", (name,))
        return name

    return work


def count(db):
    return db.execute("SELECT count(*) FROM filed").fetchone()[0]


class Gate:
    """A job that holds the writer until it is opened."""

    def __init__(self, engine):
        self._entered, self._open = threading.Event(), threading.Event()
        self.passed = engine.write(self._work)
        assert self._entered.wait(DEADLINE)

    def _work(self, db):
        self._entered.set()
        assert self._open.wait(DEADLINE)

    def open(self):
        self._open.set()


@pytest_twisted.async_yield_fixture
async def engines(tmp_path):
    """Makes engines on one file, one after the other, and closes what is open at the end."""
    made = []

    def make(path=tmp_path / "farm" / "mail.sqlite", deliver=reactor.callFromThread, **settings):
        made.append(Engine(path, clock=clock, deliver=deliver, **settings))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


@pytest.fixture
def engine(engines):
    return engines()


@pytest_twisted.ensureDeferred
async def test_jobs_that_wait_together_share_one_commit(engine):
    gate = Gate(engine)
    works = [engine.write(insert(str(n))) for n in range(100)]
    before = engine.groups
    gate.open()
    assert await gatherResults(works) == [str(n) for n in range(100)]
    # the group of the gate had its time and is over; the hundred wait for one more
    assert engine.groups - before <= 2
    assert engine.jobs == 101


@pytest_twisted.ensureDeferred
async def test_a_group_is_bounded_in_jobs_and_in_octets(engine):
    gate = Gate(engine)
    works = [engine.write(insert(f"a{n}")) for n in range(1000)]
    gate.open()
    await gatherResults(works)
    assert engine.groups >= 1000 / sqlite_group.GROUP_JOBS
    gate = Gate(engine)
    before = engine.groups
    works = [engine.write(insert(f"b{n}"), size=5 * 1024 * 1024) for n in range(8)]
    gate.open()
    await gatherResults(works)
    assert engine.groups - before >= 4


@pytest_twisted.ensureDeferred
async def test_the_results_of_a_group_come_in_one_call(engines):
    calls = []

    def deliver(call):
        calls.append(call)
        reactor.callFromThread(call)

    engine = engines(deliver=deliver)
    gate = Gate(engine)
    works = [engine.write(insert(str(n))) for n in range(50)]
    gate.open()
    await gatherResults(works)
    assert len(calls) == engine.groups


@pytest_twisted.ensureDeferred
async def test_nothing_is_told_before_it_is_committed(engines, tmp_path):
    seen = []

    def deliver(call):
        with sqlite3.connect(tmp_path / "farm" / "mail.sqlite") as other:
            seen.append(other.execute("SELECT count(*) FROM filed").fetchone()[0])
        other.close()
        reactor.callFromThread(call)

    engine = engines(deliver=deliver)
    for n in range(5):
        await engine.write(insert(str(n)))
    assert seen == [1, 2, 3, 4, 5]


@pytest_twisted.ensureDeferred
async def test_a_job_that_fails_rolls_back_alone(engine):
    def bad(db):
        insert("bad")(db)
        raise ValueError("bad")

    gate = Gate(engine)
    works = [engine.write(bad if n == 5 else insert(str(n))) for n in range(10)]
    gate.open()
    with pytest.raises(ValueError, match="bad"):
        await works[5]
    await gatherResults(works[:5] + works[6:])
    assert await engine.read(count) == 9
    assert engine.groups <= 2


@pytest_twisted.ensureDeferred
async def test_a_mistake_in_the_sql_is_not_taken_for_trouble(engine):
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await engine.write(lambda db: db.execute("SELECT * FROM nowhere"))
    await engine.write(insert("a"))
    with pytest.raises(sqlite3.IntegrityError):
        await engine.write(insert("a"))


@pytest_twisted.ensureDeferred
async def test_a_job_may_raise_anything_and_the_writer_lives(engine):
    def leave(db):
        raise SystemExit(3)

    with pytest.raises(SystemExit):
        await engine.write(leave)
    with pytest.raises(SystemExit):
        await engine.read(leave)
    assert await engine.write(insert("a")) == "a"
    assert await engine.read(count) == 1


@pytest_twisted.ensureDeferred
async def test_a_commit_that_fails_fails_everyone_in_the_group(engine):
    def orphan(db):
        db.execute("PRAGMA defer_foreign_keys=ON")  # so that the COMMIT finds it
        db.execute(
            "INSERT INTO token (id, account, name, secret_sha256, scopes, created_at)"
            " VALUES ('t', 'nobody', 'x', x'00', '', 0)"
        )

    gate = Gate(engine)
    works = [engine.write(insert("a")), engine.write(orphan), engine.write(insert("b"))]
    gate.open()
    for work in (gate.passed, *works):
        with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
            await work
    assert await engine.write(count) == 0


@pytest_twisted.ensureDeferred
async def test_items_of_one_kind_run_together(engine):
    runs = []

    def together(db, items):
        runs.append(list(items))
        return [item * 2 for item in items]

    gate = Gate(engine)
    works = [engine.write_many(together, n) for n in range(20)]
    gate.open()
    assert await gatherResults(works) == [n * 2 for n in range(20)]
    assert runs == [list(range(20))]


@pytest_twisted.ensureDeferred
async def test_an_item_that_fails_is_found_out(engine):
    def together(db, items):
        for item in items:
            insert(str(item))(db)
        return items

    await engine.write(insert("3"))
    gate = Gate(engine)
    works = [engine.write_many(together, n) for n in range(6)]
    gate.open()
    with pytest.raises(sqlite3.IntegrityError):
        await works.pop(3)
    assert await gatherResults(works) == [0, 1, 2, 4, 5]
    assert await engine.read(count) == 6


@pytest_twisted.ensureDeferred
async def test_a_result_nobody_waits_for_harms_nobody(engine):
    gate = Gate(engine)
    first, second = engine.write(insert("a")), engine.write(insert("b"))
    first.addErrback(lambda f: f.trap(CancelledError))
    first.cancel()
    gate.open()
    assert await second == "b"
    assert await engine.read(count) == 2


@pytest_twisted.ensureDeferred
async def test_a_delivery_that_fails_does_not_end_the_writer(engines):
    broken = [True]

    def deliver(call):
        if broken:
            broken.pop()
            raise OSError("the reactor is away")
        reactor.callFromThread(call)

    engine = engines(deliver=deliver)
    engine.write(insert("a"))
    await until(lambda: not broken)
    assert await engine.write(insert("b")) == "b"
    assert await engine.read(count) == 2


@pytest_twisted.ensureDeferred
async def test_a_read_sees_one_state_from_its_first_look_on(engine):
    looked, written = threading.Event(), threading.Event()

    def read(db):
        before = count(db)
        looked.set()
        assert written.wait(DEADLINE)
        return before, count(db)

    reading = engine.read(read)
    assert looked.wait(DEADLINE)
    await engine.write(insert("a"))
    written.set()
    assert await reading == (0, 0)
    assert await engine.read(count) == 1


@pytest_twisted.ensureDeferred
async def test_a_unit_may_await_only_its_tx(engine):
    async def work(tx):
        await tx.insert("filed", ["spool", "filed_at"], [("a", 0)])
        await Deferred()

    with pytest.raises(RuntimeError, match="only its tx"):
        await soon(Database(engine).unit(work))
    assert await engine.read(count) == 0


@pytest_twisted.ensureDeferred
async def test_a_commit_is_synced_and_keys_are_checked(engine):
    def pragmas(db):
        names = ("journal_mode", "synchronous", "foreign_keys", "fullfsync", "wal_autocheckpoint", "mmap_size")
        return [db.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await engine.write(pragmas) == ["wal", 2, 1, 1, 0, 0]
    assert await engine.read(lambda db: db.execute("PRAGMA query_only").fetchone()[0]) == 1


# Bounds


@pytest_twisted.ensureDeferred
async def test_no_more_jobs_wait_than_the_cap(engines):
    engine = engines(max_jobs=10)
    gate = Gate(engine)
    works = [engine.write(insert(str(n))) for n in range(9)]
    assert engine.filled >= 0.5
    with pytest.raises(DatabaseUnavailable, match="10 jobs already wait"):
        await engine.write(insert("one too many"))
    gate.open()
    await gatherResults(works)
    assert engine.filled < 0.5
    assert await engine.write(insert("later")) == "later"


@pytest_twisted.ensureDeferred
async def test_no_more_octets_wait_than_the_cap(engines):
    engine = engines(max_octets=1000)
    assert await engine.write(insert("large"), 5000) == "large"  # alone it may pass: it is in memory anyway
    gate = Gate(engine)
    work = engine.write(insert("a"), 600)
    with pytest.raises(DatabaseUnavailable, match="600 octets already wait"):
        await engine.write(insert("b"), 600)
    gate.open()
    await work
    assert await engine.write(insert("b"), 600) == "b"


@pytest_twisted.ensureDeferred
async def test_no_more_reads_wait_than_the_cap(engines):
    engine = engines(max_jobs=3, readers=1)
    entered, leave = threading.Event(), threading.Event()

    def slow(db):
        entered.set()
        assert leave.wait(DEADLINE)

    reads = [engine.read(slow) for _ in range(3)]
    assert entered.wait(DEADLINE)
    with pytest.raises(DatabaseUnavailable, match="3 reads already wait"):
        await engine.read(count)
    leave.set()
    await gatherResults(reads)
    assert await engine.read(count) == 0


# The end


@pytest_twisted.ensureDeferred
async def test_closing_finishes_what_waits(engine):
    gate = Gate(engine)
    works = [engine.write(insert(str(n))) for n in range(500)]
    reads = [engine.read(count) for _ in range(20)]
    closing, again = engine.close(), engine.close()
    gate.open()
    await gatherResults([closing, again])
    assert [w.called for w in works] == [True] * 500
    assert len(await gatherResults(works)) == 500
    await gatherResults(reads)
    other = sqlite3.connect(engine.path)
    assert other.execute("SELECT count(*) FROM filed").fetchone() == (500,)
    other.close()


@pytest_twisted.ensureDeferred
async def test_closing_leaves_one_file_and_a_lock_nobody_holds(engine):
    await engine.write(insert("a"))
    await engine.close()
    assert sorted(p.name for p in engine.path.parent.iterdir()) == ["mail.sqlite", "mail.sqlite.lock"]


@pytest_twisted.ensureDeferred
async def test_after_closing_everything_is_refused(engine):
    await engine.close()
    await engine.close()
    for work in (engine.write(count), engine.read(count), engine.write_many(lambda db, items: items, 1)):
        with pytest.raises(DatabaseUnavailable, match="closed"):
            await work


@pytest_twisted.ensureDeferred
async def test_without_a_path_everything_is_gone_afterwards(engines):
    engine = engines(path=None)
    folder = engine.path.parent
    assert folder.stat().st_mode & 0o777 == 0o700
    await engine.write(insert("a"))
    assert await engine.read(count) == 1
    await engine.close()
    assert not folder.exists()


# Trouble


@pytest_twisted.ensureDeferred
async def test_a_full_database_says_so_and_recovers(engine):
    def fill(db):
        db.execute("INSERT INTO queue_spool (number, spooled, content) VALUES (1, '', zeroblob(1000000))")

    pages = await engine.write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await engine.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 20}"))
    with pytest.raises(DatabaseFull, match="no room"):
        await engine.write(fill)
    assert await engine.write(insert("small")) == "small"
    await engine.write(lambda db: db.execute("PRAGMA max_page_count=1000000"))
    await engine.write(fill)


@pytest_twisted.ensureDeferred
async def test_a_database_locked_by_another_program_is_unavailable_until_it_is_let_go(engines):
    engine = engines(busy_timeout=0.1)
    await engine.write(insert("a"))
    other = sqlite3.connect(engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    works = [engine.write(insert(str(n))) for n in range(20)]
    for work in works:
        with pytest.raises(DatabaseUnavailable, match="locked by another program"):
            await soon(work)
    assert await engine.read(count) == 1  # who only reads does not notice
    other.execute("ROLLBACK")
    other.close()
    assert await engine.write(insert("b")) == "b"


# What is gathered runs in the reactor's thread; only the commit is the writer's.


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
