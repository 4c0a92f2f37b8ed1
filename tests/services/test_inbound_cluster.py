"""inbound in a cluster: several workers on Redis queues and PostgreSQL. Each message is filed once, whoever is away.

Every server here is the test's own: they are stopped, stalled and killed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psycopg2
import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from servers import Postgres, Redis, add_clock, server_folder
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

sys.path.insert(0, str(Path(__file__).parent.parent / "mailboxes"))

from mailbox_house import Bytes, House

from mailfarm.backends import postgres_tx
from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.postgres_schema import migrate
from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue
from mailfarm.config import InboundSettings
from mailfarm.errors import QueueUnavailable
from mailfarm.inbound import held, pipeline
from mailfarm.mailboxes import messages
from mailfarm.services.inbound import Inbound

SECONDS = 60.0
"""Nothing here may take longer; what passes takes a few."""


async def until(condition):
    """Wait until ``condition()``, which may be a coroutine function, is true."""
    ends = time.monotonic() + SECONDS
    while True:
        value = condition()
        value = await value if hasattr(value, "__await__") else value
        if value:
            return value
        assert time.monotonic() < ends, "waited too long"
        await deferLater(reactor, 0.01)


class Watched:
    """A queue, and what is asked of it."""

    def __init__(self, queue):
        self._queue = queue
        self.ended = []
        self.extended = []

    def __getattr__(self, name):
        return getattr(self._queue, name)

    def done(self, fences, within=0.0):
        self.ended.append(list(fences))
        return self._queue.done(fences, within)

    def extend(self, fence, lease):
        self.extended.append(fence)
        return self._queue.extend(fence, lease)


class Cluster:
    """Two Redis servers, a Postgres, and workers that share nothing else."""

    def __init__(self):
        self._folders = [server_folder() for _ in range(3)]
        self.shards = [Redis(folder) for folder in self._folders[:2]]
        self.postgres = Postgres(self._folders[2])
        self.running = []
        self.processes = []
        self._links = []

    async def open(self):
        for server in (*self.shards, self.postgres):
            server.start()
        self.url = self.postgres.new_database()
        migrate(self.url)
        add_clock(self.url)
        self.house = await House(self.url).open()
        self.queue = await self.new_queue()
        return self

    async def new_queue(self, all_there=True, **settings):
        """The queue as one more process sees it."""
        links = [RedisLink(server.url, reactor, connections=3, timeout=1.0) for server in self.shards]
        registry = CollectorRegistry()
        for link in links:
            await link.start()
            self._links.append(link)
        shards = [
            RedisQueue(link, "inbound", self.house.ids, self.house.clock, reactor, registry, **settings)
            for link in links
        ]
        queue = ShardedQueue(shards)
        await queue.start()
        self.running.append(queue)
        enough = all if all_there else any
        await until(lambda: enough(shard.unavailable is None for shard in shards))
        return queue

    async def worker(self, *, lease=60.0, batch=10, **settings):
        """A worker with connections of its own."""
        database = PostgresDatabase(self.url, reactor, pool=2, wait=1.0)
        await database.start()
        queue = Watched(await self.new_queue(**settings))
        registry = CollectorRegistry()
        service = Inbound(
            settings=InboundSettings(batch=batch, lease=lease),
            queue=queue,
            database=database,
            bus=self.house.bus,
            ids=self.house.ids,
            clock=self.house.clock,
            reactor=reactor,
            registry=registry,
        )
        service.queue, service.registry = queue, registry
        await service.start()
        self.running += [database, service]
        return service

    def process(self, **settings):
        """The same as a process of its own, by its command."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")} | {
            "MAILFARM_DATABASE_URL": self.url,
            "MAILFARM_QUEUE_URL": " ".join(server.url for server in self.shards),
            "MAILFARM_CACHE_URL": self.shards[0].url,
            "MAILFARM_STATUS_LISTEN": "off",
            **settings,
        }
        process = subprocess.Popen([sys.executable, "-m", "mailfarm", "inbound"], env=environ, stdout=subprocess.PIPE)
        self.processes.append(process)
        return process

    async def put(self, *mailboxes, content=b"Subject: hi\r\n\r\nhello"):
        spooled = self.house.item(*mailboxes).spooled
        spooled = replace(spooled, content=Bytes(content), sha256=hashlib.sha256(content).digest())
        await self.queue.put(spooled)
        return spooled

    async def put_many(self, boxes, count):
        for n in range(count):
            await self.put(boxes[n % len(boxes)], content=b"Subject: %d\r\n\r\nx" % n)

    async def drained(self):
        try:
            depths = [await shard.depth() for shard in self.queue.shards]
        except QueueUnavailable:
            return False
        return not any(depth.waiting or depth.leased for depth in depths)

    async def check(self, boxes, count):
        """Each of ``count`` messages is in its mailbox, once, and the numbers have no gap."""
        found = []
        for number, box in enumerate(boxes):
            page = await self.house.list(box, limit=1000)
            subjects = [int(message.subject) for message in page.messages]
            assert sorted(subjects) == list(range(number, count, len(boxes)))
            seqs = [change.seq for change in await self.house.events(box)]
            assert seqs == list(range(1, len(seqs) + 1))
            found += subjects
        assert len(found) == count

    async def close(self):
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()
        for each in reversed(self.running):
            await each.stop()
        for link in self._links:
            await link.stop()
        await self.house.close()
        for server in (*self.shards, self.postgres):
            server.stop()
        for folder in self._folders:
            shutil.rmtree(folder)


def counted(service, outcome):
    return service.registry.get_sample_value("mailfarm_inbound_messages_total", {"outcome": outcome}) or 0


@pytest_twisted.async_yield_fixture
async def cluster(component):
    component("redis-server")
    component("postgres")
    made = Cluster()
    try:
        await made.open()
        yield made
    finally:
        await made.close()


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


async def digest(house, message):
    """The SHA-256 of what is stored, which is what was accepted."""
    found, number = hashlib.sha256(), 0
    stored = await house.read(messages.find, house.account, message.id)
    while (chunk := await house.read(messages.read_chunk, stored.content, number)) is not None:
        found.update(chunk)
        number += 1
    assert found.digest() == stored.sha256
    return found.digest()


@pytest_twisted.ensureDeferred
async def test_a_message_of_fifty_megabytes_is_filed_as_it_came(cluster):
    house = cluster.house
    mailbox = await house.mailbox()
    content = b"Subject: large\r\n\r\n" + os.urandom(1 << 20) * 50
    await cluster.put(mailbox, content=content)
    await cluster.worker()
    await until(cluster.drained)
    (message,) = (await house.list(mailbox)).messages
    assert message.size == len(content)
    assert await digest(house, message) == hashlib.sha256(content).digest()


@pytest.mark.parametrize("killed", ["postgres", "queue", "worker"])
@pytest_twisted.ensureDeferred
async def test_large_mail_is_filed_once_and_as_it_came_whatever_is_killed(cluster, monkeypatch, killed):
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.5)
    house = cluster.house
    boxes = [await house.mailbox() for _ in range(2)]
    sent = set()
    for n in range(24):
        content = b"Subject: %d\r\n\r\n" % n + os.urandom(1_000_000)
        sent.add(hashlib.sha256(content).digest())
        await cluster.put(boxes[n % 2], content=content)

    async def some_filed():
        return sum([len((await house.list(box)).messages) for box in boxes]) > 2

    working = cluster.process(MAILFARM_INBOUND_LEASE="2")
    if killed != "worker":
        await cluster.worker(lease=2.0)
    await until(some_filed)
    if killed == "worker":
        working.kill()
        await cluster.worker(lease=2.0)
    else:
        server = cluster.postgres if killed == "postgres" else cluster.shards[0]
        server.kill()
        server.start()
    await until(cluster.drained)
    await cluster.check(boxes, 24)
    found = [await digest(house, message) for box in boxes for message in (await house.list(box)).messages]
    assert (len(found), set(found)) == (24, sent)
    assert (await cluster.queue.depth()).aside == 0
