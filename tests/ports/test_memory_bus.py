"""The Bus port in memory keeps its contract, and forgets topics nobody listens to."""

from __future__ import annotations

import pytest_twisted
from bus_contract import BusContract, closed

from mailfarm.backends.memory import MemoryBus


class TestMemoryBus(BusContract):
    async def open_bus(self):
        return MemoryBus()

    @pytest_twisted.ensureDeferred
    async def test_a_topic_without_listeners_takes_no_memory(self, bus):
        for number in range(10):
            (await bus.subscribe(str(number), lambda event: None)).stop()
            bus.publish(str(number), closed())
        assert bus._topics == {}
