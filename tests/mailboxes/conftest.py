"""A house with a database of its own."""

import pytest_twisted
from mailbox_house import House


@pytest_twisted.async_yield_fixture
async def house():
    made = await House().open()
    yield made
    await made.close()
    assert not made.failures
