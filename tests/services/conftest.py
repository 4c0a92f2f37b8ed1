"""A farm with an API, in memory."""

import pytest
import pytest_twisted
from farm_api import Browser, Farm


@pytest_twisted.async_yield_fixture
async def farm():
    made = await Farm().start()
    yield made
    assert not made.failures
    await made.close()


@pytest.fixture
def ask(farm):
    """Requests to an open API of the farm."""
    return Browser(farm.api())
