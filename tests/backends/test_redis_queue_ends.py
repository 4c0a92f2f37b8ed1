"""Ends on Redis that go with the next take: told again, overtaken, too late, never kept back."""

from __future__ import annotations

import signal
import time

import pytest
import pytest_twisted
from redis_house import Working, take_all
from spooled_samples import DEADLINE, LONG, soon, spooled, start, until
from twisted.internet.defer import gatherResults

from mailfarm.errors import LeaseLost, QueueUnavailable
from mailfarm.ports import Depth


@pytest_twisted.ensureDeferred
async def test_an_end_whose_answer_is_lost_may_be_told_again(own):
    async with Working(own.url, timeout=0.5) as queue:
        first, second = spooled(), spooled()
        await queue.put(first)
        (attempt,) = await queue.take(1, LONG)
        await queue.put(second)
        own.signal(signal.SIGSTOP)
        ending = start(queue.done([attempt.fence], 600.0))
        with pytest.raises(QueueUnavailable):
            await queue.take(1, 0.1)
        with pytest.raises(QueueUnavailable):
            await ending
        own.signal(signal.SIGCONT)
        await until(lambda: queue.unavailable is None)
        await queue.done([attempt.fence])
        (again,) = await soon(start(queue.take(10, LONG, DEADLINE)))
        assert again.spooled.id == second.id, "leased to nobody, or not at all; the first one has ended once"
        await queue.done([attempt.fence, again.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_what_the_server_had_not_ended_when_it_was_killed_comes_again(own):
    async with Working(own.url, timeout=0.5) as queue:
        mail = spooled()
        await queue.put(mail)
        (old,) = await queue.take(1, 0.1)
        ending = start(queue.done([old.fence], 600.0))
        own.kill()
        with pytest.raises(QueueUnavailable):
            await queue.take(1, LONG)
        with pytest.raises(QueueUnavailable):
            await ending
        own.start()
        await until(lambda: queue.unavailable is None)
        (again,) = await soon(start(queue.take(1, LONG, DEADLINE)))
        assert again.spooled.id == mail.id
        with pytest.raises(LeaseLost):
            await queue.extend(old.fence, LONG)
        ending = start(queue.done([old.fence], 600.0))
        assert list(await queue.take(1, LONG)) == []
        await ending
        assert (await queue.depth()).leased == 1, "another has it now"


@pytest_twisted.ensureDeferred
async def test_an_end_that_another_worker_overtook_ends_nothing(own):
    async with Working(own.url) as queue, Working(own.url) as other:
        await queue.put(spooled())
        (old,) = await queue.take(1, 0.05)
        (new,) = await soon(start(other.take(1, LONG, DEADLINE)))
        ending = start(queue.done([old.fence], 600.0))
        assert list(await queue.take(1, LONG)) == []
        await ending
        assert (await queue.depth()).leased == 1
        await other.done([new.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_queue_that_stops_keeps_no_end_back(own):
    async with Working(own.url) as queue:
        await queue.put(spooled())
        (attempt,) = await queue.take(1, LONG)
        ending = start(queue.done([attempt.fence], 600.0))
        await queue.stop()
        assert ending.called
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_a_thousand_ends_and_one_are_two_calls(own, monkeypatch):
    working = Working(own.url)
    async with working as queue:
        await gatherResults([start(queue.put(spooled())) for _ in range(1001)])
        taken = await take_all(queue, 1001)
        endings = [start(queue.done([attempt.fence], 600.0)) for attempt in taken]
        await queue.take(1, LONG)
        assert sum(ending.called for ending in endings) == 1000
        await queue.take(1, LONG)
        await gatherResults(endings)
        assert working.metric("mailfarm_queue_done_total") == 1001
        assert await queue.depth() == Depth(0, 0, 0, None)


@pytest_twisted.ensureDeferred
async def test_an_end_is_good_when_the_lease_is_over_and_the_next_take_is_told_it_first(own):
    async with Working(own.url) as queue:
        await queue.put(spooled())
        (attempt,) = await queue.take(1, 0.05)
        over = time.monotonic() + 0.1
        await until(lambda: time.monotonic() > over)
        ending = start(queue.done([attempt.fence], 600.0))
        assert list(await queue.take(10, LONG)) == [], "it has ended, and is not handed out again"
        await ending
        assert await queue.depth() == Depth(0, 0, 0, None)
