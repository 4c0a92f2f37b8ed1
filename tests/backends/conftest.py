"""No Deferred may fail unheard in here: what nobody handles is only logged when it is collected."""

from __future__ import annotations

import gc

import pytest
import pytest_twisted
from postgres_house import start
from prometheus_client import CollectorRegistry
from spooled_samples import soon
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.logger import globalLogPublisher

from mailfarm.backends.postgres_database import PostgresDatabase


@pytest.fixture(autouse=True)
def no_unheard_failures():
    heard = []

    def hear(entry):
        if entry.get("log_namespace") == "twisted.internet.defer":
            heard.append(entry.get("log_failure"))

    globalLogPublisher.addObserver(hear)
    yield
    gc.collect(1)
    globalLogPublisher.removeObserver(hear)
    assert not heard


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
