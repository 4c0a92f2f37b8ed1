"""The embedded queue when things go wrong: no room, a lock, a crash half way, a mail that kills its worker."""

from __future__ import annotations

import os
import sqlite3
import threading
import time

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, IDS, LONG, clock, octets, soon, spooled, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults

from mailfarm.backends import sqlite_queue
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import TAKE_OCTETS, Queue
from mailfarm.backends.sqlite_queue_rows import LOST
from mailfarm.errors import Invalid, QueueBehind, QueueFull, QueueUnavailable
from mailfarm.mail.envelope import Envelope
from mailfarm.ports import CHUNK


class Store:
    """A queue on a file, to be opened again and again."""

    def __init__(self, path):
        self._path = path
        self.engine = self.queue = None

    def open(self, engine=None, **settings):
        self.engine = Engine(self._path, clock=clock, deliver=reactor.callFromThread, **(engine or {}))
        self.queue = Queue(self.engine, "inbound", IDS, clock, reactor=reactor, **settings)
        return self.queue

    async def rows(self, sql):
        return await self.engine.read(lambda db: db.execute(sql).fetchall())

    async def no_chunks(self):
        while await self.rows("SELECT 1 FROM queue_chunk LIMIT 1"):
            pass
        return True


@pytest_twisted.async_yield_fixture
async def store(tmp_path):
    store = Store(tmp_path / "queue.sqlite")
    yield store
    await store.engine.close()


@pytest_twisted.ensureDeferred
async def test_a_full_database_is_a_full_queue_until_there_is_room(store):
    queue = store.open()
    await queue.put(spooled())
    pages = await store.engine.write(lambda db: db.execute("PRAGMA page_count").fetchone()[0])
    await store.engine.write(lambda db: db.execute(f"PRAGMA max_page_count={pages + 5}"))
    for size in (CHUNK, 3 * CHUNK):
        with pytest.raises(QueueFull, match="no room"):
            await queue.put(spooled(b"x" * size))
        with pytest.raises(QueueFull, match="just found no room"):
            await queue.admit(0)
    assert (await queue.depth()).waiting == 1
    await store.engine.write(lambda db: db.execute("PRAGMA max_page_count=1000000"))
    await queue.put(spooled(b"x" * CHUNK * 3))
    assert len(await queue.take(10, LONG)) == 2


@pytest_twisted.ensureDeferred
async def test_a_disk_down_to_its_reserve_refuses_before_the_content(store, tmp_path):
    free = os.statvfs(tmp_path)
    queue = store.open(reserve=free.f_blocks * free.f_frsize * 5)
    with pytest.raises(QueueFull, match="kept in reserve"):
        await queue.admit(0)
    await store.engine.close()
    queue = store.open(reserve=0)
    await queue.admit(0)
    with pytest.raises(QueueFull):
        await queue.admit(free.f_blocks * free.f_frsize)


@pytest_twisted.ensureDeferred
async def test_a_backlog_of_too_many_octets_is_full(store):
    queue = store.open(max_octets=1000)
    await queue.put(spooled(b"x" * 600))
    await queue.admit(400)
    with pytest.raises(QueueFull, match="600 octets of 1000"):
        await queue.admit(401)
    with pytest.raises(QueueFull):
        await queue.put(spooled(b"x" * 500))
    (attempt,) = await queue.take(1, LONG)
    await queue.done([attempt.fence])
    await queue.put(spooled(b"x" * 500))


@pytest_twisted.ensureDeferred
async def test_a_writer_that_is_far_behind_says_how_far(store):
    queue = store.open(engine={"max_jobs": 10})
    await queue.put(spooled())
    entered, leave = threading.Event(), threading.Event()
    held = store.engine.write(lambda db: (entered.set(), leave.wait(DEADLINE)))
    assert entered.wait(DEADLINE)
    puts = [queue.put(spooled()) for _ in range(5)]
    with pytest.raises(QueueBehind, match="60% of what may wait") as behind:
        await queue.admit(0)
    assert behind.value.by == 1.2
    leave.set()
    await gatherResults([held, *puts])
    await queue.admit(0)


@pytest_twisted.ensureDeferred
async def test_a_locked_database_is_an_unavailable_queue(store):
    queue = store.open(engine={"busy_timeout": 0.05})
    await queue.put(spooled(b"before"))
    (attempt,) = await queue.take(1, LONG)
    other = sqlite3.connect(store.engine.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for work in (
        queue.put(spooled()),
        queue.put(spooled(b"x" * 2 * CHUNK)),
        queue.take(1, LONG),
        queue.done([attempt.fence]),
        queue.extend(attempt.fence, LONG),
        queue.fail(attempt.fence, "why"),
    ):
        with pytest.raises(QueueUnavailable):
            await work
    other.execute("ROLLBACK")
    other.close()
    await queue.put(spooled(b"after"))
    await queue.done([attempt.fence])
    assert [await octets(a.spooled) for a in await queue.take(10, LONG)] == [b"after"]


@pytest_twisted.ensureDeferred
async def test_a_queue_that_was_locked_when_it_opened_counts_later(store):
    queue = store.open()
    await queue.put(spooled())
    await store.engine.close()
    store.engine = Engine(store._path, clock=clock, deliver=reactor.callFromThread, busy_timeout=0.05)
    other = sqlite3.connect(store._path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    queue = Queue(store.engine, "inbound", IDS, clock, reactor=reactor, max_entries=1)
    with pytest.raises(QueueUnavailable):
        await queue.put(spooled())
    other.execute("ROLLBACK")
    other.close()
    with pytest.raises(QueueFull):
        await queue.put(spooled())


@pytest_twisted.ensureDeferred
async def test_a_closed_queue_is_unavailable(store):
    queue = store.open()
    await queue.put(spooled())
    await store.engine.close()
    for work in (queue.put(spooled()), queue.take(1, LONG), queue.depth(), queue.done(["1.x"])):
        with pytest.raises(QueueUnavailable, match="closed"):
            await work


@pytest_twisted.ensureDeferred
async def test_text_that_cannot_be_stored_is_invalid_and_harms_nobody(store):
    queue = store.open()
    good = queue.put(spooled())
    with pytest.raises(Invalid):
        await queue.put(spooled(envelope=Envelope("\ud800@example.com")))
    await good
    assert (await queue.depth()).waiting == 1


@pytest_twisted.ensureDeferred
async def test_a_database_that_was_deleted_admits_nobody(store, tmp_path):
    queue = store.open()
    store._path.rename(tmp_path / "elsewhere")
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.admit(0)
    (tmp_path / "elsewhere").rename(store._path)
    await queue.admit(0)


@pytest_twisted.ensureDeferred
async def test_a_turn_costs_the_same_whatever_the_backlog(store):
    """Counted in steps of SQLite's machine, which do not depend on the weather."""
    queue = store.open()
    steps = []

    def count():
        steps.append(1)

    async def turn():
        steps.clear()
        store.engine._writer.set_progress_handler(count, 10)
        attempts = await queue.take(10, LONG)
        await queue.fail(attempts[0].fence, "why")
        await queue.extend(attempts[1].fence, LONG)
        await queue.done([a.fence for a in attempts[1:]])
        store.engine._writer.set_progress_handler(None, 10)
        return len(steps)

    await gatherResults([queue.put(spooled()) for _ in range(50)])
    few = await turn()
    await gatherResults([queue.put(spooled()) for _ in range(3000)])
    assert await turn() < 2 * few


# Half way


@pytest_twisted.ensureDeferred
async def test_pieces_without_an_entry_are_swept_when_the_queue_opens(store):
    queue = store.open()
    kept = spooled(os.urandom(2 * CHUNK))
    await queue.put(kept)
    for key in ("one", "two"):
        for number in range(20):
            row = ("inbound", key, number, b"x" * CHUNK)
            await store.engine.write(lambda db, row=row: db.execute("INSERT INTO queue_chunk VALUES (?, ?, ?, ?)", row))
    row = ("another", "three", 0, b"x")
    await store.engine.write(lambda db: db.execute("INSERT INTO queue_chunk VALUES (?, ?, ?, ?)", row))
    await store.engine.close()
    queue = store.open()
    while len(await store.rows("SELECT DISTINCT chunks FROM queue_chunk")) > 2:
        pass
    (attempt,) = await queue.take(1, LONG)
    assert await octets(attempt.spooled) == await octets(kept)
    assert await store.rows("SELECT chunks FROM queue_chunk WHERE queue = 'another'") == [("three",)]


@pytest_twisted.ensureDeferred
async def test_large_content_that_failed_half_way_leaves_nothing(store):
    queue = store.open()
    with pytest.raises(OSError, match="gone"):
        await queue.put(spooled(b"x" * 4 * CHUNK, fail_after=3))
    assert await store.no_chunks()
    putting = queue.put(spooled(b"x" * 40 * CHUNK))
    while not await store.rows("SELECT 1 FROM queue_chunk LIMIT 1"):
        pass
    putting.addErrback(lambda f: f.trap(CancelledError))
    putting.cancel()
    assert await store.no_chunks()
    assert (await queue.depth()).waiting == 0


@pytest_twisted.ensureDeferred
async def test_large_content_goes_with_its_entry_and_a_second_copy_at_once(store):
    queue = store.open()
    mail = spooled(b"x" * 20 * CHUNK)
    await queue.put(mail)
    await queue.put(mail)
    while len(await store.rows("SELECT 1 FROM queue_chunk")) > 20:
        pass
    (attempt,) = await queue.take(1, LONG)
    await queue.done([attempt.fence])
    assert await store.no_chunks()


@pytest_twisted.ensureDeferred
async def test_many_middling_ones_do_not_all_come_along_with_one_take(store):
    queue = store.open()
    contents = [os.urandom(CHUNK) for _ in range(TAKE_OCTETS // CHUNK + 4)]
    await gatherResults([queue.put(spooled(content)) for content in contents])
    attempts = await queue.take(100, LONG)
    assert sum(type(a.spooled.content).__name__ == "Stored" for a in attempts) == 4
    assert sorted([await octets(a.spooled) for a in attempts]) == sorted(contents)


@pytest_twisted.ensureDeferred
async def test_the_leases_of_a_process_that_is_gone_end_at_once(store):
    queue = store.open()
    await queue.put(spooled())
    await queue.take(1, 3600.0)
    await store.engine.close()
    queue = store.open()
    (attempt,) = await queue.take(1, LONG)
    assert attempt.tries == 2


# Mail that kills


@pytest_twisted.ensureDeferred
async def test_a_mail_that_kills_its_worker_takes_nobody_along(store):
    """Every process takes all it can get and dies at the bad one; it ends what it has before it."""
    queue = store.open()
    mails = [spooled(str(n).encode()) for n in range(10)]
    bad = mails[4].id
    for mail in mails:
        await queue.put(mail)
    ended = []
    for _ in range(30):
        attempts = await queue.take(4, LONG)
        if not attempts:
            break
        for attempt in attempts:
            if attempt.spooled.id == bad:
                await store.engine.close()
                queue = store.open()
                break
            ended.append(attempt.spooled.id)
            await queue.done([attempt.fence])
    assert sorted(ended) == sorted(m.id for m in mails if m.id != bad)
    (entry,) = await queue.inspect("aside")
    assert (entry.id, entry.tries, entry.reason) == (bad, 5, LOST)


@pytest_twisted.ensureDeferred
async def test_an_entry_lost_twice_is_handed_out_alone(store):
    queue = store.open()
    for _ in range(6):
        await queue.put(spooled())
    for batch in (6, 6, 1):
        assert len(await queue.take(10, LONG)) == batch
        await store.engine.close()
        queue = store.open()
    await queue.put(spooled())
    sizes = [len(await queue.take(10, LONG)) for _ in range(7)]
    assert sizes == [1, 1, 1, 1, 1, 1, 1]


@pytest_twisted.ensureDeferred
async def test_an_entry_nobody_can_read_is_set_aside_and_not_in_the_way(store):
    queue = store.open()
    bad, older, good = spooled(), spooled(), spooled(b"good")
    for mail in (bad, older, good):
        await queue.put(mail)

    def spoil(db):
        db.execute("UPDATE queue_spool SET spooled = 'x' WHERE number = 1")
        db.execute("""UPDATE queue_spool SET spooled = replace(spooled, '"v":1', '"v":0') WHERE number = 2""")

    await store.engine.write(spoil)
    (attempt,) = await queue.take(10, LONG)
    assert attempt.spooled.id == good.id
    aside = []

    def look(entries):
        aside[:] = entries

    while len(aside) < 2:
        look(await queue.inspect("aside"))
    assert [(e.id, e.sender) for e in aside] == [(bad.id, ""), (older.id, "sender@example.com")]
    assert "version 0" in aside[1].reason


@pytest_twisted.ensureDeferred
async def test_an_entry_of_a_newer_version_waits_for_it_and_is_never_set_aside(store, monkeypatch):
    monkeypatch.setattr(sqlite_queue, "NEWER_PAUSE", 0.01)
    queue = store.open()
    newer, good = spooled(), spooled()
    await queue.put(newer)
    await queue.put(good)
    newer_form = """UPDATE queue_spool SET spooled = replace(spooled, '"v":1', '"v":2') WHERE number = 1"""
    await store.engine.write(lambda db: db.execute(newer_form) and None)
    (attempt,) = await queue.take(10, LONG)
    assert attempt.spooled.id == good.id
    for _ in range(10):  # more often than there are tries
        assert list(await queue.take(10, LONG, 0.02)) == []
    (entry,) = await queue.inspect("waiting")
    assert (entry.id, entry.tries, "version 2" in entry.reason) == (newer.id, 0, True)
    older_form = """UPDATE queue_spool SET spooled = replace(spooled, '"v":2', '"v":1') WHERE number = 1"""
    await store.engine.write(lambda db: db.execute(older_form) and None)
    (attempt,) = await soon(queue.take(10, LONG, DEADLINE))
    assert (attempt.spooled.id, attempt.tries) == (newer.id, 1)


@pytest_twisted.ensureDeferred
async def test_a_wait_that_was_woken_and_cancelled_wakes_another(store):
    queue = store.open()
    first, second = queue.take(1, LONG, 600.0), queue.take(1, LONG, 600.0)
    await queue.take(1, LONG)
    first.addErrback(lambda f: f.trap(CancelledError))
    put = queue.put(spooled())
    await put  # the first is woken and looks
    first.cancel()
    await until(lambda: second.called)
    assert len(await second) == 1


@pytest_twisted.ensureDeferred
async def test_a_take_that_was_cancelled_has_given_everything_back_when_it_says_so(store):
    queue = store.open()
    await queue.put(spooled())
    for _ in range(20):
        groups = store.engine.groups
        taking = queue.take(1, LONG)
        ends = time.monotonic() + DEADLINE
        while store.engine.groups == groups:  # not a turn of the reactor: it is taken, and nobody knows yet
            assert time.monotonic() < ends
        taking.cancel()
        with pytest.raises(CancelledError):
            await taking
        await store.engine.close()  # at once: nothing may be left to do
        with sqlite3.connect(store.engine.path) as other:
            assert other.execute("SELECT state, tries FROM queue_entry").fetchall() == [("waiting", 0)]
        other.close()
        queue = store.open()
        await queue.depth()
        await store.engine.write(lambda db: None)  # behind the queue's opening
