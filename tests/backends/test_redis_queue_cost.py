"""What the queue on Redis costs: calls, connections, and the same with ten thousand entries."""

from __future__ import annotations

import pytest_twisted
from redis_house import Working, calls
from spooled_samples import LONG, spooled, start, until
from twisted.internet.defer import CancelledError, gatherResults

from mailfarm.backends import queue_taking


@pytest_twisted.ensureDeferred
async def test_asking_for_room_costs_no_round_trip(own):
    async with Working(own.url) as queue:
        await queue.admit(0)
        before = calls(own)
        for _ in range(2000):
            await queue.admit(4096)
        after = calls(own)
        assert after.get("evalsha", 0) - before.get("evalsha", 0) < 20


@pytest_twisted.ensureDeferred
async def test_who_only_puts_listens_for_nothing_and_has_three_connections(own):
    def clients():
        return [line for line in own.ask("client", "list").splitlines() if "cmd=client" not in line]

    async with Working(own.url) as queue:
        await queue.admit(0)
        for _ in range(3):
            await queue.put(spooled())
        await queue.depth()
        assert own.ask("pubsub", "channels") == ""
        assert len(clients()) == 3
        taken = []
        while len(taken) < 3:
            taken += await queue.take(10, LONG)
        await until(lambda: own.ask("pubsub", "channels") != "")
        assert len(clients()) == 4


@pytest_twisted.ensureDeferred
async def test_a_worker_asks_once_for_each_entry_that_comes_by_itself(own, monkeypatch):
    """Taking it is one call with the end of the one before. Nobody asks whether there is more when nobody was told."""
    monkeypatch.setattr(queue_taking, "LOOK", 600.0)
    working = Working(own.url)

    def asked(call):
        return working.metric("mailfarm_queue_call_seconds_count", call=call)

    async with working as queue, Working(own.url) as listener:
        filed = []

        async def worker():
            while True:
                for attempt in await queue.take(10, LONG, 600.0):
                    filed.append(attempt.spooled.id)
                    start(queue.done([attempt.fence], 600.0))

        workers = [start(worker()) for _ in range(2)]
        await until(lambda: own.ask("pubsub", "numsub", "mailfarm:{inbound}:entries:hint").split()[-1] == "1")
        await listener.put(spooled())
        await until(lambda: filed)
        before = asked("take")
        for number in range(20):
            await listener.put(spooled())
            await until(lambda number=number: len(filed) > number + 1)
        assert asked("take") - before == 20
        assert asked("done") == 0
        assert working.metric("mailfarm_queue_done_total") == 20
        for each in workers:
            each.addErrback(lambda failure: failure.trap(CancelledError))
            each.cancel()


@pytest_twisted.ensureDeferred
async def test_what_is_put_in_one_pass_is_one_call(own):
    working = Working(own.url)
    async with working as queue:
        await queue.put(spooled())
        before = working.metric("mailfarm_queue_put_entries_count")
        await gatherResults([start(queue.put(spooled())) for _ in range(150)])
        assert working.metric("mailfarm_queue_put_entries_count") - before == 1
        assert working.metric("mailfarm_queue_puts_total", outcome="stored") == 151


@pytest_twisted.ensureDeferred
async def test_depth_costs_the_same_with_ten_thousand_entries(own):
    async with Working(own.url) as queue:

        async def cost():
            own.ask("config", "resetstat")
            for _ in range(10):
                await queue.depth()
            ran = calls(own)
            ran.pop("config|resetstat", None)
            return sum(ran.values())

        await gatherResults([start(queue.put(spooled())) for _ in range(10)])
        few = await cost()
        await gatherResults([start(queue.put(spooled())) for _ in range(10_000)])
        attempts = await queue.take(500, LONG)
        await queue.fail(attempts[3].fence, "later", LONG)
        assert (await queue.depth()).waiting == 10_010 - len(attempts) + 1
        assert await cost() < few + 60, "the figures are read once a second too"
        assert len(await queue.inspect("waiting", 20)) == 20
