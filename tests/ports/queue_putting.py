"""What every queue keeps of what is put: its content, its place in the order, once for an id."""

from __future__ import annotations

import os
import random
from hashlib import sha256

import pytest
import pytest_twisted
from spooled_samples import IDS, LONG, octets, spooled, start
from twisted.internet.defer import gatherResults

from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Depth, Origin


class PuttingContract:
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
