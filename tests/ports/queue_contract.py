"""What every implementation of the Queue port keeps.

A subclass gives ``open_store(folder)``: an object with ``await queue(name, max_entries=)``, which gives a queue, the
same one for the same name, with ``max_tries`` 5; ``await restart()``, which ends the process's hold on the store as a
clean stop does and starts again on the same data; and ``await close()``.
"""

from __future__ import annotations

import os
import random
from contextlib import suppress
from hashlib import sha256

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, IDS, clock, octets, soon, spooled, until
from twisted.internet.defer import CancelledError, Deferred, gatherResults

from mailfarm.errors import LeaseLost, NotFound, QueueBehind, QueueFull
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Depth, Origin

LONG = 60.0
SHORT = 0.05
MAX_TRIES = 5


def start(work):
    """Begin something now, whatever kind of awaitable it is."""

    async def wait():
        return await work

    return Deferred.fromCoroutine(wait())


class QueueContract:
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

    # What is put comes out

    @pytest_twisted.ensureDeferred
    async def test_what_was_put_is_taken_exactly(self, queue):
        envelope = Envelope(
            "jörg@example.com",
            (
                Recipient("a@mailfarm.test", ("SUCCESS", "DELAY"), "rfc822;a+2Bb@x"),
                Recipient("ünï@mailfarm.test"),
                Recipient('"odd \\" one"@mailfarm.test', ("NEVER",)),
            ),
            "BINARYMIME",
            smtputf8=True,
            size=12345,
            ret="HDRS",
            envid="QQ+20314159",
        )
        origin = Origin("submission", "2001:db8::1", 65535, "[IPv6:2001:db8::1]", "UTF8SMTPSA", "TLSv1.3 X", "cred")
        content = bytes(range(256)) * 3
        mail = spooled(content, envelope=envelope, origin=origin, trace=b"Received: \xff\x00\r\n\tby us\r\n")
        await queue.put(mail)
        attempt = await self.take_one(queue)
        got = attempt.spooled
        for name in ("id", "account", "accepted_at", "envelope", "origin", "mailboxes", "trace", "sha256"):
            assert getattr(got, name) == getattr(mail, name), name
        assert got.content.size == len(content)
        assert await octets(got) == content
        assert attempt.tries == 1

    @pytest_twisted.ensureDeferred
    async def test_the_null_sender_and_an_envelope_without_extras(self, queue):
        mail = spooled(envelope=Envelope("", (Recipient("a@mailfarm.test"),)))
        await queue.put(mail)
        assert (await self.take_one(queue)).spooled.envelope == mail.envelope

    @pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
    @pytest_twisted.ensureDeferred
    async def test_content_of_every_size_is_kept(self, queue, size):
        content = os.urandom(size)
        await queue.put(spooled(content, piece=100_000))
        got = (await self.take_one(queue)).spooled
        assert got.content.size == size
        assert await octets(got) == content

    @pytest_twisted.ensureDeferred
    async def test_large_content_comes_back_in_pieces_and_more_than_once(self, queue):
        content = random.Random(1).randbytes(20 * 1024 * 1024)
        await queue.put(spooled(content, piece=70_001))
        got = (await self.take_one(queue)).spooled
        for _ in range(2):
            digest = sha256()
            async for piece in got.content.chunks():
                assert 0 < len(piece) <= CHUNK
                digest.update(piece)
            assert digest.digest() == got.sha256
        got.content.close()
        got.content.close()

    @pytest_twisted.ensureDeferred
    async def test_several_large_ones_at_once_do_not_mix(self, queue):
        contents = {IDS.new(): os.urandom(CHUNK * 2 + n) for n in range(5)}
        await gatherResults([start(queue.put(spooled(c, id=id, piece=50_000))) for id, c in contents.items()])
        for attempt in await queue.take(10, LONG):
            assert await octets(attempt.spooled) == contents.pop(attempt.spooled.id)
        assert not contents

    @pytest.mark.parametrize("size", [10, 3 * CHUNK])
    @pytest_twisted.ensureDeferred
    async def test_content_that_cannot_be_read_is_not_put(self, queue, size):
        with pytest.raises(OSError, match="the file is gone"):
            await queue.put(spooled(b"x" * size, piece=size // 2, fail_after=1))
        assert await queue.depth() == Depth(0, 0, 0, None)
        assert list(await queue.take(1, LONG)) == []

    @pytest.mark.parametrize("size", [10, 2 * CHUNK])
    @pytest_twisted.ensureDeferred
    async def test_the_same_id_twice_is_one_entry(self, queue, size):
        mail = spooled(os.urandom(size))
        await queue.put(mail)
        await queue.put(mail)
        (attempt,) = await queue.take(10, LONG)
        await queue.put(mail)  # a client that does not know sends again, also while a worker has it
        assert (await queue.depth()).leased == 1
        assert (await queue.depth()).waiting == 0
        assert await octets(attempt.spooled) == await octets(mail)

    @pytest.mark.parametrize("size", [10, 2 * CHUNK])
    @pytest_twisted.ensureDeferred
    async def test_the_same_id_twice_at_the_same_time_is_one_entry(self, queue, size):
        mail = spooled(os.urandom(size))
        await gatherResults([start(queue.put(mail)) for _ in range(4)])
        (attempt,) = await queue.take(10, LONG)
        assert await octets(attempt.spooled) == await octets(mail)

    @pytest_twisted.ensureDeferred
    async def test_five_hundred_at_once_are_all_there(self, queue):
        mails = [spooled(str(n).encode()) for n in range(500)]
        await gatherResults([start(queue.put(mail)) for mail in mails])
        assert (await queue.depth()).waiting == 500
        got = []
        while attempts := await queue.take(100, LONG):
            got += [(a.spooled.id, await octets(a.spooled)) for a in attempts]
        assert sorted(got) == sorted([(mail.id, str(n).encode()) for n, mail in enumerate(mails)])

    # Order and limits

    @pytest_twisted.ensureDeferred
    async def test_the_oldest_comes_first(self, queue):
        mails = [spooled() for _ in range(10)]
        for mail in mails:
            await queue.put(mail)
        taken = [*await queue.take(4, LONG), *await queue.take(100, LONG)]
        assert [a.spooled.id for a in taken] == [mail.id for mail in mails]

    @pytest_twisted.ensureDeferred
    async def test_no_more_than_the_limit(self, queue):
        for _ in range(5):
            await queue.put(spooled())
        assert len(await queue.take(3, LONG)) == 3
        assert len(await queue.take(3, LONG)) == 2

    @pytest_twisted.ensureDeferred
    async def test_one_that_comes_again_comes_before_younger_ones(self, queue):
        first, second = spooled(), spooled()
        await queue.put(first)
        attempt = await self.take_one(queue)
        await queue.put(second)
        await queue.fail(attempt.fence, "again")
        assert (await self.take_one(queue)).spooled.id == first.id

    # Waiting

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
        assert attempt.spooled.id == mail.id

    # Leases and fences

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

    # The operator

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
