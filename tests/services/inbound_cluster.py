"""Workers of inbound on Redis queues and PostgreSQL of a test's own, which may be stopped, stalled and killed."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace

from mailbox_house import Bytes, House
from prometheus_client import CollectorRegistry
from servers import Postgres, Redis, add_clock, server_folder
from twisted.internet import reactor
from twisted.internet.task import deferLater

from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.postgres_schema import migrate
from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue
from mailfarm.config import InboundSettings
from mailfarm.errors import QueueUnavailable
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
