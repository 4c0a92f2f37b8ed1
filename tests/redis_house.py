"""Queues on Redis for the tests of trouble: a server of one's own, and a queue on it as one process has it."""

from __future__ import annotations

import shutil
from contextlib import AsyncExitStack, contextmanager

from prometheus_client import CollectorRegistry
from servers import Redis, server_folder
from spooled_samples import DEADLINE, IDS, LONG, clock
from twisted.internet import endpoints, protocol, reactor

from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue


@contextmanager
def server(*options):
    """A Redis that may be broken; its folder is gone afterwards."""
    folder = server_folder()
    try:
        with Redis(folder, *options) as redis:
            yield redis
    finally:
        shutil.rmtree(folder)


class Working:
    """A queue over the servers of ``urls``, for the length of an ``async with``."""

    def __init__(self, *urls, name="inbound", timeout=5.0, password="", ca="", ready=True, **options):
        self.registry = CollectorRegistry()
        self.links = [RedisLink(url, reactor, password=password, ca=ca, timeout=timeout, connections=3) for url in urls]
        self.shards = [RedisQueue(link, name, IDS, clock, reactor, self.registry, **options) for link in self.links]
        self.queue = ShardedQueue(self.shards) if len(self.shards) > 1 else self.shards[0]
        self._ready = ready
        self._ending = AsyncExitStack()

    async def __aenter__(self):
        for link in self.links:
            self._ending.push_async_callback(link.stop)
            await link.start()
        self._ending.push_async_callback(self.queue.stop)
        await self.queue.start()
        for link in self.links if self._ready else ():
            assert await link.ready(DEADLINE), link.why
        return self.queue

    async def __aexit__(self, *_):
        await self._ending.aclose()

    def metric(self, name, **labels):
        """The sum of a metric over what the labels leave open."""
        samples = [sample for metric in self.registry.collect() for sample in metric.samples if sample.name == name]
        return sum(s.value for s in samples if all(s.labels[key] == value for key, value in labels.items()))


async def take_all(queue, count=None):
    """Everything that is there, or until so many are."""
    taken = []
    while attempts := await queue.take(100, LONG, DEADLINE if count and len(taken) < count else 0.0):
        taken += attempts
    return taken


def calls(redis):
    """Every command the server ran so far, those of scripts too, by name."""
    stats = [line for line in redis.ask("info", "commandstats").splitlines() if line.startswith("cmdstat_")]
    return {
        line.partition(":")[0].removeprefix("cmdstat_"): int(line.partition("calls=")[2].partition(",")[0])
        for line in stats
    }


class Late:
    """A line to ``redis`` on which every answer arrives ``seconds`` late, for the length of an ``async with``."""

    def __init__(self, redis):
        self.seconds = 0.0
        self._redis = redis

    @property
    def url(self):
        return f"redis://127.0.0.1:{self._port.getHost().port}"

    async def __aenter__(self):
        late = self

        class Answers(protocol.Protocol):
            def dataReceived(self, data):
                reactor.callLater(late.seconds, self.asker.transport.write, data)

            def connectionLost(self, reason):
                self.asker.transport.loseConnection()

        class Asks(protocol.Protocol):
            answers = None

            def connectionMade(self):
                self.before = []
                where = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", late._redis.port)
                endpoints.connectProtocol(where, Answers()).addCallbacks(self.join, lambda _: None)

            def join(self, answers):
                answers.asker, self.answers = self, answers
                answers.transport.write(b"".join(self.before))
                if not self.transport.connected:
                    answers.transport.loseConnection()

            def dataReceived(self, data):
                if self.answers is None:
                    self.before.append(data)
                else:
                    self.answers.transport.write(data)

            def connectionLost(self, reason):
                if self.answers is not None:
                    self.answers.transport.loseConnection()

        factory = protocol.Factory.forProtocol(Asks)
        factory.noisy = False
        self._port = await endpoints.TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
        return self

    async def __aexit__(self, *_):
        await self._port.stopListening()
