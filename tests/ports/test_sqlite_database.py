"""The Database port on SQLite keeps its contract."""

from __future__ import annotations

from database_contract import DatabaseContract
from spooled_samples import clock
from twisted.internet import reactor

from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine


class Store:
    def __init__(self, folder):
        self._folder = folder
        self._start()

    def _start(self):
        self._engine = Engine(self._folder / "database.sqlite", clock=clock, deliver=reactor.callFromThread)
        self.database = Database(self._engine)

    async def restart(self):
        await self._engine.close()
        self._start()

    async def close(self):
        await self._engine.close()


class TestSqliteDatabase(DatabaseContract):
    async def open_store(self, folder):
        return Store(folder)
