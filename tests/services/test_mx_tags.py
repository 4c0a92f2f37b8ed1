"""Recipients ``user+tag`` in mx: looked up together, each with a mailbox of its own or none, on the real database."""

from __future__ import annotations

from pathlib import Path

import pytest
import pytest_twisted
from smtp_house import house
from test_mx import begun
from test_smtp_lookups import Hand, watched

from mailfarm.backends.memory import MemoryBus
from mailfarm.events import LOOKUP, MailboxOpened
from mailfarm.mailboxes import store
from mailfarm.net import lookups


@pytest.mark.parametrize("told", [True, False])
@pytest_twisted.ensureDeferred
async def test_tags_are_one_question_each_time_and_none_misses_its_own_mailbox(tmp_path: Path, told: bool) -> None:
    async with watched(tmp_path) as (h, database):
        bus = h.bus if told else MemoryBus()
        mx = await h.mx(bus=bus)
        hand = Hand(mx.directory.mailboxes)
        base, other = await h.mailbox("User@mailfarm.test"), await h.mailbox("other@mailfarm.test")
        await h.mailbox("user@elsewhere.test")
        client = await begun(mx.listening["mx"].port)

        async def lead(*addresses: str) -> tuple[str, ...]:
            assert (await client.say("RSET")).startswith("250")
            assert (await client.say("MAIL FROM:<>")).startswith("250")
            database.reads = 0
            client.send("".join(f"RCPT TO:<{each}>\r\n" for each in addresses))
            assert await client.codes(len(addresses)) == ["250"] * len(addresses)
            reads = database.reads
            client.send("DATA\r\ntext\r\n.\r\n")
            assert await client.codes(2) == ["354", "250"]
            ((spooled, _),) = await h.spooled()
            asked.append(reads)
            return spooled.mailboxes

        asked: list[int] = []
        tags = [f"uSer+{n}@mailfarm.test" for n in range(98)]
        both = [*tags, "other+x@mailfarm.test", '"user+a b"@mailfarm.test']
        for _ in range(2):
            assert await lead(*both) == (*[base.id] * 98, other.id, base.id)
        assert asked == [1, 1], "never remembered, and asked together"
        for address in ("user+7@mailfarm.test", '"user+a b"@mailfarm.test', "other+x@mailfarm.test"):
            own = await h.mailbox(address)
            assert await lead(*both) == tuple(
                own.id if each.lower() == address else (other.id if each.startswith("other") else base.id)
                for each in both
            )
            assert asked.pop() <= 2
            await h.database.unit(lambda tx, own=own: store.delete(tx, h.ids, h.account.id, own.id))
            hand.now += lookups.FRESH + 0.1
        assert await lead(*both) == (*[base.id] * 98, other.id, base.id)
        # a tag of the same user in another domain only costs a second question
        await h.mailbox("user+7@elsewhere.test")
        assert await lead(*both) == (*[base.id] * 98, other.id, base.id)
        assert await lead("user+7@mailfarm.test") == (base.id,)
        client.send("RCPT TO:<nobody+1@mailfarm.test>\r\nRCPT TO:<nobody+2@mailfarm.test>\r\n")
        assert await client.codes(2) == ["503", "503"]
        assert (await client.say("MAIL FROM:<>")).startswith("250")
        client.send("RCPT TO:<nobody+1@mailfarm.test>\r\nRCPT TO:<nobody+2@mailfarm.test>\r\n")
        assert await client.codes(2) == ["550", "550"]
        await client.close()


@pytest.mark.parametrize(("made", "told"), [("user+new", True), ('"user+new"', True), ("user+new", False)])
@pytest_twisted.ensureDeferred
async def test_while_the_database_is_away_no_tag_answers_for_another(tmp_path: Path, made: str, told: bool) -> None:
    async with watched(tmp_path) as (h, database):
        mx = await h.mx(bus=h.bus if told else MemoryBus())
        clock = Hand(mx.directory.mailboxes)
        base = await h.mailbox("user@mailfarm.test")
        client = await begun(mx.listening["mx"].port)

        async def said(*tags: str) -> list[str]:
            client.send("".join(f"RCPT TO:<User+{tag}@mailfarm.test>\r\n" for tag in tags))
            return await client.codes(len(tags))

        assert await said("x", "y") == ["250", "250"]
        assert await said("z") == ["250"]
        box = await h.mailbox(f"{made}@mailfarm.test")
        h.bus.publish(LOOKUP, MailboxOpened(h.ids.new(), h.account.id, box.id, h.clock(), box.address))
        database.away = True
        for _ in range(2):
            clock.now += 30  # what is asked for first finds out that the database is away
            assert await said("new", "x", "other", "y", "z") == ["451", "250", "451", "250", "250"]
            clock.now += 30
            assert await said("x", "new", "y", "other", "z") == ["250", "451", "250", "451", "250"]
        database.reads = 0
        assert await said("x", "y", "z") == ["250"] * 3
        assert database.reads == 0, "that it is away is known: nobody waits"
        database.away = False
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, box.id))
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, base.id))
        clock.now += 30
        assert await said("x", "y") == ["550", "550"]
        database.away = True
        clock.now += 30
        assert await said("x", "y", "z") == ["451", "451", "250"], "nobody has said of z that its mailbox was closed"
        await client.close()


@pytest.mark.parametrize("made", ["user+new", '"user+new"', "USER+other"])
@pytest_twisted.ensureDeferred
async def test_an_answer_for_a_tag_is_not_remembered_if_one_was_made_before_its_turn_came(
    tmp_path: Path, made: str
) -> None:
    async with house(tmp_path) as h:
        directory, address = (await h.mx()).directory, "user+new@mailfarm.test"
        await h.mailbox("user@mailfarm.test")
        wanted = directory.ask_for(address)
        await directory.mailboxes.ask(wanted)
        box = await h.mailbox(f"{made}@mailfarm.test")
        h.bus.publish(LOOKUP, MailboxOpened(h.ids.new(), h.account.id, box.id, h.clock(), box.address))
        directory.answered(address, wanted, True)
        assert not directory.mailboxes.has(address)


@pytest_twisted.ensureDeferred
async def test_a_hint_that_comes_late_makes_nobody_unknown(tmp_path: Path) -> None:
    async with watched(tmp_path) as (h, database):
        mx = await h.mx()
        clock = Hand(mx.directory.mailboxes)
        boxes = [await h.mailbox(f"{name}@mailfarm.test") for name in ("known", "known+own", "other")]
        client = await begun(mx.listening["mx"].port)
        addresses = ("known@mailfarm.test", "KNOWN+own@mailfarm.test", "known+x@mailfarm.test", "other@mailfarm.test")

        async def said() -> list[str]:
            client.send("".join(f"RCPT TO:<{each}>\r\n" for each in addresses))
            return await client.codes(len(addresses))

        assert await said() == ["250"] * 4
        database.away = True
        clock.now += 30
        for box in boxes[:2]:
            h.bus.publish(LOOKUP, MailboxOpened(h.ids.new(), h.account.id, box.id, h.clock(), box.address))
        # the last one's address has another mailbox, of which nobody here knows
        h.bus.publish(LOOKUP, MailboxOpened(h.ids.new(), h.account.id, h.ids.new(), h.clock(), boxes[2].address))
        assert await said() == ["250", "250", "250", "451"]
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_mailbox_with_a_tag_is_known_whatever_becomes_of_its_users_other_tags(tmp_path: Path) -> None:
    async with watched(tmp_path) as (h, database):
        mx = await h.mx()
        clock = Hand(mx.directory.mailboxes)
        await h.mailbox("user+own@mailfarm.test")
        client = await begun(mx.listening["mx"].port)
        assert (await client.say("RCPT TO:<user+own@mailfarm.test>")).startswith("250")
        box = await h.mailbox("user+other@mailfarm.test")
        h.bus.publish(LOOKUP, MailboxOpened(h.ids.new(), h.account.id, box.id, h.clock(), box.address))
        database.reads = 0
        assert (await client.say("RCPT TO:<user+own@mailfarm.test>")).startswith("250")
        assert database.reads == 0, "it is remembered"
        database.away = True
        for _ in range(2):
            clock.now += 30
            client.send("RCPT TO:<user+own@mailfarm.test>\r\nRCPT TO:<user+other@mailfarm.test>\r\n")
            assert await client.codes(2) == ["250", "451"]
        await client.close()
