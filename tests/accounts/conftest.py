"""A house with a database of its own."""

import sys
from pathlib import Path

import pytest_twisted

sys.path.insert(0, str(Path(__file__).parent.parent / "mailboxes"))

from mailbox_house import House


@pytest_twisted.async_yield_fixture
async def house():
    made = await House().open()
    yield made
    await made.close()
    assert not made.failures
