"""Limits at the listeners: by the real client's address, by credential, by mailbox and by account."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_house import ALL, FREE, House, house
from submission_client import GOOD, plain, send
from test_mx import proxy_header

from mailfarm.accounts.allowance import again
from mailfarm.accounts.limit_sets import read
from mailfarm.backends.memory import MemoryLimiter
from mailfarm.config import MxSettings, SubmissionSettings

BEHIND = MxSettings(listen=FREE, proxy_from=ALL)
CAPTURE = SubmissionSettings(capture=FREE, starttls=None, tls=None, proxy_from=ALL)


def stopped(house: House) -> list[float]:
    """Counts by a clock that stands still; what it says can be changed."""
    now = [1000.0]
    house.limiter = MemoryLimiter(lambda: now[0], wall=lambda: 1_700_000_000 + now[0])
    return now


async def come(port: int, source: str = "192.0.2.1") -> tuple[Client, str]:
    client = await connect(port)
    client.send(proxy_header(source))
    reply = await client.reply()
    if reply.startswith("220 "):
        await client.say("EHLO client.test")
    return client, reply


async def deliver(client: Client, *recipients: str) -> list[str]:
    """Send one message; all replies from MAIL on, whole."""
    replies = [await client.say("MAIL FROM:<a@client.test>")]
    if replies[-1].startswith("250"):
        replies += [await client.say(f"RCPT TO:<{recipient}>") for recipient in recipients]
        replies.append(await client.say("DATA"))
        if replies[-1].startswith("354"):
            replies.append(await client.say("Subject: x\r\n\r\ntext\r\n."))
    if not replies[-1].startswith("250"):
        await client.say("RSET")
    return replies


def codes(replies: list[str]) -> list[str]:
    return [reply[:9] if reply[:3] >= "400" else reply[:3] for reply in replies]


@pytest_twisted.ensureDeferred
async def test_a_client_has_so_many_sessions_at_once_and_two_listeners_count_together(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        limits = read("[client]\nsessions = 2")
        ports = []
        for _ in range(2):
            mx = await h.mx(settings=BEHIND, limits=limits, registry=CollectorRegistry())
            ports.append(mx.listening["mx"].port)
        first, _ = await come(ports[0], "2001:db8:5::1")
        second, _ = await come(ports[1], "2001:db8:5::2")
        third, reply = await come(ports[0], "2001:db8:5::3")
        assert reply == "421 4.7.0 Too many sessions from your network at once; try again later"
        await third.ended()
        other, reply = await come(ports[0], "2001:db8:5:1::1")
        assert reply.startswith("220 "), "another /64"
        await first.close()
        await wait_until(lambda: h.limiter._places["mx:sessions:2001:db8:5::/64"] == 1)
        third, reply = await come(ports[1], "2001:db8:5::3")
        assert reply.startswith("220 ")
        for client in (second, other, third):
            await client.close()
        await wait_until(lambda: not h.limiter._places)


@pytest.mark.parametrize("port", ["tls", "starttls"])
@pytest_twisted.ensureDeferred
async def test_a_place_is_given_back_when_the_client_goes_in_the_midst_of_its_handshake(
    tmp_path: Path, port: str
) -> None:
    async with house(tmp_path) as h:
        settings = SubmissionSettings(capture=None, starttls=FREE, tls=FREE, proxy_from=ALL)
        service = await h.submission(settings=settings, limits=read("[client]\nsessions = 1"))
        client = await connect(service.listening[port].port)
        client.send(proxy_header("192.0.2.1"))
        if port == "starttls":
            await client.reply()
            await client.say("EHLO client.test")
            await client.say("STARTTLS")
        client.send(b"\x16\x03\x01\x02")
        await wait_until(lambda: h.limiter._places)
        # meanwhile nobody else of that network gets in, by any port
        turned_away, reply = await come(service.listening["starttls"].port)
        assert reply.startswith("421 4.7.0 ")
        await turned_away.ended()
        client.transport.abortConnection()
        await wait_until(lambda: not h.limiter._places)


@pytest_twisted.ensureDeferred
async def test_messages_of_a_client_are_asked_for_at_mail_and_counted_at_data(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        now = stopped(h)
        mx = await h.mx(settings=BEHIND, limits=read("[client]\nmessages_per_minute = 2"))
        port = mx.listening["mx"].port
        client, _ = await come(port)
        for _ in range(3):  # what is refused costs nothing
            assert codes(await deliver(client, "nobody@mailfarm.test")) == ["250", "550 5.1.1", "554 5.5.1"]
        for _ in range(2):
            assert codes(await deliver(client, "inbox@mailfarm.test")) == GOOD
        refused = "451 4.7.1 Too many messages from your network; try again in 30 s"
        assert await deliver(client, "inbox@mailfarm.test") == [refused]
        neighbour, _ = await come(port, "192.0.2.2")
        assert codes(await deliver(neighbour, "inbox@mailfarm.test")) == GOOD
        here = await connect(port)
        here.send(proxy_header("127.0.0.1"))
        await here.reply()
        await here.say("EHLO client.test")
        for _ in range(4):
            assert codes(await deliver(here, "inbox@mailfarm.test")) == GOOD, "loopback is not limited"
        now[0] += 30
        assert codes(await deliver(client, "inbox@mailfarm.test")) == GOOD
        for each in (client, neighbour, here):
            await each.close()


@pytest_twisted.ensureDeferred
async def test_a_transaction_that_began_before_the_last_one_was_taken_is_refused_at_data(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        stopped(h)
        mx = await h.mx(settings=BEHIND, limits=read("[client]\nmessages_per_hour = 1"))
        one, _ = await come(mx.listening["mx"].port)
        two, _ = await come(mx.listening["mx"].port)
        for client in (one, two):
            assert (await client.say("MAIL FROM:<>")).startswith("250")
            assert (await client.say("RCPT TO:<inbox@mailfarm.test>")).startswith("250")
        assert (await one.say("DATA")).startswith("354")
        assert await two.say("DATA") == "451 4.7.1 Too many messages from your network; try again in 60 min"
        told = h.refused[-1]
        assert (told.mailbox, told.code, told.enhanced) == (h.inbox.id, 451, "4.7.1")
        await one.close()
        await two.close()


@pytest_twisted.ensureDeferred
async def test_a_full_mailbox_refuses_its_own_mail_only_and_its_owner_sees_it(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        now = stopped(h)
        await h.another_account("strict")
        theirs = await h.mailbox("theirs@mailfarm.test", account=await h.another_account("strict"))
        box = await h.mailbox("box@mailfarm.test")
        limits = read(
            "[set.default.mailbox]\nmessages_per_minute = 3\n[set.strict]\naccounts = ['strict']\n"
            "mailbox.messages_per_day = 1"
        )
        mx = await h.mx(limits=limits)
        client = await connect(mx.listening["mx"].port)
        await client.reply()
        await client.say("EHLO client.test")
        for _ in range(3):  # two recipients, one message for the mailbox
            assert codes(await deliver(client, "box@mailfarm.test", "box+tag@mailfarm.test")) == ["250", *GOOD]
        replies = await deliver(client, "inbox@mailfarm.test", "box@mailfarm.test")
        assert codes(replies) == ["250", "250", "450 4.7.1", "354", "250"]
        assert replies[2] == "450 4.7.1 <box@mailfarm.test>: Too many messages for this mailbox; try again in 20 s"
        told = h.refused[-1]
        assert (told.mailbox, told.account, told.address) == (box.id, h.account.id, "box@mailfarm.test")
        assert codes(await deliver(client, "theirs@mailfarm.test")) == GOOD
        day = 86_400 - (1_700_000_000 + now[0]) % 86_400
        (_, reply, _) = await deliver(client, "theirs@mailfarm.test")
        assert reply.endswith(f"Too many messages for this mailbox; {again(day)}")
        assert h.refused[-1].account == theirs.account
        now[0] += day
        assert codes(await deliver(client, "theirs@mailfarm.test")) == GOOD, "a new day"
        await client.close()


@pytest_twisted.ensureDeferred
async def test_an_account_has_its_day_over_both_services(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        stopped(h)
        limits = read("[set.default.account]\nmessages_per_day = 2")
        mx, service = await h.mx(limits=limits), await h.submission(limits=limits)
        client = await connect(mx.listening["mx"].port)
        await client.reply()
        await client.say("EHLO client.test")
        assert codes(await deliver(client, "inbox@mailfarm.test")) == GOOD
        sender = await connect(service.listening["capture"].port)
        await sender.reply()
        await sender.say("EHLO client.test")
        assert await send(sender, "x@y.example") == GOOD
        (refused,) = await deliver(sender, "x@y.example")
        assert refused.startswith("451 4.7.1 Too many messages for this account; try again in ")
        await wait_until(lambda: h.refused)  # whose it is to see is looked up behind the answer
        assert (h.refused[-1].account, h.refused[-1].address) == (h.account.id, "")
        replies = await deliver(client, "inbox@mailfarm.test")
        assert codes(replies) == ["250", "450 4.7.1", "554 5.5.1"], "mx knows the account by the recipient"
        await client.close()
        await sender.close()


@pytest_twisted.ensureDeferred
async def test_a_credential_has_its_share_of_sessions_messages_and_recipients(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        now = stopped(h)
        limits = read("[set.default.credential]\nsessions = 2\nmessages_per_minute = 3\nrecipients_per_minute = 4\n")
        service = await h.submission(settings=CAPTURE, limits=limits)
        secret, other = await h.credential("known"), await h.credential("other")
        port = service.listening["capture"].port

        async def signed_in(user: str, password: str) -> tuple[Client, str]:
            client, _ = await come(port)
            return client, await client.say(plain(user, password))

        one, reply = await signed_in("known", secret)
        assert reply.startswith("235 ")
        two, _ = await signed_in("known", secret)
        three, reply = await signed_in("known", secret)
        assert reply == "454 4.7.0 Too many sessions with this user name at once; try again later"
        assert codes([await three.say(plain("other", other))]) == ["235"], "it is not a failure"
        await two.close()
        await wait_until(lambda: sorted(h.limiter._places.values()) == [1, 1, 2])  # known, other, the network
        four, reply = await signed_in("known", secret)
        assert reply.startswith("235 ")

        addresses = [f"u{n}@y.example" for n in range(5)]
        replies = await deliver(one, *addresses)
        assert codes(replies) == ["250", "250", "250", "250", "250", "452 4.5.3", "354", "250"]
        replies = await deliver(four, "x@y.example")
        assert replies[-1] == "451 4.7.1 Too many recipients with this user name; try again in 15 s"
        now[0] += 15
        for _ in range(2):
            assert codes(await deliver(one, "x@y.example")) == GOOD
            now[0] += 15
        for client in (one, three, four):
            await client.close()


@pytest.mark.parametrize("service", ["mx", "submission"])
@pytest_twisted.ensureDeferred
async def test_the_same_recipient_again_counts_at_rcpt_as_it_does_at_data(tmp_path: Path, service: str) -> None:
    """What RCPT has let through is never more than DATA can ever allow."""
    async with house(tmp_path) as h:
        stopped(h)
        limits = read("[set.default.account]\nrecipients_per_minute = 3\n")
        if service == "mx":
            port = (await h.mx(settings=BEHIND, limits=limits)).listening["mx"].port
        else:
            port = (await h.submission(settings=CAPTURE, limits=limits)).listening["capture"].port
        client, _ = await come(port)
        replies = await deliver(client, *["inbox@mailfarm.test"] * 5)
        assert codes(replies) == ["250", "250", "250", "250", "452 4.5.3", "452 4.5.3", "354", "250"]
        ((spooled, _),) = await h.spooled()
        assert len(spooled.envelope.recipients) == 3
        await client.close()


@pytest_twisted.ensureDeferred
async def test_two_replicas_count_together_in_redis(tmp_path: Path, redis: Any) -> None:
    from prometheus_client import CollectorRegistry as Registry
    from twisted.internet import reactor

    from mailfarm.backends.redis_limiter import RedisLimiter
    from mailfarm.backends.redis_link import RedisLink

    async with house(tmp_path) as h:
        limits = read("[client]\nsessions = 2\nmessages_per_hour = 2\n[set.default.mailbox]\nmessages_per_day = 3")
        started: list[Any] = []
        ports = []
        try:
            for _ in range(2):
                link = RedisLink(redis.url, reactor)
                await link.start()
                started.append(link)
                await link.ready(10)
                limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, Registry())
                await limiter.start()
                started.append(limiter)
                mx = await h.mx(settings=BEHIND, limits=limits, limiter=limiter, registry=Registry())
                ports.append(mx.listening["mx"].port)
            source = "198.51.100.77"
            one, _ = await come(ports[0], source)
            two, _ = await come(ports[1], source)
            three, reply = await come(ports[0], source)
            assert reply.startswith("421 4.7.0 Too many sessions")
            await three.ended()
            assert codes(await deliver(one, "inbox@mailfarm.test")) == GOOD
            assert codes(await deliver(two, "inbox@mailfarm.test")) == GOOD
            for client in (one, two):
                assert codes(await deliver(client, "inbox@mailfarm.test")) == ["451 4.7.1"]
            other, _ = await come(ports[0], "198.51.100.78")
            assert codes(await deliver(other, "inbox@mailfarm.test")) == GOOD
            replies = await deliver(other, "inbox@mailfarm.test")
            assert codes(replies)[:2] == ["250", "450 4.7.1"]
            for client in (one, two, other):
                await client.close()
            await wait_until(lambda: all(not mx._listener.factory.open for mx in h.running))
        finally:
            for service in h.running:
                await service.stop(0)
            h.running.clear()
            for each in reversed(started):
                await each.stop()
