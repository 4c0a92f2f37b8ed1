"""The write-ahead log: short in use, empty at rest, and nothing of deleted mail in it or in the database."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, IDS, LONG, clock, octets, spooled, until
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from mailfarm.backends import queue_room, sqlite_log, sqlite_queue
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.errors import DatabaseUnavailable, QueueUnavailable
from mailfarm.ports import CHUNK


def log(engine):
    return engine.path.with_name(f"{engine.path.name}-wal")


def length(engine):
    return log(engine).stat().st_size


def found(engine, marker):
    """How often ``marker`` stands in the files of the database."""
    return sum(path.read_bytes().count(marker) for path in engine.path.parent.iterdir())


def fill(octets):
    def work(db):
        db.execute("INSERT INTO queue_spool (spooled, content) VALUES ('', zeroblob(?))", (octets,))

    return work


@pytest_twisted.ensureDeferred
async def test_the_log_stays_small_under_a_writer_that_never_rests(engine, monkeypatch):
    monkeypatch.setattr(sqlite_log, "_COPY_OCTETS", 64 * 1024)
    monkeypatch.setattr(sqlite_log, "_RESTART_FRAMES", 64)
    written = largest = 0
    ends = time.monotonic() + DEADLINE
    while written < 3 * largest or written < 6_000_000:
        await gatherResults([engine.write(fill(20_000), 20_000) for _ in range(10)])
        written += 200_000
        largest = max(largest, length(engine))
        assert time.monotonic() < ends, f"{written} octets written, and the log has {largest}"


@pytest_twisted.ensureDeferred
async def test_what_units_write_counts_although_they_do_not_say_how_much(engine, monkeypatch):
    monkeypatch.setattr(sqlite_log, "_RESTART_FRAMES", 2048)
    monkeypatch.setattr(sqlite_log, "_FORCE_FRAMES", 2049)
    written = largest = 0
    ends = time.monotonic() + DEADLINE
    while written < 3 * largest or written < 40_000_000:
        await engine.write(fill(5_000_000))
        written += 5_000_000
        largest = max(largest, length(engine))
        assert time.monotonic() < ends, f"{written} octets written, and the log has {largest}"


@pytest_twisted.ensureDeferred
async def test_the_log_is_emptied_when_the_writer_rests(engine):
    await engine.write(fill(10_000_000))
    assert length(engine) > 10_000_000
    await until(lambda: length(engine) == 0)
    await engine.write(fill(1000))
    assert length(engine) > 0
    await until(lambda: length(engine) == 0)


@pytest_twisted.ensureDeferred
async def test_a_writer_that_never_rests_empties_it_now_and_then(engine, monkeypatch):
    monkeypatch.setattr(sqlite_log, "_CUT_SECONDS", 0.0)
    monkeypatch.setattr(sqlite_log, "REST", LONG)
    await engine.write(fill(1000))  # the last cut was planned by the old setting
    engine._wal._cut_at = 0.0
    ends = time.monotonic() + DEADLINE
    while length(engine):
        await engine.write(fill(1000))
        assert time.monotonic() < ends


@pytest_twisted.ensureDeferred
async def test_emptying_waits_for_no_reader_and_is_tried_again(engine):
    looked, leave = threading.Event(), threading.Event()

    def slow(db):
        db.execute("SELECT count(*) FROM filed").fetchone()
        looked.set()
        assert leave.wait(DEADLINE)

    await engine.write(fill(1000))
    reading = engine.read(slow)
    assert looked.wait(DEADLINE)
    await engine.write(fill(100_000))
    await until(lambda: engine._wal._all_copied)
    await engine.write(fill(1000))
    assert length(engine) > 0
    leave.set()
    await reading
    await until(lambda: length(engine) == 0)


@pytest_twisted.ensureDeferred
async def test_opening_empties_what_a_killed_process_left(engines, monkeypatch, tmp_path):
    monkeypatch.setattr(sqlite_log, "REST", LONG)
    engine = engines()
    for life in range(4):
        await engine.write(fill(1_000_000))
        assert 1_000_000 < length(engine) < 2_000_000
        folder = tmp_path / str(life)
        folder.mkdir()
        for file in (engine.path, log(engine)):  # what stands on the disk is what a kill would leave
            shutil.copy(file, folder)
        engine = engines(folder / engine.path.name)
        assert length(engine) == 0
        assert engine.path.stat().st_size > (life + 1) * 1_000_000
    assert await engine.read(lambda db: db.execute("SELECT count(*) FROM queue_spool").fetchone()) == (4,)


@pytest_twisted.ensureDeferred
async def test_closing_is_bounded_when_another_program_holds_the_log(engines):
    engine = engines(busy_timeout=0.1)
    await engine.write(fill(1000))
    other = sqlite3.connect(engine.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT count(*) FROM filed").fetchone()
    await engine.write(fill(5_000_000), 5_000_000)  # the copier has something to do
    await engine.close()
    other.execute("ROLLBACK")
    other.close()
    again = engines(engine.path)
    assert await again.read(lambda db: db.execute("SELECT count(*) FROM queue_spool").fetchone()) == (2,)


# What is deleted


@pytest.mark.parametrize("size", [1000, 20_000, CHUNK, 3 * CHUNK])
@pytest_twisted.ensureDeferred
async def test_mail_that_left_the_queue_is_gone_from_the_disk(engine, size):
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    marker = b"fragile-9871"
    for _ in range(3):
        await queue.put(spooled((marker * size)[:size]))
        await queue.put(spooled(b"another one's " * 100))
    assert found(engine, marker)
    kept = 0
    for attempt in await queue.take(10, LONG):
        if marker in await octets(attempt.spooled):
            await queue.done([attempt.fence])
        else:
            kept += 1
    assert kept == 3
    await until(lambda: not found(engine, marker))
    assert length(engine) == 0
    await engine.close()
    assert not found(engine, marker)
    assert found(engine, b"another one's")


# Where it is


@pytest_twisted.ensureDeferred
async def test_nothing_is_promised_for_a_database_that_was_taken_away(engine, tmp_path):
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    await queue.put(spooled())
    engine.path.parent.rename(tmp_path / "elsewhere")
    for promise in (queue.put(spooled()), queue.put(spooled(b"x" * 3 * CHUNK)), queue.depth()):
        with pytest.raises(QueueUnavailable, match="is gone"):
            await promise
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.admit(0)
    with pytest.raises(DatabaseUnavailable, match="is gone"):
        await engine.write(lambda db: None)
    with pytest.raises(DatabaseUnavailable, match="is gone"):
        engine.check()
    (tmp_path / "elsewhere").rename(engine.path.parent)
    await queue.put(spooled())
    await queue.admit(0)
    assert (await queue.depth()).waiting >= 2
    shutil.rmtree(engine.path.parent)
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.put(spooled())


@pytest_twisted.ensureDeferred
async def test_room_is_believed_for_a_moment_where_a_commit_found_the_file_and_mail_never(
    engine, tmp_path, monkeypatch
):
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    monkeypatch.setattr(sqlite_queue, "FOUND", 3600.0)
    monkeypatch.setattr(queue_room, "_AGE", 3600.0)
    await queue.put(spooled())
    await queue.admit(0)  # the disk's room is measured
    engine.path.parent.rename(tmp_path / "elsewhere")
    await queue.admit(0)
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.put(spooled())
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.admit(0)
    (tmp_path / "elsewhere").rename(engine.path.parent)
    await queue.put(spooled())
    engine.path.parent.rename(tmp_path / "elsewhere")
    monkeypatch.setattr(sqlite_queue, "FOUND", 0.0)
    with pytest.raises(QueueUnavailable, match="is gone"):
        await queue.admit(0)
    (tmp_path / "elsewhere").rename(engine.path.parent)


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest_twisted.ensureDeferred
async def test_nor_for_one_that_was_replaced(engine, tmp_path, suffix):
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    await queue.put(spooled())
    name = f"{engine.path.name}{suffix}"
    shutil.copy(engine.path.with_name(name), tmp_path / "copy")
    (tmp_path / "copy").replace(engine.path.with_name(name))
    with pytest.raises(QueueUnavailable, match="another file"):
        await queue.put(spooled())
    with pytest.raises(QueueUnavailable, match="another file"):
        await queue.depth()
