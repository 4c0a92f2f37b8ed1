"""The Database port on PostgreSQL keeps its contract."""

from __future__ import annotations

import pytest_twisted
from database_contract import DatabaseContract
from twisted.internet import reactor

from mailfarm.backends.postgres_database import PostgresDatabase


class Store:
    def __init__(self, url):
        self._url = url
        self.database = PostgresDatabase(url, reactor)

    async def restart(self):
        await self.database.stop()
        self.database = PostgresDatabase(self._url, reactor)

    async def close(self):
        await self.database.stop()


class TestPostgresDatabase(DatabaseContract):
    @pytest_twisted.async_yield_fixture
    async def store(self, postgres_database):
        store = Store(postgres_database)
        yield store
        await store.close()
