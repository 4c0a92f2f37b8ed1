"""The engine: shared commits, jobs that fail alone, bounds, and an orderly end."""

from __future__ import annotations

import sqlite3
import threading

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, soon, until
from sqlite_house import Gate, count, insert
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from mailfarm.backends import sqlite_group
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import DatabaseFull
from mailfarm.errors import DatabaseUnavailable


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
