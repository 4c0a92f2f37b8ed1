"""What every queue promises with a lease: until it ends an entry is one worker's, and a fence ends it once."""

from __future__ import annotations

import os

import pytest
import pytest_twisted
from spooled_samples import IDS, LONG, MAX_TRIES, SHORT, octets, soon, spooled, start
from twisted.internet.defer import gatherResults

from mailfarm.errors import LeaseLost, NotFound
from mailfarm.ports import CHUNK, Depth


class LeasesContract:
    @pytest_twisted.ensureDeferred
    async def test_concurrent_takers_never_share_an_entry(self, queue):
        ids = [IDS.new() for _ in range(200)]
        await gatherResults([start(queue.put(spooled(id=id))) for id in ids])
        batches = await gatherResults([start(queue.take(7, LONG)) for _ in range(40)])
        taken = [a.spooled.id for batch in batches for a in batch]
        assert len(taken) == len(set(taken))
        assert sorted(taken) == sorted(ids)
        fences = [a.fence for batch in batches for a in batch]
        assert len(fences) == len(set(fences))

    @pytest_twisted.ensureDeferred
    async def test_a_leased_entry_is_not_handed_out(self, queue):
        await queue.put(spooled())
        await self.take_one(queue)
        assert list(await queue.take(1, LONG)) == []

    @pytest_twisted.ensureDeferred
    async def test_an_entry_whose_lease_has_ended_comes_again(self, queue):
        mail = spooled(b"twice")
        await queue.put(mail)
        first = await self.take_one(queue, SHORT)
        second = await self.take_one(queue)
        assert second.spooled.id == mail.id
        assert await octets(second.spooled) == b"twice"
        assert (first.tries, second.tries) == (1, 2)
        assert first.fence != second.fence

    @pytest_twisted.ensureDeferred
    async def test_extending_keeps_an_entry(self, queue):
        await queue.put(spooled())
        attempt = await self.take_one(queue, 0.3)
        await queue.extend(attempt.fence, LONG)
        assert list(await queue.take(1, LONG, 0.5)) == []
        await queue.done([attempt.fence])

    @pytest_twisted.ensureDeferred
    async def test_an_old_fence_cannot_extend_or_fail(self, queue):
        await queue.put(spooled())
        old = await self.take_one(queue, SHORT)
        new = await self.take_one(queue)
        with pytest.raises(LeaseLost):
            await queue.extend(old.fence, LONG)
        with pytest.raises(LeaseLost):
            await queue.fail(old.fence, "mine is worse")
        await queue.extend(new.fence, LONG)

    @pytest_twisted.ensureDeferred
    async def test_an_old_fence_ends_nothing_and_says_nothing(self, queue):
        await queue.put(spooled())
        old = await self.take_one(queue, SHORT)
        new = await self.take_one(queue)
        await queue.done([old.fence])
        assert (await queue.depth()).leased == 1
        await queue.done([new.fence])
        assert await queue.depth() == Depth(0, 0, 0, None)

    @pytest.mark.parametrize("fence", ["", "nonsense", "1", "1.", ".x", "-1.x", "9" * 40 + ".x", "٣.x"])
    @pytest_twisted.ensureDeferred
    async def test_a_fence_that_never_was(self, queue, fence):
        await queue.put(spooled())
        await self.take_one(queue)
        with pytest.raises(LeaseLost):
            await queue.extend(fence, LONG)
        with pytest.raises(LeaseLost):
            await queue.fail(fence, "why")
        await queue.done([fence])
        assert (await queue.depth()).leased == 1

    @pytest_twisted.ensureDeferred
    async def test_an_end_may_wait_for_a_take_and_comes_without_one(self, queue):
        for size in (10, 2 * CHUNK, 10):
            await queue.put(spooled(os.urandom(size)))
        attempts = await queue.take(2, LONG)
        endings = [start(queue.done([attempt.fence], 600.0)) for attempt in attempts]
        (third,) = await queue.take(10, LONG)
        await soon(gatherResults(endings))
        assert (await queue.depth()).leased == 1
        await soon(start(queue.done([third.fence], 0.01)))
        assert await queue.depth() == Depth(0, 0, 0, None)

    @pytest_twisted.ensureDeferred
    async def test_an_old_fence_that_waited_ends_nothing(self, queue):
        await queue.put(spooled())
        old = await self.take_one(queue, SHORT)
        new = await self.take_one(queue)
        ending = start(queue.done([old.fence, "", "1", "x.1", old.fence], 600.0))
        assert list(await queue.take(10, LONG)) == []
        await soon(ending)
        await queue.extend(new.fence, LONG)
        ending = start(queue.done([new.fence, new.fence], 600.0))
        await queue.take(10, LONG)
        await soon(ending)
        assert await queue.depth() == Depth(0, 0, 0, None)

    @pytest_twisted.ensureDeferred
    async def test_done_is_done(self, queue):
        mail = spooled()
        await queue.put(mail)
        attempt = await self.take_one(queue, SHORT)
        await queue.done([attempt.fence])
        await queue.done([attempt.fence])
        assert list(await queue.take(1, LONG, 2 * SHORT)) == []
        with pytest.raises(LeaseLost):
            await queue.extend(attempt.fence, LONG)
        with pytest.raises(LeaseLost):
            await queue.fail(attempt.fence, "late")
        with pytest.raises(NotFound):
            await queue.read(mail.id)

    @pytest_twisted.ensureDeferred
    async def test_many_are_done_at_once_whatever_is_among_them(self, queue):
        await gatherResults([start(queue.put(spooled())) for _ in range(10)])
        attempts = await queue.take(10, LONG)
        fences = [a.fence for a in attempts]
        await queue.done([*fences[:6], fences[0], "nonsense"])
        await gatherResults([start(queue.done([f])) for f in fences[6:]])
        await queue.done([])
        assert await queue.depth() == Depth(0, 0, 0, None)

    @pytest_twisted.ensureDeferred
    async def test_large_content_is_forgotten_with_its_entry(self, queue):
        mail = spooled(os.urandom(4 * CHUNK))
        await queue.put(mail)
        attempt = await self.take_one(queue)
        await queue.done([attempt.fence])

        async def read_until_it_is_gone():
            while True:
                await octets(attempt.spooled)

        with pytest.raises(NotFound):
            await soon(read_until_it_is_gone())
        await queue.put(mail)
        assert await octets((await self.take_one(queue)).spooled) == await octets(mail)

    # Failing

    @pytest_twisted.ensureDeferred
    async def test_a_failed_entry_comes_again_with_its_reason(self, queue):
        mail = spooled()
        await queue.put(mail)
        attempt = await self.take_one(queue)
        await queue.fail(attempt.fence, "the moon was full")
        (entry,) = await queue.inspect("waiting")
        assert (entry.id, entry.tries, entry.reason) == (mail.id, 1, "the moon was full")
        assert (await self.take_one(queue)).tries == 2

    @pytest_twisted.ensureDeferred
    async def test_a_failed_entry_waits_for_its_time(self, queue):
        await queue.put(spooled())
        attempt = await self.take_one(queue)
        await queue.fail(attempt.fence, "later", LONG)
        assert list(await queue.take(1, LONG, 0.1)) == []
        assert (await queue.depth()).waiting == 1

    @pytest_twisted.ensureDeferred
    async def test_a_reason_may_be_anything(self, queue):
        await queue.put(spooled())
        attempt = await self.take_one(queue)
        await queue.fail(attempt.fence, "\ud800 \x00 \r\n" + "x" * 1_000_000)
        (entry,) = await queue.inspect("waiting")
        assert len(entry.reason) <= 10_000

    # Giving back

    @pytest_twisted.ensureDeferred
    async def test_what_is_given_back_waits_again_and_its_turn_does_not_count(self, queue):
        mails = [spooled(), spooled()]
        for mail in mails:
            await queue.put(mail)
        for _ in range(2 * MAX_TRIES):
            attempts = await queue.take(2, LONG)
            assert [(attempt.spooled.id, attempt.tries) for attempt in attempts] == [(mail.id, 1) for mail in mails]
            await queue.give_back([attempt.fence for attempt in attempts])
            assert (await queue.depth()).leased == 0
        for attempt in attempts:
            with pytest.raises(LeaseLost):
                await queue.extend(attempt.fence, LONG)

    @pytest_twisted.ensureDeferred
    async def test_what_is_given_back_may_wait_and_says_why(self, queue):
        mail = spooled()
        await queue.put(mail)
        await queue.give_back([(await self.take_one(queue)).fence], "a row is locked \ud800" + "x" * 100_000, LONG)
        assert list(await queue.take(1, LONG, 0.1)) == []
        (entry,) = await queue.inspect("waiting")
        assert (entry.id, entry.tries, entry.reason[:15]) == (mail.id, 0, "a row is locked")
        assert len(entry.reason) <= 10_000

    @pytest_twisted.ensureDeferred
    async def test_a_pause_after_giving_back_wakes_a_waiting_taker(self, queue):
        mail = spooled()
        await queue.put(mail)
        await queue.give_back([(await self.take_one(queue)).fence], "not now", 0.2)
        attempt = await self.take_one(queue)
        assert (attempt.spooled.id, attempt.tries) == (mail.id, 1)

    @pytest_twisted.ensureDeferred
    async def test_an_old_fence_gives_nothing_back(self, queue):
        await queue.put(spooled())
        old = await self.take_one(queue, SHORT)
        new = await self.take_one(queue)
        await queue.give_back([old.fence, "", "1", "1.x", "x.1", "9~1.x", old.fence])
        await queue.extend(new.fence, LONG)
        await queue.fail(new.fence, "no")
        await queue.give_back([new.fence])
        assert (await self.take_one(queue)).tries == 3

    @pytest_twisted.ensureDeferred
    async def test_what_fails_too_often_is_set_aside_and_kept(self, queue):
        bad, good = spooled(b"bad"), spooled()
        await self.set_aside(queue, bad)
        assert list(await queue.take(10, LONG)) == []
        (entry,) = await queue.inspect("aside")
        assert (entry.id, entry.state, entry.tries, entry.reason) == (bad.id, "aside", MAX_TRIES, "it did not work")
        assert await octets(await queue.read(bad.id)) == b"bad"
        await queue.put(good)
        assert (await self.take_one(queue)).spooled.id == good.id

    @pytest_twisted.ensureDeferred
    async def test_what_is_lost_too_often_is_set_aside(self, queue):
        mail = spooled(os.urandom(2 * CHUNK))
        await queue.put(mail)
        for tries in range(1, MAX_TRIES + 1):
            assert (await self.take_one(queue, 0.02)).tries == tries
        assert list(await queue.take(1, LONG, 0.1)) == []
        assert (await queue.depth()).aside == 1
        (entry,) = await queue.inspect("aside")
        assert entry.reason
        assert await octets(await queue.read(mail.id)) == await octets(mail)

    @pytest_twisted.ensureDeferred
    async def test_the_fence_of_one_set_aside_is_good_for_nothing(self, queue):
        mail = spooled()
        await queue.put(mail)
        for _ in range(MAX_TRIES):
            attempt = await self.take_one(queue)
            await queue.fail(attempt.fence, "no")
        await queue.done([attempt.fence])
        with pytest.raises(LeaseLost):
            await queue.extend(attempt.fence, LONG)
        assert (await queue.depth()).aside == 1
