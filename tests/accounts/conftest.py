"""A house with a database of its own, on each engine."""

import sys
from pathlib import Path

import pytest_twisted

sys.path.insert(0, str(Path(__file__).parent.parent / "mailboxes"))

from mailbox_house import House


@pytest_twisted.async_yield_fixture
async def house(database_url):
    made = await House(database_url).open()
    yield made
    await made.close()
    assert not made.failures
