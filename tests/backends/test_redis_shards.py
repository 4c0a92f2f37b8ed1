"""Several shards: accepting survives the loss of one, and what was put there comes when it is back."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import pytest
import pytest_twisted
from redis_house import Late, Working, server, take_all
from spooled_samples import DEADLINE, LONG, octets, soon, spooled, start, until
from twisted.internet.defer import gatherResults

from mailfarm.errors import LeaseLost, NotFound, QueueFull, QueueUnavailable
from mailfarm.ports import CHUNK


@pytest.fixture
def two(component):
    component("redis-server")
    with server() as one, server() as other:
        yield one, other
        for redis in (one, other):
            if redis.process is not None:
                redis.signal(signal.SIGCONT)


def entries(redis):
    return int(redis.ask("hlen", "mailfarm:{inbound}:ids"))


@pytest_twisted.ensureDeferred
async def test_puts_go_round(two):
    one, other = two
    async with Working(one.url, other.url) as queue:
        for _ in range(40):
            await queue.put(spooled())
        assert (entries(one), entries(other)) == (20, 20)
        taken = await take_all(queue)
        assert len(taken) == 40
        await queue.done([attempt.fence for attempt in taken])
        assert (entries(one), entries(other)) == (0, 0)


@pytest_twisted.ensureDeferred
async def test_ends_that_wait_go_with_a_take_to_each_shard(two):
    one, other = two
    working = Working(one.url, other.url)
    async with working as queue:
        for _ in range(4):
            await queue.put(spooled())
        taken = await queue.take(10, LONG)
        ending = start(queue.done([attempt.fence for attempt in taken], 600.0))
        assert list(await queue.take(10, LONG)) == []
        await soon(ending)
        assert (entries(one), entries(other)) == (0, 0)
        assert working.metric("mailfarm_queue_call_seconds_count", call="done") == 0


@pytest_twisted.ensureDeferred
async def test_what_is_put_at_once_goes_together(two):
    """One call and one fsync, not one for each shard; what comes meanwhile goes to the other."""
    one, other = two
    working = Working(one.url, other.url)
    async with working as queue:
        first = [start(queue.put(spooled())) for _ in range(40)]
        await until(lambda: working.metric("mailfarm_queue_put_entries_count") == 1)
        await gatherResults([*first, *(start(queue.put(spooled())) for _ in range(30))])
        assert sorted((entries(one), entries(other))) == [30, 40]
        assert working.metric("mailfarm_queue_put_entries_count") == 2


@pytest_twisted.ensureDeferred
async def test_a_slow_shard_keeps_nobody_waiting_but_those_it_was_given(two):
    one, other = two
    working = Working(one.url, other.url, timeout=20.0)
    async with working as queue:
        one.signal(signal.SIGSTOP)
        given = start(queue.put(spooled()))
        await until(lambda: working.metric("mailfarm_queue_put_entries_count") == 1)
        await soon(gatherResults([start(queue.put(spooled())) for _ in range(5)]))
        assert not given.called
        one.signal(signal.SIGCONT)
        await soon(given)
        assert (entries(one), entries(other)) == (1, 5)


@pytest_twisted.ensureDeferred
async def test_the_same_one_twice_at_once_is_one_entry(two):
    one, other = two
    async with Working(one.url, other.url) as queue:
        for size in (100, 2 * CHUNK):
            mail = spooled(os.urandom(size))
            await gatherResults([start(queue.put(mail)) for _ in range(5)])
        assert entries(one) + entries(other) == 2


@pytest_twisted.ensureDeferred
async def test_accepting_survives_the_loss_of_a_shard(two):
    """No put fails, also not those that were in flight when the shard was killed."""
    one, other = two
    stored = []
    stop = []
    working = Working(one.url, other.url)
    async with working as queue:

        async def putter(number):
            while not stop:
                mail = spooled(os.urandom(2 * CHUNK if number == 0 else 1000))
                await queue.put(mail)
                stored.append(mail.id)

        putters = [start(putter(number)) for number in range(10)]
        await until(lambda: len(stored) > 100)
        one.kill()
        after = len(stored)
        await until(lambda: len(stored) > after + 100)
        stop.append(True)
        await soon(gatherResults(putters))
        await queue.admit(0)
        assert (await queue.depth()).waiting == entries(other)
        taken = {attempt.spooled.id for attempt in await take_all(queue)}
        assert taken < set(stored)
        assert working.metric("mailfarm_queue_up") == 1 or await settled(working, 1)
        one.start()
        await until(lambda: queue.shards[0].unavailable is None)
        again = [attempt.spooled.id for attempt in await take_all(queue)]
        assert taken | set(again) == set(stored)
        assert len(again) - len(set(again) - taken) <= 10, "at most what was in flight is there twice"


async def settled(working, up):
    await until(lambda: working.metric("mailfarm_queue_up") == up)
    return True


@pytest_twisted.ensureDeferred
async def test_a_stalled_shard_costs_its_timeout_once(two):
    one, other = two
    async with Working(one.url, other.url, timeout=0.5) as queue:
        one.signal(signal.SIGSTOP)
        began = time.monotonic()
        mails = [spooled() for _ in range(8)]
        await gatherResults([start(queue.put(mail)) for mail in mails])
        assert time.monotonic() - began < 5
        await until(lambda: queue.shards[0].unavailable is not None)
        began = time.monotonic()
        await gatherResults([start(queue.put(spooled())) for _ in range(8)])
        assert time.monotonic() - began < 0.4, "it is left out by now"
        one.signal(signal.SIGCONT)
        await until(lambda: queue.shards[0].unavailable is None)
        # What the stalled one had read before it was left is stored there too: filing knows it by its id.
        seen = Counter([attempt.spooled.id for attempt in await take_all(queue)])
        assert {mail.id for mail in mails} <= set(seen)
        assert max(seen.values()) <= 2


@pytest_twisted.ensureDeferred
async def test_a_stalled_shard_does_not_hold_up_the_workers(two):
    one, other = two
    async with Working(one.url, other.url) as queue:
        for _ in range(6):
            await queue.put(spooled())
        one.signal(signal.SIGSTOP)
        began = time.monotonic()
        attempts = await queue.take(10, LONG)
        assert len(attempts) == 3
        assert time.monotonic() - began < 3
        one.signal(signal.SIGCONT)
        rest = []
        while len(rest) < 3:  # what it has handed out late is kept for the next one
            rest += await soon(start(queue.take(10, LONG, DEADLINE)))
        assert [attempt.tries for attempt in rest] == [1, 1, 1]


async def take_slowly(queue, late, count):
    """As workers do; what they got."""
    late.seconds = 0.6
    taken = []
    while len(taken) < count:
        attempts = await soon(start(queue.take(10, LONG, DEADLINE)))
        taken += attempts
        await queue.done([attempt.fence for attempt in attempts])
    return taken


@pytest_twisted.ensureDeferred
async def test_a_slow_shard_is_drained_while_another_has_nothing(two):
    one, other = two
    async with Late(other) as late, Working(one.url, late.url) as queue:
        mails = [spooled() for _ in range(5)]
        for mail in mails:
            await queue.shards[1].put(mail)
        began = time.monotonic()
        taken = await take_slowly(queue, late, 5)
        assert time.monotonic() - began < 5
        assert sorted(attempt.spooled.id for attempt in taken) == sorted(mail.id for mail in mails)
        assert {attempt.tries for attempt in taken} == {1}, "nothing was handed out twice"
        assert entries(other) == 0


@pytest_twisted.ensureDeferred
async def test_a_slow_shard_is_drained_while_another_is_busy_and_holds_nobody_up(two):
    one, other = two
    async with Late(other) as late, Working(one.url, late.url) as queue:
        mails = [spooled() for _ in range(20)]
        for number, mail in enumerate(mails):
            await queue.shards[number % 2].put(mail)
        taken = await take_slowly(queue, late, 20)
        assert Counter(attempt.tries for attempt in taken) == {1: 20}
        mail = spooled()
        taking = start(queue.take(10, LONG, DEADLINE))
        await queue.shards[0].put(mail)
        began = time.monotonic()
        (attempt,) = await soon(taking)
        assert attempt.spooled.id == mail.id
        assert time.monotonic() - began < 0.55, "the other one is not waited for"


@pytest_twisted.ensureDeferred
async def test_what_comes_late_to_nobody_is_given_back_its_try_too(two):
    one, other = two
    async with Late(other) as late:
        working = Working(one.url, late.url)
        async with working as queue:
            await queue.shards[1].put(spooled())
            late.seconds = 0.4
            assert list(await queue.take(10, 3.0)) == []
            await until(lambda: other.ask("zcard", "mailfarm:{inbound}:leased") == "1")
            await until(lambda: other.ask("zcard", "mailfarm:{inbound}:ready") == "1")  # half of its lease is over
            assert list(await queue.take(10, LONG)) == []
            await until(lambda: other.ask("zcard", "mailfarm:{inbound}:leased") == "1")
        assert other.ask("zcard", "mailfarm:{inbound}:ready") == "1", "the end of the process gives it back"
        async with Working(other.url) as queue:
            (attempt,) = await queue.take(10, LONG)
            assert attempt.tries == 1


@pytest_twisted.ensureDeferred
async def test_a_full_shard_leaves_it_to_the_others(component):
    component("redis-server")
    with server("--maxmemory", "3mb") as small, server() as large:
        async with Working(small.url, large.url) as queue:
            mails = [spooled(os.urandom(200_000)) for _ in range(20)]
            for mail in mails:
                await queue.admit(200_000)
                await queue.put(mail)
            assert entries(small) + entries(large) == 20
            assert entries(large) > 10
            for attempt in await take_all(queue):
                assert len(await octets(attempt.spooled)) == 200_000


@pytest_twisted.ensureDeferred
async def test_when_all_are_full_it_is_full_and_when_all_are_away_it_is_away(two):
    one, other = two
    async with Working(one.url, other.url, max_entries=1) as queue:
        await queue.put(spooled())
        await queue.put(spooled())
        for work in (queue.put(spooled()), queue.admit(0)):
            with pytest.raises(QueueFull):
                await work
        one.kill()
        await until(lambda: queue.shards[0].unavailable is not None)
        with pytest.raises(QueueFull):
            await queue.admit(0)
        other.kill()
        await until(lambda: queue.shards[1].unavailable is not None)
        for work in (queue.put(spooled()), queue.admit(0), queue.depth(), queue.take(1, LONG), queue.inspect("aside")):
            with pytest.raises(QueueUnavailable):
                await work


@pytest_twisted.ensureDeferred
async def test_an_operator_finds_an_entry_wherever_it_is(two):
    one, other = two
    async with Working(one.url, other.url, max_tries=1) as queue:
        mails = [spooled() for _ in range(4)]
        for mail in mails:
            await queue.put(mail)
        for attempt in await queue.take(4, LONG):
            await queue.fail(attempt.fence, "no")
        assert [entry.id for entry in await queue.inspect("aside")] == [mail.id for mail in mails]
        assert [entry.id for entry in await queue.inspect("aside", 3)] == [mail.id for mail in mails[:3]]
        for mail in mails:
            assert (await queue.read(mail.id)).id == mail.id
        await queue.drop(mails[0].id)
        await queue.drop(mails[1].id)
        await queue.requeue(mails[2].id)
        one.kill()
        await until(lambda: queue.shards[0].unavailable is not None)
        for work in (queue.read(mails[2].id), queue.drop(mails[2].id), queue.read(mails[0].id)):
            with pytest.raises(QueueUnavailable):  # it may be there
                await work
        assert (await queue.read(mails[3].id)).id == mails[3].id
        one.start()
        await until(lambda: queue.shards[0].unavailable is None)
        with pytest.raises(NotFound):
            await queue.read(mails[0].id)


@pytest.mark.parametrize("fence", ["", "~", "0~", "7~1.x", "-1~1.x", "1.x", "²~1.x"])
@pytest_twisted.ensureDeferred
async def test_a_fence_of_no_shard(two, fence):
    one, other = two
    async with Working(one.url, other.url) as queue:
        with pytest.raises(LeaseLost):
            await queue.extend(fence, LONG)
        await queue.done([fence])


@pytest_twisted.ensureDeferred
async def test_one_shard_is_a_queue_too(two):
    from mailfarm.backends.redis_shards import ShardedQueue

    one, _ = two
    working = Working(one.url)
    working.queue = ShardedQueue(working.shards)
    async with working as queue:
        mail = spooled()
        await queue.admit(0)
        await queue.put(mail)
        (attempt,) = await queue.take(1, LONG)
        assert attempt.spooled.id == mail.id
        await queue.done([attempt.fence])
    with pytest.raises(ValueError, match="no shards"):
        ShardedQueue([])
