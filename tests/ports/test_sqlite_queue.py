"""The Queue port on SQLite keeps its contract."""

from __future__ import annotations

from queue_contract import QueueContract
from spooled_samples import IDS, clock
from twisted.internet import reactor

from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue


class Store:
    def __init__(self, folder):
        self._folder = folder
        self._queues = {}
        self._start()

    def _start(self):
        self._engine = Engine(self._folder / "queue.sqlite", clock=clock, deliver=reactor.callFromThread)

    async def queue(self, name, max_entries=1000):
        if name not in self._queues:
            self._queues[name] = Queue(
                self._engine, name, IDS, clock, reactor=reactor, max_entries=max_entries, holder="worker-7/42"
            )
        return self._queues[name]

    async def restart(self):
        await self._engine.close()
        self._queues.clear()
        self._start()

    async def close(self):
        await self._engine.close()


class TestSqliteQueue(QueueContract):
    async def open_store(self, folder):
        return Store(folder)
