"""inbound in a cluster: several workers on Redis queues and PostgreSQL. Each message is filed once, whoever is away."""

from __future__ import annotations

import signal

import psycopg2
import pytest_twisted
from inbound_cluster import counted, until
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from mailfarm.inbound import pipeline


@pytest_twisted.ensureDeferred
async def test_several_workers_file_each_message_once(cluster):
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(5)]
    await cluster.put_many(boxes, 200)
    workers = [await cluster.worker() for _ in range(3)]
    await until(cluster.drained)
    await cluster.check(boxes, 200)
    assert sum(counted(worker, "filed") for worker in workers) == 200
    assert sum(counted(worker, "failed") for worker in workers) == 0
    # the entries of both shards end in the same call
    ended = [{fence.partition("~")[0] for fence in fences} for worker in workers for fences in worker.queue.ended]
    assert {"0", "1"} in ended


@pytest_twisted.ensureDeferred
async def test_one_content_in_many_mailboxes_by_several_workers(cluster):
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(30)]
    for n in range(40):
        await cluster.put(*boxes, content=b"Subject: %d\r\n\r\nx" % n)
    for _ in range(3):
        await cluster.worker()
    await until(cluster.drained)
    for box in boxes:
        page = await house.list(box, limit=1000)
        assert sorted(int(message.subject) for message in page.messages) == list(range(40))
        assert [change.seq for change in await house.events(box)] == list(range(1, 41))


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stalls_loses_its_leases_and_files_nothing_twice(cluster):
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(2)]
    stalled = cluster.process(MAILFARM_INBOUND_LEASE="1", MAILFARM_INBOUND_BATCH="5")
    await deferToThread(stalled.stdout.readline)  # it is running
    cluster.postgres.stop()  # so that what it takes stays in its hands
    await cluster.put_many(boxes, 20)

    async def taken():
        return (await cluster.queue.depth()).leased >= 2

    await until(taken)
    stalled.send_signal(signal.SIGSTOP)
    cluster.postgres.start()
    other = await cluster.worker(lease=1.0)
    await until(cluster.drained)
    await cluster.check(boxes, 20)
    assert counted(other, "filed") == 20
    await other.stop()
    stalled.send_signal(signal.SIGCONT)
    await cluster.put(boxes[0], content=b"Subject: 20\r\n\r\nx")  # it has a look at this when it is through with those
    await until(cluster.drained)
    stalled.send_signal(signal.SIGTERM)
    await until(lambda: stalled.poll() is not None)
    assert stalled.returncode == 0
    await cluster.check(boxes, 21)
    depth = await cluster.queue.depth()
    assert (depth.waiting, depth.leased, depth.aside) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stalls_inside_a_unit_holds_up_its_mailboxes_for_a_moment_and_files_nothing_twice(cluster):
    """PostgreSQL ends a transaction that has gone silent (fifteen seconds), and with it its locks."""
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(2)]
    await cluster.put_many(boxes, 10)
    with psycopg2.connect(cluster.url) as ours, ours.cursor() as cursor:
        cursor.execute("select 1 from mailbox where id = any(%s) for update", ([box.id for box in boxes],))
        stalled = cluster.process(MAILFARM_INBOUND_LEASE="1", MAILFARM_INBOUND_BATCH="10")

        def stands_in_line():
            cursor.execute("select pg_stat_clear_snapshot()")
            cursor.execute("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
            return cursor.fetchone()[0]

        await until(stands_in_line)
        stalled.send_signal(signal.SIGSTOP)
    ours.close()  # now it has the locks
    other = await cluster.worker(lease=1.0)
    await until(cluster.drained)
    assert counted(other, "filed") == 10
    await cluster.check(boxes, 10)
    stalled.send_signal(signal.SIGCONT)
    await other.stop()
    await cluster.put(boxes[0], content=b"Subject: 10\r\n\r\nx")
    await until(cluster.drained)
    stalled.send_signal(signal.SIGTERM)
    await until(lambda: stalled.poll() is not None)
    await cluster.check(boxes, 11)


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stops_has_ended_what_it_filed_and_takes_nothing_more(cluster, monkeypatch):
    monkeypatch.setattr(pipeline, "ENDED_WITHIN", 3.0)  # longer than it takes to stop them
    house = cluster.house
    box = await house.mailbox()
    worker = await cluster.worker()
    await cluster.put_many([box], 4)
    await until(lambda: counted(worker, "filed") == 4)
    stopping = Deferred.fromCoroutine(worker.stop())
    await cluster.put(box)  # while the last ends wait for a take that does not come
    await stopping
    depth = await cluster.queue.depth()
    assert (depth.waiting, depth.leased, depth.aside) == (1, 0, 0)


@pytest_twisted.ensureDeferred
async def test_what_can_not_be_filed_is_set_aside_after_its_tries_and_listed(cluster, monkeypatch):
    house = cluster.house
    (box,) = boxes = [await house.mailbox()]
    real = pipeline.file

    async def file(tx, ids, items, **settings):
        if any(item.parsed.subject == "poison" for item in items):
            await tx.execute("select no_such_function()")
        return await real(tx, ids, items, **settings)

    monkeypatch.setattr(pipeline, "file", file)
    workers = [await cluster.worker(max_tries=2) for _ in range(2)]
    poison = await cluster.put(box, content=b"Subject: poison\r\n\r\nx")
    await cluster.put_many(boxes, 20)

    async def aside():
        return await cluster.queue.inspect("aside")

    (entry,) = await until(aside)
    assert (entry.id, entry.tries) == (poison.id, 2)
    assert "no_such_function" in entry.reason
    assert "select" not in entry.reason  # a statement holds mail
    await until(cluster.drained)
    await cluster.check(boxes, 20)
    assert sum(counted(worker, "failed") for worker in workers) == 2
    monkeypatch.setattr(pipeline, "file", real)
    await cluster.queue.requeue(poison.id)
    await until(cluster.drained)
    assert len((await house.list(box)).messages) == 21
