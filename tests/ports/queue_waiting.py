"""How every queue wakes who waits for an entry."""

from __future__ import annotations

import pytest_twisted
from spooled_samples import LONG, SHORT, soon, spooled, start, until
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, gatherResults
from twisted.internet.task import deferLater


class WaitingContract:
    @pytest_twisted.ensureDeferred
    async def test_an_empty_queue_answers_at_once(self, queue):
        assert list(await soon(start(queue.take(10, LONG)))) == []

    @pytest_twisted.ensureDeferred
    async def test_a_wait_ends_without_anything(self, queue):
        assert list(await soon(start(queue.take(10, LONG, 0.02)))) == []

    @pytest_twisted.ensureDeferred
    async def test_a_put_wakes_a_waiting_taker(self, queue):
        taking = start(queue.take(10, LONG, 600.0))
        await queue.take(1, LONG)
        assert not taking.called
        mail = spooled()
        await queue.put(mail)
        (attempt,) = await soon(taking)
        assert attempt.spooled.id == mail.id

    @pytest_twisted.ensureDeferred
    async def test_every_waiting_taker_gets_its_share(self, queue):
        got = []

        async def taker():
            while len(got) < 10:
                got.extend([a.spooled.id for a in await queue.take(2, LONG, 600.0)])

        takers = [taker() for _ in range(5)]
        takers = [start(t).addErrback(lambda f: f.trap(CancelledError)) for t in takers]
        await queue.take(1, LONG)
        await gatherResults([start(queue.put(spooled())) for _ in range(10)])
        await until(lambda: len(got) >= 10)
        for each in takers:
            each.cancel()
        assert len(got) == len(set(got)) == 10

    @pytest_twisted.ensureDeferred
    async def test_one_entry_goes_to_one_of_several_waiting(self, queue):
        takings = [start(queue.take(5, LONG, 600.0)) for _ in range(3)]
        await queue.put(spooled())
        await until(lambda: any(t.called for t in takings))
        assert list(await queue.take(5, LONG)) == []
        assert sum(t.called for t in takings) == 1
        for taking in takings:
            taking.addErrback(lambda f: f.trap(CancelledError))
            taking.cancel()

    @pytest_twisted.ensureDeferred
    async def test_the_end_of_a_lease_wakes_a_waiting_taker(self, queue):
        mail = spooled()
        await queue.put(mail)
        await self.take_one(queue, SHORT)
        assert (await soon(start(queue.take(1, LONG, 600.0))))[0].spooled.id == mail.id

    @pytest_twisted.ensureDeferred
    async def test_a_lease_that_began_after_the_wait_wakes_it_too(self, queue):
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        first, second = spooled(), spooled()
        await queue.put(first)
        (attempt,) = await soon(waiting)
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        await queue.extend(attempt.fence, SHORT)
        assert (await soon(waiting))[0].spooled.id == first.id
        await queue.put(second)

    @pytest_twisted.ensureDeferred
    async def test_a_pause_that_is_over_wakes_a_waiting_taker(self, queue):
        await queue.put(spooled())
        attempt = await self.take_one(queue)
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        await queue.fail(attempt.fence, "later", SHORT)
        assert (await soon(waiting))[0].tries == 2

    @pytest_twisted.ensureDeferred
    async def test_a_cancelled_wait_takes_nothing(self, queue):
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        waiting.addErrback(lambda f: f.trap(CancelledError))
        waiting.cancel()
        await queue.put(spooled())
        assert (await self.take_one(queue)).tries == 1

    @pytest_twisted.ensureDeferred
    async def test_a_take_cancelled_under_way_loses_nothing(self, queue):
        mail = spooled()
        await queue.put(mail)
        taking = start(queue.take(1, LONG))
        taking.addErrback(lambda f: f.trap(CancelledError))
        taking.cancel()
        attempt = await self.take_one(queue)
        assert (attempt.spooled.id, attempt.tries) == (mail.id, 1)

    @pytest_twisted.ensureDeferred
    async def test_a_take_cancelled_at_any_moment_uses_up_no_try(self, queue):
        """Before it is asked for, while it is done, when the answer is on its way, or just given."""
        await queue.put(spooled())
        for step in range(40):
            taking = start(queue.take(1, LONG))
            taking.addErrback(lambda f: f.trap(CancelledError) and ())
            await deferLater(reactor, 0.0004 * (step % 8))
            taking.cancel()
            await queue.give_back([attempt.fence for attempt in await taking])
        assert (await self.take_one(queue)).tries == 1
