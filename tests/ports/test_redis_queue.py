"""The Queue port on Redis keeps its contract: on one server, over two shards, and behind Sentinel."""

from __future__ import annotations

import shutil

import pytest
from prometheus_client import CollectorRegistry
from queue_contract import QueueContract
from servers import Redis, Sentinel, free_port, server_folder
from spooled_samples import DEADLINE, IDS, clock
from twisted.internet import reactor

from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue


class Store:
    """Queues on the servers of ``urls``, each test's with names of its own."""

    def __init__(self, *urls: str) -> None:
        self._urls = urls
        self._prefix = IDS.new()

    async def open(self):
        self._queues = {}
        self._links = [RedisLink(url, reactor, connections=3) for url in self._urls]
        for link in self._links:
            await link.start()
            assert await link.ready(DEADLINE), link.why

    async def queue(self, name, max_entries=1000):
        if name not in self._queues:
            queue = self._queues[name] = self._new(f"{self._prefix}-{name}", max_entries)
            await queue.start()
        return self._queues[name]

    def _new(self, name, max_entries):
        registry = CollectorRegistry()
        cap = max_entries // len(self._links)  # each shard's own
        shards = [
            RedisQueue(link, name, IDS, clock, reactor, registry, max_entries=cap, holder="worker-7/42")
            for link in self._links
        ]
        return ShardedQueue(shards) if len(shards) > 1 else shards[0]

    async def restart(self):
        await self.close()
        await self.open()

    async def close(self):
        for queue in self._queues.values():
            await queue.stop()
        for link in self._links:
            await link.stop()


class TestRedisQueue(QueueContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def servers(cls, redis):
        cls.urls = [redis.url]

    async def open_store(self, folder):
        store = Store(*self.urls)
        await store.open()
        return store


class TestTwoShards(TestRedisQueue):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def servers(cls, redis):
        folder = server_folder()
        with Redis(folder) as other:
            cls.urls = [redis.url, other.url]
            yield
        shutil.rmtree(folder)


class TestBehindSentinel(TestRedisQueue):
    """A put is answered when a replica has it. One of the two sentinels in the URL is not there."""

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def servers(cls, component):
        component("redis-sentinel")
        folders = [server_folder() for _ in range(3)]
        options = ("--repl-diskless-sync-delay", "0", "--min-replicas-to-write", "1")
        with Redis(folders[0], *options) as master, Redis(folders[1], *options) as replica:
            replica.follow(master)
            with Sentinel(folders[2], master) as sentinel:
                cls.urls = [sentinel.url(f"127.0.0.1:{free_port()}")]
                yield
        for folder in folders:
            shutil.rmtree(folder)
