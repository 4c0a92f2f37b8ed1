"""A farm with an API, in memory; and a look at the log, in which no test leaves a failure unasked."""

import gc

import pytest
import pytest_twisted
from farm_api import Browser, Farm
from inbound_cluster import Cluster
from twisted.logger import globalLogPublisher


@pytest.fixture(autouse=True)
def logged():
    """What was logged as critical, which is what a traceback is. A test that expects it takes it out."""
    seen = []

    def watch(event):
        if event["log_level"].name == "critical":
            seen.append(event)

    globalLogPublisher.addObserver(watch)
    yield seen
    # an error nobody took is logged when its Deferred is collected
    gc.collect(0)
    globalLogPublisher.removeObserver(watch)
    assert not [(event.get("log_format"), str(event.get("log_failure"))) for event in seen]


@pytest.fixture
def farm_database():
    """A Postgres database's URL, or empty for SQLite; a test file that asks for both gives it another value."""
    return ""


@pytest_twisted.async_yield_fixture
async def farm(farm_database):
    made = await Farm(farm_database).start()
    yield made
    assert not made.failures
    await made.close()


@pytest.fixture
def ask(farm):
    """Requests to an open API of the farm."""
    return Browser(farm.api())


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
