"""What mx and submission remember of mailboxes and credentials, and for how long, on the real database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from counted import Counted
from loopback import wait_until
from prometheus_client import CollectorRegistry
from smtp_house import FREE, House, house
from submission_client import GOOD, greeted, plain, send
from test_mx import begun
from twisted.internet import reactor

from mailfarm.accounts.store import credentials, revoke_credential
from mailfarm.backends.memory import MemoryBus
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_link import RedisLink
from mailfarm.config import SubmissionSettings
from mailfarm.errors import DatabaseUnavailable
from mailfarm.events import LOOKUP, MailboxChanged, Revoked
from mailfarm.inbound.capture import ById
from mailfarm.mailboxes import store
from mailfarm.mailboxes.announce import announce
from mailfarm.net import lookups
from mailfarm.net.lookups import Lookups


class Watched:
    """The database, with an eye on it: how often it was asked, and whether it answers."""

    def __init__(self, house: House) -> None:
        self._database = house.database
        self.reads = 0
        self.away = False

    def unit(self, work: Any) -> Any:
        return self._database.unit(work)

    async def read(self, work: Any, *, once: bool = False) -> Any:
        self.reads += 1
        if self.away:
            raise DatabaseUnavailable("no route to host")
        return await self._database.read(work, once=once)


class Hand:
    """A hand on the clock by which these look-ups remember."""

    def __init__(self, *lookups: Lookups[Any, Any]) -> None:
        self.now = 1000.0
        for each in lookups:
            each._seconds = lambda: self.now


@asynccontextmanager
async def watched(folder: Path) -> AsyncIterator[tuple[House, Watched]]:
    async with house(folder) as h:
        h.database = Watched(h)
        yield h, h.database


@pytest_twisted.ensureDeferred
async def test_user_names_and_mailboxes_that_are_asked_for_together_are_one_question(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        counted = h.database = Counted(h.database)
        service = await h.submission()
        boxes = [await h.mailbox() for _ in range(20)]
        for n in range(20):
            await h.credential(f"user{n}")
        counted.statements = 0
        names = [service.login.credentials.ask(f"user{n}") for n in range(40)]
        found = [(await each)[0] for each in names]
        assert [each is not None for each in found] == [True] * 20 + [False] * 20
        assert counted.statements == 2, "the first alone, and all that came meanwhile"
        counted.statements = 0
        wanted = [*(ById(box.id, h.account.id) for box in boxes), ById(boxes[0].id, "another's"), ById("none", "")]
        ids = [await each for each in [service.directory.mailboxes.ask(each) for each in wanted]]
        assert ids == [*(box.id for box in boxes), None, None]
        assert counted.statements == 2


@pytest_twisted.ensureDeferred
async def test_a_batch_of_a_hundred_recipients_is_looked_up_together_and_the_next_not_at_all(tmp_path: Path) -> None:
    async with watched(tmp_path) as (h, database):
        mx = await h.mx()
        Hand(mx.directory.mailboxes)
        for n in range(100):
            await h.mailbox(f"user{n}@mailfarm.test")
        batch = "".join(f"RCPT TO:<user{n}@mailfarm.test>\r\n" for n in range(100))
        for expected in (1, 0):
            client = await begun(mx.listening["mx"].port)
            database.reads = 0
            client.send(batch)
            assert await client.codes(100) == ["250"] * 100
            assert database.reads == expected
            await client.close()
        assert h.registry.get_sample_value(
            "mailfarm_mx_lookups_total", {"of": "mailbox", "outcome": "remembered"}
        ) == pytest.approx(100)


@pytest_twisted.ensureDeferred
async def test_what_leads_to_the_default_mailbox_is_looked_up_together_each_time(tmp_path: Path) -> None:
    async with watched(tmp_path) as (h, database):
        service = await h.submission()
        client, _ = await greeted(service.listening["capture"].port)
        batch = "".join(f"RCPT TO:<user{n}@app.example>\r\n" for n in range(100))
        for _ in range(2):
            assert (await client.say("MAIL FROM:<>")).startswith("250")
            database.reads = 0
            client.send(batch)
            assert await client.codes(100) == ["250"] * 100
            assert database.reads == 1
            # what is malformed among them is answered in its turn
            client.send("RCPT TO:<a@b.example>\r\nRCPT TO:<>\r\nRCPT TO:<c@d.example>\r\n")
            assert await client.codes(3) == ["250", "501", "250"]
            assert (await client.say("RSET")).startswith("250")
        await client.close()


@pytest.mark.parametrize("told", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_mailbox_made_elsewhere_takes_mail_at_once(tmp_path: Path, told: bool) -> None:
    """The sandbox's journey: create, then send. ``told``: over a bus that works, or one that lost the event."""
    async with house(tmp_path) as h:
        bus = h.bus if told else MemoryBus()
        mx = await h.mx(bus=bus)
        service = await h.submission(bus=bus)
        mx_client = await begun(mx.listening["mx"].port)
        client, _ = await greeted(service.listening["capture"].port)
        for address in ("one@mailfarm.test", "two+tag@mailfarm.test"):
            # asked for before there is one: refused by mx, and for the default mailbox by open capture
            for _ in range(2):
                assert (await mx_client.say(f"RCPT TO:<{address}>")).startswith("550 5.1.1")
                assert await send(client, address) == GOOD
            await h.spooled(2)
            made, opened = await h.database.unit(
                lambda tx, address=address: store.create(tx, h.ids, h.account.id, store.NewMailbox(address), h.domains)
            )
            announce(h.bus, [opened])
            assert (await mx_client.say(f"RCPT TO:<{address}>")).startswith("250")
            assert await send(client, address) == GOOD
            ((spooled, _),) = await h.spooled()
            assert spooled.mailboxes == (made.id,)
        # mail for user+tag went to user, until there is a mailbox for that very address
        await h.mailbox("three@mailfarm.test")
        assert (await mx_client.say("RCPT TO:<three+x@mailfarm.test>")).startswith("250")
        own = await h.mailbox("three+x@mailfarm.test")
        assert await send(client, "three+x@mailfarm.test") == GOOD
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (own.id,)
        await mx_client.close()
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_mailbox_deleted_or_shortened_elsewhere_is_refused_as_soon_as_the_bus_says_so(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        service = await h.submission()
        box = await h.mailbox("box@mailfarm.test")
        secret = await h.credential(box.id, mailbox=box.id)
        client = await begun(mx.listening["mx"].port)
        sender, _ = await greeted(service.listening["capture"].port)
        assert (await sender.say(plain(box.id, secret))).startswith("235 ")
        for _ in range(2):
            assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("250")
            assert await send(sender, "x@y.example") == GOOD
        await h.database.unit(lambda tx: store.change(tx, h.account.id, box.id, lifetime=1))
        h.bus.publish(LOOKUP, MailboxChanged(h.ids.new(), h.account.id, box.id, h.clock(), box.address))
        h.ahead = 2_000_000
        assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("550 5.1.1")
        h.ahead = 0
        assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("250")
        closed = await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, box.id))
        announce(h.bus, [closed])
        assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("550 5.1.1")
        assert await send(sender, "x@y.example") == ["250", "550 5.1.1"]
        await sender.close()
        sender, _ = await greeted(service.listening["capture"].port)
        assert (await sender.say(plain(box.id, secret))).startswith("535 "), "its credential went with it"
        await sender.close()
        await client.close()


@pytest.mark.parametrize("told", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_revoked_credential_is_refused_at_once_or_five_seconds_later(tmp_path: Path, told: bool) -> None:
    async with watched(tmp_path) as (h, database):
        service = await h.submission(bus=h.bus if told else MemoryBus())
        clock = Hand(service.login.credentials)
        secret = await h.credential("known")

        async def attempt(guess: str = secret, user: str = "known") -> str:
            client, _ = await greeted(service.listening["capture"].port)
            reply = await client.say(plain(user, guess))
            await client.close()
            return reply[:3]

        assert await attempt() == "235"
        database.reads = 0
        assert await attempt() == "235"
        assert database.reads == 0, "it is remembered"
        assert await attempt("wrong") == "535"
        assert database.reads == 1, "before no is said the database is asked"
        assert await attempt("wrong", "unknown") == "535"
        assert database.reads == 2, "for those that nobody knows just as often"
        (credential,) = await h.database.read(lambda tx: credentials(tx, h.account.id))
        await h.database.unit(lambda tx: revoke_credential(tx, h.account.id, credential.id))
        h.bus.publish(LOOKUP, Revoked(h.ids.new(), h.account.id, h.clock(), "credential", credential.id))
        if told:
            assert await attempt() == "535"
        else:
            assert await attempt() == "235"
            clock.now += lookups.FRESH + 0.1
            assert await attempt() == "535"


@pytest_twisted.ensureDeferred
async def test_while_the_database_is_away_those_who_are_known_are_served(tmp_path: Path) -> None:
    async with watched(tmp_path) as (h, database):
        settings = SubmissionSettings(capture=FREE, starttls=None, tls=None)
        mx, service = await h.mx(), await h.submission(settings=settings)
        clock = Hand(mx.directory.mailboxes, service.directory.mailboxes, service.login.credentials)
        port = service.listening["capture"].port
        box = await h.mailbox("known@mailfarm.test")
        brief = await h.mailbox("brief@mailfarm.test", kind="disposable", lifetime=60)
        await h.mailbox("unknown@mailfarm.test")
        secret, other = await h.credential(box.id, mailbox=box.id), await h.credential("other")
        client = await begun(mx.listening["mx"].port)
        for name in ("known", "brief", "known+tag"):
            assert (await client.say(f"RCPT TO:<{name}@mailfarm.test>")).startswith("250")
        sender, _ = await greeted(port)
        assert await send(sender, "anything@else.example") == GOOD
        assert (await sender.say(plain(box.id, secret))).startswith("235 ")
        assert await send(sender, "x@y.example") == GOOD
        await sender.close()

        database.away = True
        clock.now += 30
        h.ahead = 30 * 1_000_000
        for name in ("known", "brief", "known+tag"):
            assert (await client.say(f"RCPT TO:<{name}@mailfarm.test>")).startswith("250")
        for name in ("unknown", "nobody"):
            assert (await client.say(f"RCPT TO:<{name}@mailfarm.test>")).startswith("451 4.3.0 ")
        sender, _ = await greeted(port)
        assert await send(sender, "anything@else.example") == GOOD, "as it went before: into the default mailbox"
        assert await send(sender, "something@else.example") == ["250", "451 4.3.0"]
        assert (await sender.say("RSET")).startswith("250")
        assert (await sender.say(plain("other", other))).startswith("454 4.7.0 ")
        assert (await sender.say(plain(box.id, "wrong"))).startswith("454 4.7.0 ")
        assert (await sender.say(plain(box.id, secret))).startswith("235 ")
        assert await send(sender, "x@y.example") == GOOD
        clock.now += 90
        h.ahead = 120 * 1_000_000
        assert (await client.say("RCPT TO:<brief@mailfarm.test>")).startswith("451 4.3.0 "), "its own time is over"
        assert brief.ends_at is not None
        assert (await client.say("RCPT TO:<known@mailfarm.test>")).startswith("250")

        database.away = False
        clock.now += lookups.FRESH + 0.1
        assert (await client.say("RCPT TO:<brief@mailfarm.test>")).startswith("550 5.1.1")
        assert (await client.say("RCPT TO:<unknown@mailfarm.test>")).startswith("250")
        await sender.close()
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_service_that_stops_hears_no_more(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx, service = await h.mx(), await h.submission(registry=CollectorRegistry())
        assert LOOKUP in h.bus._topics
        await mx.stop(0)
        await service.stop(0)
        assert LOOKUP not in h.bus._topics


@pytest_twisted.ensureDeferred
async def test_what_another_process_closes_is_refused_here_by_way_of_redis(tmp_path: Path, redis: Any) -> None:
    async with house(tmp_path) as h:
        started: list[Any] = []
        buses = []
        try:
            for _ in range(2):
                link = RedisLink(redis.url, reactor)
                await link.start()
                started.append(link)
                assert await link.ready(10)
                bus = RedisBus(link, reactor, CollectorRegistry())
                await bus.start()
                started.append(bus)
                buses.append(bus)
            mx, service = await h.mx(bus=buses[0]), await h.submission(bus=buses[0])
            Hand(mx.directory.mailboxes, service.login.credentials)  # five seconds never pass
            box, secret = await h.mailbox("box@mailfarm.test"), await h.credential("known")
            client = await begun(mx.listening["mx"].port)
            sender, _ = await greeted(service.listening["capture"].port)
            assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("250")
            assert (await sender.say(plain("known", secret))).startswith("235 ")
            await sender.close()
            assert (len(mx.directory.mailboxes), len(service.login.credentials)) == (1, 1)
            (credential,) = await h.database.read(lambda tx: credentials(tx, h.account.id))
            await h.database.unit(lambda tx: revoke_credential(tx, h.account.id, credential.id))
            closed = await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, box.id))
            announce(buses[1], [closed])
            buses[1].publish(LOOKUP, Revoked(h.ids.new(), h.account.id, h.clock(), "credential", credential.id))
            await wait_until(lambda: len(mx.directory.mailboxes) + len(service.login.credentials) == 0)
            assert (await client.say("RCPT TO:<box@mailfarm.test>")).startswith("550 5.1.1")
            sender, _ = await greeted(service.listening["capture"].port)
            assert (await sender.say(plain("known", secret))).startswith("535 ")
            await sender.close()
            await client.close()
        finally:
            for each in h.running:
                await each.stop(0)
            h.running.clear()
            for each in reversed(started):
                await each.stop()
