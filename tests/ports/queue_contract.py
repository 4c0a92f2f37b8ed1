"""What every implementation of the Queue port keeps.

A subclass gives ``open_store(folder)``: an object with ``await queue(name, max_entries=)``, which gives a queue, the
same one for the same name, with ``max_tries`` 5; ``await restart()``, which ends the process's hold on the store as a
clean stop does and starts again on the same data; and ``await close()``.
"""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import pytest_twisted
from queue_leases import LeasesContract
from queue_operator import OperatorContract
from queue_putting import PuttingContract
from queue_waiting import WaitingContract
from spooled_samples import DEADLINE, LONG, MAX_TRIES, octets, soon, spooled, start

from mailfarm.errors import LeaseLost, QueueBehind, QueueFull
from mailfarm.ports import CHUNK


class QueueContract(PuttingContract, WaitingContract, LeasesContract, OperatorContract):
    async def open_store(self, folder):
        raise NotImplementedError

    @pytest_twisted.async_yield_fixture
    async def store(self, tmp_path):
        store = await self.open_store(tmp_path)
        yield store
        await store.close()

    @pytest_twisted.async_fixture
    async def queue(self, store):
        return await store.queue("inbound")

    async def take_one(self, queue, lease=LONG):
        (attempt,) = await soon(start(queue.take(1, lease, DEADLINE)))
        return attempt

    async def set_aside(self, queue, mail):
        await queue.put(mail)
        for _ in range(MAX_TRIES):
            attempt = await self.take_one(queue)
            assert attempt.spooled.id == mail.id
            await queue.fail(attempt.fence, "it did not work")

    # Room

    @pytest_twisted.ensureDeferred
    async def test_an_empty_queue_admits(self, queue):
        await queue.admit(0)
        await queue.admit(10_000_000)

    @pytest_twisted.ensureDeferred
    async def test_a_queue_at_its_cap_is_full_until_something_ends(self, store):
        async def admitted():
            with suppress(QueueBehind):  # there is room all the same
                await queue.admit(0)

        queue = await store.queue("small", max_entries=2)
        await queue.put(spooled())
        await admitted()
        await queue.put(spooled())
        with pytest.raises(QueueFull) as full:
            await queue.admit(0)
        assert not isinstance(full.value, QueueBehind)
        with pytest.raises(QueueFull):
            await queue.put(spooled())
        assert (await queue.depth()).waiting == 2
        attempt = await self.take_one(queue)
        await queue.done([attempt.fence])
        await admitted()
        await queue.put(spooled())

    @pytest_twisted.ensureDeferred
    async def test_queues_are_apart(self, store):
        one, other = await store.queue("one"), await store.queue("other")
        mail = spooled(b"one")
        await one.put(mail)
        await other.put(spooled(b"other", id=mail.id))
        attempt = await self.take_one(other)
        assert await octets(attempt.spooled) == b"other"
        with pytest.raises(LeaseLost):
            await one.extend(attempt.fence, LONG)
        await one.done([attempt.fence])
        assert (await other.depth()).leased == 1
        await other.done([attempt.fence])
        assert await octets((await self.take_one(one)).spooled) == b"one"

    # Starting again

    @pytest_twisted.ensureDeferred
    async def test_everything_is_there_after_a_restart(self, store):
        queue = await store.queue("inbound")
        aside, done, leased, large = spooled(b"aside"), spooled(), spooled(b"leased"), spooled(os.urandom(3 * CHUNK))
        await self.set_aside(queue, aside)
        await queue.put(done)
        await queue.done([(await self.take_one(queue)).fence])
        await queue.put(leased)
        old = await self.take_one(queue, 0.5)
        await queue.put(large)
        await store.restart()
        queue = await store.queue("inbound")
        depth = await queue.depth()
        assert (depth.waiting + depth.leased, depth.aside) == (2, 1)
        again = await self.take_one(queue)
        if again.spooled.id == large.id:  # a backend may have the old lease end in its own time
            await queue.done([again.fence])
            again = await self.take_one(queue)
        assert (again.spooled.id, again.tries) == (leased.id, 2)
        with pytest.raises(LeaseLost):
            await queue.extend(old.fence, LONG)
        await queue.done([old.fence])
        assert await octets(again.spooled) == b"leased"
        assert await octets(await queue.read(aside.id)) == b"aside"

    @pytest_twisted.ensureDeferred
    async def test_large_content_survives_a_restart(self, store):
        queue = await store.queue("inbound")
        mail = spooled(os.urandom(3 * CHUNK + 17))
        await queue.put(mail)
        await store.restart()
        queue = await store.queue("inbound")
        assert await octets((await self.take_one(queue)).spooled) == await octets(mail)

    @pytest_twisted.ensureDeferred
    async def test_the_cap_counts_what_was_there_before(self, store):
        queue = await store.queue("small", max_entries=2)
        await queue.put(spooled())
        await queue.put(spooled())
        await store.restart()
        queue = await store.queue("small", max_entries=2)
        assert (await queue.depth()).waiting == 2
        with pytest.raises(QueueFull):
            await queue.put(spooled())
