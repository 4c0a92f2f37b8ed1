"""inbound in a cluster whose PostgreSQL or queue is away: mail waits, no try is used up, nothing is set aside."""

from __future__ import annotations

import time

import psycopg2
import pytest_twisted
from inbound_cluster import counted, until

from mailfarm.backends import postgres_tx
from mailfarm.inbound import held, pipeline


@pytest_twisted.ensureDeferred
async def test_while_postgres_is_away_nothing_is_set_aside_and_no_tries_are_used_up(cluster, monkeypatch):
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.5)
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(3)]
    workers = [await cluster.worker(lease=1.0) for _ in range(2)]
    cluster.postgres.stop()
    await cluster.put_many(boxes, 60)
    await until(lambda: all(counted(worker, "retried") >= 3 for worker in workers))
    first = {fence for worker in workers for fence in worker.queue.extended}
    await until(lambda: all(len(worker.queue.extended) > 100 for worker in workers))  # several leases long
    entries = await cluster.queue.inspect("leased")
    assert {entry.tries for entry in entries} == {1}
    assert {fence for worker in workers for fence in worker.queue.extended} == first
    assert (await cluster.queue.depth()).aside == 0
    cluster.postgres.start()
    await until(cluster.drained)
    await cluster.check(boxes, 60)
    assert (await cluster.queue.depth()).aside == 0
    assert sum(counted(worker, "failed") for worker in workers) == 0


@pytest_twisted.ensureDeferred
async def test_stopping_workers_while_postgres_is_away_uses_up_no_tries_and_leaves_nothing_leased(cluster):
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(3)]
    await cluster.put_many(boxes, 6)
    cluster.postgres.stop()
    for _ in range(6):  # more often than there are tries
        worker = await cluster.worker(batch=4)
        await until(lambda worker=worker: counted(worker, "retried") >= 1)
        await worker.stop()
        depth = await cluster.queue.depth()
        assert (depth.waiting, depth.leased, depth.aside) == (6, 0, 0)
    assert {entry.tries for entry in await cluster.queue.inspect("waiting")} == {0}
    cluster.postgres.start()
    await cluster.worker()
    await until(cluster.drained)
    await cluster.check(boxes, 6)


@pytest_twisted.ensureDeferred
async def test_an_end_that_its_queue_did_not_hear_is_told_again(cluster, monkeypatch):
    monkeypatch.setattr(pipeline, "ENDED_WITHIN", 3.0)  # longer than it takes to stop them
    monkeypatch.setattr(pipeline, "END_PAUSE", 0.2)
    box = await cluster.house.mailbox()
    worker = await cluster.worker(max_tries=1)
    await cluster.put_many([box], 1)
    await until(lambda: worker.queue.ended)
    for shard in cluster.shards:
        shard.kill()  # what it confirmed it keeps
    await until(lambda: len(worker.queue.ended) > 1)
    for shard in cluster.shards:
        shard.start()
    await until(cluster.drained)  # long before the lease ends
    await cluster.check([box], 1)
    assert (await cluster.queue.depth()).aside == 0


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_somebody_keeps_locked_holds_up_no_other(cluster, monkeypatch):
    limits = postgres_tx._CLOCK_AND_LIMITS
    monkeypatch.setattr(postgres_tx, "_CLOCK_AND_LIMITS", limits._replace(sql=limits.sql.replace("4s", "400ms")))
    monkeypatch.setattr(held, "FIRST_PAUSE", 0.5)
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(11)]
    locker = psycopg2.connect(cluster.url)
    try:
        locker.cursor().execute("select 1 from mailbox where id = %s for update", (boxes[0].id,))
        workers = [await cluster.worker(lease=2.0) for _ in range(2)]
        await cluster.put(boxes[0], boxes[1], content=b"Subject: both\r\n\r\nx")
        began = time.monotonic()
        for turn in range(8):
            for number, box in enumerate(boxes):
                await cluster.put(box, content=b"Subject: %d\r\n\r\nx" % (11 * turn + number))
            await until(lambda turn=turn: sum(counted(worker, "filed") for worker in workers) == 10 * (turn + 1))
        assert time.monotonic() - began < 15
        await until(lambda: sum(counted(worker, "held") for worker in workers) > 30)
        waiting = [*await cluster.queue.inspect("waiting"), *await cluster.queue.inspect("leased")]
        assert {entry.tries for entry in waiting} <= {0, 1}, "it is not their fault"
        assert any("cannot work on mailbox" in entry.reason for entry in waiting)
        assert (await cluster.queue.depth()).aside == 0
    finally:
        locker.close()
    await until(cluster.drained)
    pages = [await house.list(box, limit=100) for box in boxes]
    assert [len(page.messages) for page in pages] == [9, 9, *[8] * 9]
    assert sum(counted(worker, "failed") for worker in workers) == 0


@pytest_twisted.ensureDeferred
async def test_a_right_that_is_missing_keeps_mail_waiting_and_sets_none_aside(cluster, monkeypatch):
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.1)
    house = cluster.house
    boxes = [await house.mailbox()]
    admin = psycopg2.connect(cluster.url)
    admin.autocommit = True
    try:
        admin.cursor().execute("create role small login; grant select on all tables in schema public to small")
        full, cluster.url = cluster.url, cluster.url.replace("://mailfarm@", "://small@")
        assert cluster.url != full
        worker = await cluster.worker(max_tries=2)
        await cluster.put_many(boxes, 3)
        await until(lambda: counted(worker, "retried") > 5)
        assert {entry.tries for entry in await cluster.queue.inspect("leased")} == {1}
        admin.cursor().execute("grant all on all tables in schema public to small")
        await until(cluster.drained)
    finally:
        admin.close()
    await cluster.check(boxes, 3)
    assert counted(worker, "failed") == 0


@pytest_twisted.ensureDeferred
async def test_a_postgres_that_is_killed_in_the_middle_loses_nothing(cluster, monkeypatch):
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.5)
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(3)]
    workers = [await cluster.worker() for _ in range(2)]
    await cluster.put_many(boxes, 30)
    await until(lambda: sum(counted(worker, "filed") for worker in workers) > 5)
    cluster.postgres.kill()
    for n in range(30, 90):
        await cluster.put(boxes[n % 3], content=b"Subject: %d\r\n\r\nx" % n)
    cluster.postgres.start()
    await until(cluster.drained)
    await cluster.check(boxes, 90)
    assert (await cluster.queue.depth()).aside == 0


@pytest_twisted.ensureDeferred
async def test_a_shard_that_is_away_costs_only_what_is_on_it_and_that_only_time(cluster):
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(3)]
    await cluster.put_many(boxes, 40)
    cluster.shards[1].kill()
    workers = [await cluster.worker(all_there=False) for _ in range(2)]
    await until(lambda: sum(counted(worker, "filed") for worker in workers) == 20)
    for n in range(40, 60):
        await cluster.put(boxes[n % 3], content=b"Subject: %d\r\n\r\nx" % n)
    await until(lambda: sum(counted(worker, "filed") for worker in workers) == 40)
    cluster.shards[1].start()
    await until(cluster.drained)
    await cluster.check(boxes, 60)
