"""Taking responsibility: 250 only when the queue has confirmed; the content is closed whatever happens."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mailfarm.errors import QueueBehind, QueueFull, QueueUnavailable
from mailfarm.ids import Ids, is_id
from mailfarm.inbound.accept import AT_ONCE, BEHIND, NO_ROOM, OVER_SHARE, PUTTING, REASONS, SAID_AGAIN, Accept
from mailfarm.inbound.pressure import PAUSE, Pressure, Sender
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mail.reply import Reply
from mailfarm.ports import Origin, Spooled

NOW = 1_769_860_800_000_000
ENVELOPE = Envelope("a@client.test", (Recipient("b@mx.test"), Recipient("c@mx.test")))
ORIGIN = Origin("mx", "192.0.2.7", 40000, "client.test", "ESMTPS", "TLSv1.3 TLS_AES_256_GCM_SHA384")


SENDER = Sender("acc", "credential")


def pressure() -> Pressure:
    return Pressure("mx", lambda: 100.0, CollectorRegistry())


class Kept:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.sha256 = hashlib.sha256(data).digest()
        self.closed = 0

    async def chunks(self) -> AsyncIterator[bytes]:
        assert not self.closed
        yield self.data

    def close(self) -> None:
        self.closed += 1


class Seen:
    """What was put, and what stands for a store that answers so: the port's four outcomes, not a store."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.put_: list[Spooled] = []
        self.content = b""

    async def admit(self, size: int) -> None:
        if self.error is not None:
            raise self.error

    async def put(self, spooled: Spooled) -> None:
        self.put_.append(spooled)
        if self.error is not None:
            raise self.error
        self.content = b"".join([chunk async for chunk in spooled.content.chunks()])


def take(queue: Any, content: Kept, told: list[tuple[str, Exception]], origin: Origin = ORIGIN) -> Reply:
    ids = Ids(lambda: NOW, lambda n: bytes(n))
    accept = Accept(queue, ids, lambda: NOW, "mx.test", lambda what, error: told.append((what, error)), pressure())
    return asyncio.run(accept.take(ENVELOPE, content, origin, "acc", ["box1", "box2"]))


def test_what_the_queue_confirmed_is_answered_250_with_its_id() -> None:
    queue, content, told = Seen(), Kept(b"Subject: x\r\n\r\n"), []
    reply = take(queue, content, told)
    (spooled,) = queue.put_
    assert is_id(spooled.id)
    assert reply == Reply(250, "2.0.0", f"spooled as {spooled.id}")
    assert queue.content == content.data
    assert content.closed == 1
    assert (spooled.account, spooled.mailboxes, spooled.accepted_at) == ("acc", ("box1", "box2"), NOW)
    assert spooled.sha256 == content.sha256
    assert spooled.trace == (
        b"Received: from client.test ([192.0.2.7])\r\n\tby mx.test with ESMTPS id " + spooled.id.encode() + b"\r\n"
        b"\t(TLSv1.3 TLS_AES_256_GCM_SHA384);\r\n\tSat, 31 Jan 2026 12:00:00 +0000\r\n"
    )
    assert not told


@pytest.mark.parametrize(
    ("error", "code"),
    [(QueueFull("disk"), "452 4.3.1"), (QueueUnavailable("?"), "451 4.3.0"), (OSError(5), "451 4.3.0")],
)
def test_what_it_did_not_confirm_is_temporary_and_says_what_to_do(error: Exception, code: str) -> None:
    queue, content, told = Seen(error), Kept(b"x"), []
    reply = take(queue, content, told)
    assert str(reply).startswith(code)
    assert "later" in reply.text
    assert content.closed == 1
    ((what, why),) = told
    assert why is error
    assert queue.put_[0].id in what


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, None), (QueueFull("disk"), "452 4.3.1"), (QueueUnavailable("?"), "451 4.3.0"), (OSError(5), "451 4.3.0")],
)
def test_room_is_asked_for_before_content_comes(error: Exception | None, code: str | None) -> None:
    accept = Accept(Seen(error), Ids(lambda: NOW, bytes), lambda: NOW, "mx.test", lambda *_: None, pressure())
    reply = asyncio.run(accept.room(1000, SENDER))
    assert (reply and str(reply)[:9]) == code


def test_content_that_waits_for_a_slow_queue_is_bounded_and_the_rest_is_refused() -> None:
    async def scene() -> None:
        goes_on = asyncio.Event()

        class Slow(Seen):
            async def put(self, spooled: Spooled) -> None:
                await goes_on.wait()

        accept = Accept(Slow(), Ids(lambda: NOW, bytes), lambda: NOW, "mx.test", lambda *_: None, pressure())
        contents = [Kept(b"") for _ in range(PUTTING // AT_ONCE + 1)]
        for content in contents:
            content.size = 10 * AT_ONCE
        assert await accept.room(0, SENDER) is None
        puts = [asyncio.ensure_future(accept.take(ENVELOPE, each, ORIGIN, "acc", [])) for each in contents]
        await asyncio.sleep(0)
        assert (await puts[-1]).code == 452
        assert contents[-1].closed
        assert await accept.room(1, SENDER) is None
        assert (await accept.room(AT_ONCE, SENDER)) == NO_ROOM
        goes_on.set()
        assert {reply.code for reply in await asyncio.gather(*puts[:-1])} == {250}
        assert await accept.room(AT_ONCE, SENDER) is None

    asyncio.run(scene())


def test_content_that_has_nowhere_to_be_is_refused_before_it_comes() -> None:
    def full(size: int) -> None:
        raise QueueFull(f"no place for {size}")

    told: list[tuple[str, Exception]] = []
    accept = Accept(
        Seen(), Ids(lambda: NOW, bytes), lambda: NOW, "mx.test", lambda *what: told.append(what), pressure(), full
    )
    assert asyncio.run(accept.room(7, SENDER)) == NO_ROOM
    assert "no place for 7" in str(told[0][1])


def test_a_flood_of_refusals_is_a_line_of_each_kind_and_their_number_later() -> None:
    queue, now, told = Seen(QueueFull("the disk")), [NOW], []
    accept = Accept(
        queue,
        Ids(lambda: NOW, bytes),
        lambda: now[0],
        "mx.test",
        lambda what, error: told.append((what, error)),
        pressure(),
    )

    def refused(times: int) -> None:
        for _ in range(times):
            assert asyncio.run(accept.room(1, SENDER))

    refused(1000)
    queue.error = QueueFull("no memory: 8 of 10 octets")
    refused(1)
    queue.error = QueueFull("no memory: 9 of 10 octets")
    refused(1000)
    queue.error = QueueUnavailable("away")
    refused(1000)
    queue.error = QueueFull("the disk")
    now[0] += SAID_AGAIN
    refused(2)
    what = "mail is refused before its content"
    assert [(text, str(error)) for text, error in told] == [
        (what, "the disk"),
        (what, "no memory: 8 of 10 octets"),
        (what, "away"),
        (f"{what} (999 more like it since it was said last)", "the disk"),
    ]
    for number in range(3 * REASONS):
        queue.error = QueueFull("x" * number)
        refused(1)
    assert len(accept._said) <= REASONS


def test_a_host_name_that_cannot_stand_in_a_header_is_found_at_once() -> None:
    with pytest.raises(ValueError):
        Accept(Seen(), Ids(lambda: NOW, bytes), lambda: NOW, "mx test\r\n", lambda *_: None, pressure())


def test_a_helo_that_is_none_never_gets_into_the_trace() -> None:
    queue = Seen()
    odd = Origin("mx", "2001:db8::7", 1, "evil\r\nBcc: x", "SMTP")
    assert take(queue, Kept(b""), [], odd).code == 250
    assert queue.put_[0].trace.startswith(b"Received: from unknown ([IPv6:2001:db8::7])\r\n\tby mx.test with SMTP id ")
    assert b"Bcc" not in queue.put_[0].trace


def test_a_queue_that_is_behind_lets_in_those_who_have_their_turn_and_the_rest_hears_451_after_a_pause() -> None:
    paused: list[float] = []

    async def pause(seconds: float) -> None:
        paused.append(seconds)

    def accept(by: float) -> Accept:
        queue: Any = Seen(QueueBehind("mail waits 61 s for its turn", by))
        mine = pressure()
        mine.share = 1.0
        mine._ends = 101.0
        return Accept(queue, Ids(lambda: NOW, bytes), lambda: NOW, "mx.test", lambda *_: None, mine, pause=pause)

    behind, far_behind = accept(1.1), accept(2.0)
    assert asyncio.run(behind.room(0, SENDER, count=False)) is None
    assert asyncio.run(behind.room(0, SENDER)) is None
    assert not paused
    assert asyncio.run(behind.room(0, SENDER)) == OVER_SHARE
    assert asyncio.run(behind.room(0, Sender("other", "o"))) is None
    assert asyncio.run(far_behind.room(0, SENDER)) == BEHIND
    assert paused == [PAUSE, PAUSE]
