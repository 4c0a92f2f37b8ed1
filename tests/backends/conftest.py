"""Redis servers and databases of a test's own. No Deferred may fail unheard in here."""

from __future__ import annotations

import signal

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from redis_house import server
from spooled_samples import clock, soon, start
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from unheard import no_unheard_failures as no_unheard_failures

from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.sqlite_engine import Engine


@pytest.fixture
def own(component):
    """A Redis that may be broken."""
    component("redis-server")
    with server() as redis:
        yield redis
        if redis.process is not None:
            redis.signal(signal.SIGCONT)


@pytest.fixture
def cache(component):
    """A Redis that may be broken, set up as a cache: it keeps nothing over a restart."""
    component("redis-server")
    with server("--appendonly", "no") as redis:
        yield redis


@pytest_twisted.async_yield_fixture
async def engines(tmp_path):
    """Makes engines on one file, one after the other, and closes what is open at the end."""
    made = []

    def make(path=tmp_path / "farm" / "mail.sqlite", deliver=reactor.callFromThread, **settings):
        made.append(Engine(path, clock=clock, deliver=deliver, **settings))
        return made[-1]

    yield make
    for engine in made:
        await engine.close()


@pytest.fixture
def engine(engines):
    return engines()


@pytest.fixture
def made():
    """Makes databases that are closed at the end."""
    databases = []

    def make(url, **options):
        options.setdefault("registry", CollectorRegistry())
        database = PostgresDatabase(url, reactor, **options)
        database.registry = options["registry"]
        databases.append(database)
        return database

    yield make
    pytest_twisted.blockon(soon(gatherResults([start(database.stop()) for database in databases])))
