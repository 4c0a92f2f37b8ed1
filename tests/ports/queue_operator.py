"""What every queue shows an operator, and what it does for one."""

from __future__ import annotations

import os

import pytest
import pytest_twisted
from spooled_samples import IDS, LONG, clock, octets, soon, spooled, start

from mailfarm.errors import NotFound
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Depth


class OperatorContract:
    @pytest_twisted.ensureDeferred
    async def test_requeue_gives_an_entry_its_tries_back(self, queue):
        mail = spooled(b"again")
        await self.set_aside(queue, mail)
        waiting = start(queue.take(1, LONG, 600.0))
        await queue.take(1, LONG)
        await queue.requeue(mail.id)
        (attempt,) = await soon(waiting)
        assert (attempt.tries, await octets(attempt.spooled)) == (1, b"again")
        assert (await queue.depth()).aside == 0

    @pytest_twisted.ensureDeferred
    async def test_drop_forgets(self, queue):
        mail = spooled(os.urandom(2 * CHUNK))
        await self.set_aside(queue, mail)
        await queue.drop(mail.id)
        assert await queue.depth() == Depth(0, 0, 0, None)
        with pytest.raises(NotFound):
            await queue.read(mail.id)

    @pytest_twisted.ensureDeferred
    async def test_only_what_was_set_aside_can_be_requeued_or_dropped(self, queue):
        waiting, leased = spooled(), spooled()
        await queue.put(leased)
        await self.take_one(queue)
        await queue.put(waiting)
        for id in (waiting.id, leased.id, IDS.new(), ""):
            with pytest.raises(NotFound):
                await queue.requeue(id)
            with pytest.raises(NotFound):
                await queue.drop(id)
        assert (await queue.depth()).waiting == 1

    @pytest_twisted.ensureDeferred
    async def test_inspect_shows_what_is_in_each_state(self, queue):
        began = clock()
        mails = [
            spooled(b"x" * n, envelope=Envelope(f"s{n}@x", (Recipient("a@x"), Recipient("b@x")))) for n in range(6)
        ]
        await self.set_aside(queue, mails[0])
        await queue.put(mails[1])
        await self.take_one(queue)
        for mail in mails[2:]:
            await queue.put(mail)
        assert [e.id for e in await queue.inspect("aside")] == [mails[0].id]
        assert [e.id for e in await queue.inspect("leased")] == [mails[1].id]
        waiting = await queue.inspect("waiting", 3)
        assert [e.id for e in waiting] == [m.id for m in mails[2:5]]
        entry = waiting[0]
        assert (entry.state, entry.tries, entry.size, entry.sender) == ("waiting", 0, 2, "s2@x")
        assert entry.recipients == ("a@x", "b@x")
        assert began <= entry.put_at <= clock()

    @pytest_twisted.ensureDeferred
    async def test_who_holds_an_entry_and_until_when_is_told(self, queue):
        aside, leased, paused, waiting = (spooled() for _ in range(4))
        await self.set_aside(queue, aside)
        await queue.put(leased)
        began = clock()
        await self.take_one(queue, 40.0)
        await queue.put(paused)
        await queue.fail((await self.take_one(queue)).fence, "not now", 30.0)
        await queue.put(waiting)
        ended = clock()
        for mail, state, span in ((aside, "aside", None), (leased, "leased", 40), (paused, "waiting", 30)):
            entry = await queue.find(mail.id)
            assert (entry.id, entry.state, entry.account) == (mail.id, state, mail.account)
            assert entry in await queue.inspect(state)
            if span is None:
                assert entry.until is None
            else:
                assert began + span * 1_000_000 <= entry.until <= ended + span * 1_000_000
            assert entry.holder == ("worker-7/42" if state == "leased" else "")
        entry = await queue.find(waiting.id)
        assert (entry.state, entry.until, entry.holder, entry.reason) == ("waiting", None, "", "")
        assert (await queue.find(paused.id)).reason == "not now"
        for id in (IDS.new(), ""):
            with pytest.raises(NotFound):
                await queue.find(id)

    @pytest_twisted.ensureDeferred
    async def test_an_account_is_shown_its_own_entries(self, queue):
        mails = [spooled(account=account) for account in ("one", "other", "one", "other", "one")]
        for mail in mails:
            await queue.put(mail)
        mine = [mail.id for mail in mails[::2]]
        assert [entry.id for entry in await queue.inspect("waiting", 10, "one")] == mine
        assert [entry.id for entry in await queue.inspect("waiting", 2, "one")] == mine[:2]
        assert [entry.id for entry in await queue.inspect("waiting", 1, "other")] == [mails[1].id]
        assert await queue.inspect("waiting", 10, "nobody") == []
        assert len(await queue.inspect("waiting", 10)) == 5

    @pytest_twisted.ensureDeferred
    async def test_the_depth_of_each_server_is_told(self, queue):
        for _ in range(3):
            await queue.put(spooled())
        await self.take_one(queue)
        depth, shards = await queue.depth(), await queue.depths()
        assert all(shard.name and not shard.why for shard in shards)
        assert sum(shard.depth.waiting for shard in shards) == depth.waiting == 2
        assert sum(shard.depth.leased for shard in shards) == depth.leased == 1
        assert min(shard.depth.oldest for shard in shards if shard.depth.oldest) == depth.oldest

    @pytest_twisted.ensureDeferred
    async def test_read_works_in_every_state(self, queue):
        aside, leased, waiting = (spooled(name) for name in (b"aside", b"leased", b"waiting"))
        await self.set_aside(queue, aside)
        await queue.put(leased)
        await self.take_one(queue)
        await queue.put(waiting)
        for mail in (aside, leased, waiting):
            got = await queue.read(mail.id)
            assert (got.envelope, got.trace) == (mail.envelope, mail.trace)
            assert await octets(got) == await octets(mail)
        with pytest.raises(NotFound):
            await queue.read(IDS.new())

    @pytest_twisted.ensureDeferred
    async def test_depth_counts_and_knows_the_oldest(self, queue):
        assert await queue.depth() == Depth(0, 0, 0, None)
        began = clock()
        await queue.put(spooled())
        first = clock()
        await queue.put(spooled())
        depth = await queue.depth()
        assert (depth.waiting, depth.leased, depth.aside) == (2, 0, 0)
        assert began <= depth.oldest <= first
        await self.take_one(queue)
        depth = await queue.depth()
        assert (depth.waiting, depth.leased) == (1, 1)
        assert first <= depth.oldest
        await self.take_one(queue)
        assert (await queue.depth()).oldest is None
