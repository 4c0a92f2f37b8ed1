"""How far behind a queue on Redis says it is: by its caps, and by how long mail would wait for workers that work."""

from __future__ import annotations

import os

import pytest
import pytest_twisted
from redis_house import Working, server
from spooled_samples import DEADLINE, LONG, spooled, start
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.task import deferLater

from mailfarm.errors import QueueBehind, QueueFull


async def put(queue, count):
    await gatherResults([start(queue.put(spooled())) for _ in range(count)])


async def behind(queue):
    """How far, or 0."""
    try:
        await queue.admit(0)
    except QueueBehind as error:
        return error.by
    return 0.0


async def until_behind(queue, wanted):
    """Wait until it says so: its figures are a second old."""
    for _ in range(int(DEADLINE / 0.05)):
        by = await behind(queue)
        if wanted(by):
            return by
        await deferLater(reactor, 0.05)
    raise AssertionError(by)


@pytest_twisted.ensureDeferred
async def test_it_is_told_before_a_cap_is_reached_and_a_full_queue_is_not_behind_but_full(redis):
    async with Working(redis.url, name="caps", max_entries=12) as queue:
        await put(queue, 4)
        assert await behind(queue) == 0
        await put(queue, 1)
        assert await behind(queue) == pytest.approx(5 / 9)
        await put(queue, 4)
        assert await behind(queue) == pytest.approx(1.0)
        await put(queue, 3)
        with pytest.raises(QueueFull) as full:
            await queue.admit(0)
        assert not isinstance(full.value, QueueBehind)


@pytest_twisted.ensureDeferred
async def test_it_is_told_before_the_servers_memory_is_used_up_and_no_more_when_it_is_free(component):
    component("redis-server")
    with server("--maxmemory", "16mb") as own:
        async with Working(own.url) as queue:
            assert await behind(queue) == 0
            while not (by := await behind(queue)):
                await queue.put(spooled(os.urandom(100_000)))
            assert QueueBehind.HALF <= by < QueueBehind.HALF + 0.1
            while (by := await behind(queue)) < 1:
                await queue.put(spooled(os.urandom(100_000)))
            assert by < 1.1
            while attempts := await queue.take(100, LONG):
                await queue.done([attempt.fence for attempt in attempts])
            assert await until_behind(queue, lambda by: by == 0) == 0


@pytest_twisted.ensureDeferred
async def test_it_is_behind_while_workers_take_less_than_comes_in_and_no_more_when_they_have_it(redis):
    # ten a second of 400: forty seconds' work, where one is allowed
    async with Working(redis.url, name="slow", max_wait=1.0) as queue:
        await put(queue, 400)
        assert await behind(queue) == 0

        async def work_a_little():
            attempts = await queue.take(10, LONG)
            await queue.done([attempt.fence for attempt in attempts])

        for _ in range(3):
            await work_a_little()
            await deferLater(reactor, 1.0)
        assert await until_behind(queue, lambda by: by > 1) > 1
        while attempts := await queue.take(100, LONG):
            await queue.done([attempt.fence for attempt in attempts])
        assert await until_behind(queue, lambda by: by == 0) == 0


@pytest_twisted.ensureDeferred
async def test_workers_that_are_away_leave_it_open_up_to_its_caps(redis):
    async with Working(redis.url, name="away", max_wait=0.001) as queue:
        await put(queue, 200)
        for _ in range(4):
            await deferLater(reactor, 0.6)
            assert await behind(queue) == 0


@pytest_twisted.ensureDeferred
async def test_one_shard_that_is_not_behind_is_enough_and_the_least_far_behind_speaks_for_all(redis):
    with server() as another:
        async with Working(redis.url, another.url, name="shards", max_entries=4) as queue:
            first, second = queue.shards
            await put(first, 3)
            assert await behind(first) == pytest.approx(1.0)
            assert await behind(queue) == 0
            await put(second, 2)
            assert await behind(queue) == pytest.approx(2 / 3)
