"""mx takes mail for mailboxes that live, and for nothing and nobody else."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import pytest_twisted
from loopback import Client, connect
from prometheus_client import CollectorRegistry
from smtp_house import ALL, FREE, HOST, House, house
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from mailfarm.accounts.limit_sets import read
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import MxSettings
from mailfarm.errors import ConfigurationError, DatabaseUnavailable, QueueFull, QueueUnavailable
from mailfarm.mailboxes import store
from mailfarm.net.proxy import SIGNATURE
from mailfarm.services import mx as mx_module

GONE = 10**12


async def begun(port: int, sender: str = "a@client.test") -> Client:
    client = await connect(port)
    assert (await client.reply()) == f"220 {HOST} ESMTP mailfarm"
    assert (await client.say("EHLO client.test")).startswith("250-")
    assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
    return client


@pytest_twisted.ensureDeferred
async def test_mail_for_a_living_mailbox_is_spooled_before_250(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        box = await h.mailbox("user@mailfarm.test")
        client = await begun(mx.listening["mx"].port)
        assert await client.say("RCPT TO:<User+tag@Mailfarm.TEST>") == "250 2.1.5 Ok"
        assert await client.say("RCPT TO:<inbox@mailfarm.test>") == "250 2.1.5 Ok"
        assert (await client.say("DATA")).startswith("354 ")
        reply = await client.say("Subject: hello\r\n\r\n..text\r\n.")
        found = re.fullmatch(r"250 2\.0\.0 spooled as ([0-9a-z]{26})", reply)
        assert found
        ((spooled, content),) = await h.spooled()
        assert content == b"Subject: hello\r\n\r\n.text\r\n"
        assert spooled.id == found[1]
        assert spooled.account == h.account.id
        assert spooled.mailboxes == (box.id, h.inbox.id)
        assert spooled.sha256 == hashlib.sha256(content).digest()
        assert spooled.envelope.sender == "a@client.test"
        assert [r.address for r in spooled.envelope.recipients] == ["User+tag@Mailfarm.TEST", "inbox@mailfarm.test"]
        assert (spooled.origin.service, spooled.origin.client, spooled.origin.helo) == (
            "mx",
            "127.0.0.1",
            "client.test",
        )
        assert spooled.origin.protocol == "ESMTP"
        assert spooled.trace.startswith(b"Received: from client.test ([127.0.0.1])\r\n\tby mx.mailfarm.test with ESMTP")
        await client.close()


async def answers(h: House, recipients: dict[str, str], before: str = "", sender: str = "a@client.test") -> None:
    mx = await h.mx()
    client = await connect(mx.listening["mx"].port)
    await client.reply()
    client.send("EHLO client.test\r\n")
    await client.reply()
    if before:
        client.send(before)
        for _ in range(before.count("\r\n")):
            await client.reply()
    assert (await client.say(f"MAIL FROM:<{sender}>")).startswith("250 ")
    for path, expected in recipients.items():
        reply = await client.say(f"RCPT TO:{path}")
        assert reply.startswith(expected), (path, reply)
    taken = any(expected.startswith("250") for expected in recipients.values())
    assert (await client.say("DATA")).startswith("354 " if taken else "554 5.5.1 ")
    await client.close()
    assert (await h.queue.depth()).waiting == 0


RELAYS = {
    "<user%remote.example@mailfarm.test>": "553 5.7.1 ",
    "<remote.example!user@mailfarm.test>": "553 5.7.1 ",
    '<"user@remote.example"@mailfarm.test>': "553 5.7.1 ",
    "<@mailfarm.test:user@remote.example>": "550 5.7.1 ",
    "<@mailfarm.test,@other.example:user@remote.example>": "550 5.7.1 ",
    "<user@[127.0.0.1]>": "550 5.7.1 ",
    "<user@[IPv6:::1]>": "550 5.7.1 ",
    "<user@remote.example>": "550 5.7.1 ",
    "<user@sub.mailfarm.test>": "550 5.7.1 ",
    "<user@mailfarm.test.remote.example>": "550 5.7.1 ",
    "<user@localhost>": "550 5.7.1 ",
    f"<user@{HOST}>": "550 5.7.1 ",
}


@pytest.mark.parametrize(
    ("before", "sender"),
    [
        ("", "a@client.test"),
        ("", ""),
        ("", "inbox@mailfarm.test"),
        ("EHLO mailfarm.test\r\n", "inbox@mailfarm.test"),
        ("HELO localhost\r\n", ""),
        ("AUTH PLAIN AGEAYg==\r\n", "a@client.test"),
        ("MAIL FROM:<a@client.test>\r\nRCPT TO:<inbox@mailfarm.test>\r\nRSET\r\n", "a@client.test"),
    ],
    ids=["anybody", "nobody", "our own", "our own with our HELO", "null from localhost", "after AUTH", "after RSET"],
)
@pytest_twisted.ensureDeferred
async def test_it_never_relays(tmp_path: Path, before: str, sender: str) -> None:
    async with house(tmp_path) as h:
        if before.startswith("EHLO"):
            before = ""  # its answer has many lines; the domain is what matters
            await answers(h, RELAYS, "HELO mailfarm.test\r\n", sender)
        else:
            await answers(h, RELAYS, before, sender)


@pytest_twisted.ensureDeferred
async def test_it_never_relays_after_starttls_either(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        client = await connect(mx.listening["mx"].port)
        await client.reply()
        assert "STARTTLS" in await client.say("EHLO client.test")
        assert (await client.say("AUTH PLAIN AGEAYg==")).startswith("502 ")
        assert (await client.say("STARTTLS")).startswith("220 ")
        await client.start_tls()
        assert "AUTH" not in await client.say("EHLO client.test")
        assert (await client.say("AUTH PLAIN AGEAYg==")).startswith("502 ")
        assert (await client.say("MAIL FROM:<>")).startswith("250 ")
        for path, expected in RELAYS.items():
            assert (await client.say(f"RCPT TO:{path}")).startswith(expected)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_recipient_needs_a_mailbox_that_lives(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.mailbox("ended@mailfarm.test", kind="disposable", lifetime=60)
        await h.mailbox("future@mailfarm.test", starts_at=h.clock() + 3600 * 1_000_000)
        h.ahead = 120 * 1_000_000
        same = "550 5.1.1 <{}>: there is no such mailbox"
        await answers(
            h,
            {
                f"<{address}>": same.format(address)
                for address in ("nobody@mailfarm.test", "ended@mailfarm.test", "future@mailfarm.test")
            },
        )
        # whose they would have been
        assert [bool(each.mailbox) for each in h.refused] == [False, True, True]


@pytest_twisted.ensureDeferred
async def test_postmaster_without_a_mailbox_is_for_the_default_one(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        await h.database.unit(lambda tx: store.delete(tx, h.ids, h.account.id, h.inbox.id))
        await answers(
            h,
            {
                "<postmaster>": "250 ",
                "<Postmaster@MAILFARM.test>": "250 ",
                "<postmaster@xn--mnchen-3ya.example>": "250 ",
                "<postmaster@elsewhere.example>": "550 5.7.1",
                "<postmaster+x@mailfarm.test>": "550 5.1.1",
            },
        )
        made = await h.database.read(lambda tx: store.by_address(tx, "inbox@mailfarm.test"))
        assert made is not None


@pytest_twisted.ensureDeferred
async def test_what_the_core_refused_is_told_to_the_other_recipients_mailbox(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        box = await h.mailbox("box@mailfarm.test")
        await answers(h, {"<b..c@mailfarm.test>": "501 ", "<box@mailfarm.test>": "250 ", "<x@>": "501 "})
        assert [(each.code, each.address, each.mailbox) for each in h.refused] == [
            (501, "b..c@mailfarm.test", box.id),
            (501, "x@", box.id),
        ]


@pytest_twisted.ensureDeferred
async def test_a_mailbox_is_found_however_its_address_is_written(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        box = await h.mailbox("postmaster@mailfarm.test")
        idn = await h.mailbox("jörg@münchen.example")
        odd = await h.mailbox("a%b@mailfarm.test")
        foreign = await h.mailbox("guest@elsewhere.example")
        mx = await h.mx()
        client = await connect(mx.listening["mx"].port)
        await client.reply()
        await client.say("EHLO client.test")
        assert (await client.say("MAIL FROM:<> SMTPUTF8")).startswith("250 ")
        paths = ("<Postmaster>", "<POSTMASTER@mailfarm.test>", "<jörg@xn--mnchen-3ya.example>", "<a%b@mailfarm.test>")
        for path in (*paths, "<guest@elsewhere.example>", "<@relay.example:postmaster@mailfarm.test>"):
            assert await client.say(f"RCPT TO:{path}") == "250 2.1.5 Ok", path
        await client.say("DATA")
        assert (await client.say("text\r\n.")).startswith("250 ")
        ((spooled, _),) = await h.spooled()
        assert spooled.mailboxes == (box.id, box.id, idn.id, odd.id, foreign.id, box.id)
        assert spooled.origin.protocol == "UTF8SMTP"
        await client.close()


@pytest_twisted.ensureDeferred
async def test_one_transaction_is_for_one_account(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        other = await h.mailbox("theirs@mailfarm.test", account=await h.another_account())
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)
        assert (await client.say("RCPT TO:<inbox@mailfarm.test>")).startswith("250 ")
        assert (await client.say("RCPT TO:<theirs@mailfarm.test>")).startswith("452 4.5.3 ")
        await client.say("DATA")
        assert (await client.say("text\r\n.")).startswith("250 ")
        client.send("MAIL FROM:<>\r\nRCPT TO:<theirs@mailfarm.test>\r\nDATA\r\n")
        assert await client.codes(3) == ["250", "250", "354"]
        assert (await client.say("text\r\n.")).startswith("250 ")
        (first, _), (second, _) = await h.spooled(2)
        assert (first.account, first.mailboxes) == (h.account.id, (h.inbox.id,))
        assert (second.account, second.mailboxes) == (other.account, (other.id,))
        await client.close()


@pytest_twisted.ensureDeferred
async def test_refusals_are_told_to_the_address_owner(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        theirs = await h.another_account()
        await h.mailbox("ended@elsewhere.example", account=theirs, kind="disposable", lifetime=60)
        h.ahead = 120 * 1_000_000
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)
        for address in ("nobody@mailfarm.test", "ended@elsewhere.example", "x@remote.example"):
            await client.say(f"RCPT TO:<{address}>")
        assert [(r.address, r.account, r.code, r.enhanced) for r in h.refused] == [
            ("nobody@mailfarm.test", h.account.id, 550, "5.1.1"),
            ("ended@elsewhere.example", theirs, 550, "5.7.1"),
        ], "and nobody may see the third"
        first = h.refused[0]
        assert (first.service, first.client, first.sender) == ("mx", "127.0.0.1", "a@client.test")
        assert first.lines[-2:] == (
            "C: RCPT TO:<nobody@mailfarm.test>",
            "S: 550 5.1.1 <nobody@mailfarm.test>: there is no such mailbox",
        )
        client.send("RSET\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<inbox@mailfarm.test>\r\nDATA\r\n")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        assert (await client.say("a bare\nline feed\r\n.")).startswith("550 5.6.0 ")
        assert (h.refused[-1].address, h.refused[-1].code) == ("inbox@mailfarm.test", 550)
        assert any("5.6.0" in line for line in h.refused[-1].lines)
        assert len(h.refused) == 3
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_flood_of_refusals_is_sampled(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)
        for _ in range(19):
            await client.say("RCPT TO:<nobody@mailfarm.test>")
        assert len(h.refused) == 10
        assert mx.refusals.dropped == 9
        await client.close()


@pytest_twisted.ensureDeferred
async def test_who_guesses_addresses_is_sent_away(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)
        client.send("".join(f"RCPT TO:<guess{n}@mailfarm.test>\r\n" for n in range(200)))
        assert await client.codes(100) == ["550"] * 99 + ["421"]
        await client.ended()


@pytest.mark.parametrize(
    ("error", "at_data"),
    [(QueueFull("full"), "452 4.3.1 "), (QueueUnavailable("away"), "451 4.3.0 "), (RuntimeError("bug"), "451 4.3.0 ")],
)
@pytest_twisted.ensureDeferred
async def test_no_room_is_said_before_the_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, at_data: str
) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)
        await client.say("RCPT TO:<inbox@mailfarm.test>")

        async def refuse(size: int) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(h.queue, "admit", refuse)
            assert (await client.say("DATA")).startswith(at_data)
            assert (await client.say("MAIL FROM:<a@client.test> SIZE=1000")).startswith(at_data)
        assert (await client.say("MAIL FROM:<a@client.test> SIZE=1000")).startswith("250 ")
        assert h.refused[0].address == "inbox@mailfarm.test"
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_folder_without_room_for_what_may_come_is_452_before_the_content(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx(max_size=10**18)  # more than any disk has
        client = await begun(mx.listening["mx"].port)
        client.send("RCPT TO:<inbox@mailfarm.test>\r\nDATA\r\n")
        assert await client.codes(2) == ["250", "452"]
        assert h.refused[0].code == 452
        assert (await client.say(f"MAIL FROM:<a@client.test> SIZE={10**17}")).startswith("452 4.3.1 ")
        client.send("MAIL FROM:<a@client.test> SIZE=1000\r\nRCPT TO:<inbox@mailfarm.test>\r\nDATA\r\n")
        assert await client.codes(3) == ["250", "250", "354"]
        assert (await client.say("text\r\n.")).startswith("250 ")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_queue_that_fills_meanwhile_is_452_after_the_content(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx(queue=Queue(h.engine, "small", h.ids, h.clock, reactor=reactor, max_entries=1))
        clients = [await begun(mx.listening["mx"].port) for _ in range(2)]
        for client in clients:
            client.send("RCPT TO:<inbox@mailfarm.test>\r\nDATA\r\n")
            assert await client.codes(2) == ["250", "354"]
        assert (await clients[0].say("text\r\n.")).startswith("250 ")
        assert (await clients[1].say("text\r\n.")).startswith("452 4.3.1 ")
        assert (await clients[1].say("NOOP")).startswith("250 ")
        assert (await begun_data(clients[1])).startswith("452 4.3.1 "), "and now before it"
        for client in clients:
            await client.close()


async def begun_data(client: Client) -> str:
    client.send("MAIL FROM:<>\r\nRCPT TO:<inbox@mailfarm.test>\r\n")
    assert await client.codes(2) == ["250", "250"]
    return await client.say("DATA")


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_away_is_451(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        client = await begun(mx.listening["mx"].port)

        async def away(work: object, *, once: bool = False) -> None:
            raise DatabaseUnavailable("locked")

        with monkeypatch.context() as patched:
            patched.setattr(h.database, "read", away)
            assert (await client.say("RCPT TO:<inbox@mailfarm.test>")).startswith("451 4.3.0 ")
        assert (await client.say("RCPT TO:<inbox@mailfarm.test>")).startswith("250 ")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_batch_of_many_recipients_is_answered_in_order_and_looked_up_together(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        mx = await h.mx()
        boxes = [await h.mailbox(f"user{n}@mailfarm.test") for n in range(20)]
        clients = [await begun(mx.listening["mx"].port) for _ in range(5)]
        batch = "".join(f"RCPT TO:<user{n}@mailfarm.test>\r\nRCPT TO:<nobody{n}@mailfarm.test>\r\n" for n in range(19))
        for client in clients:
            client.send(batch + "DATA\r\ntext\r\n.\r\n")
        for client in clients:
            assert await client.codes(40) == ["250", "550"] * 19 + ["354", "250"]
        for spooled, _ in await h.spooled(5):
            assert spooled.mailboxes == tuple(box.id for box in boxes[:19])
        for client in clients:
            await client.close()


def proxy_header(source: str, port: int = 40000) -> bytes:
    import socket
    import struct

    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    here = "2001:db8::1" if ":" in source else "198.51.100.1"
    rest = socket.inet_pton(family, source) + socket.inet_pton(family, here) + struct.pack("!HH", port, 25)
    return SIGNATURE + (b"\x21\x21" if ":" in source else b"\x21\x11") + struct.pack("!H", len(rest)) + rest


@pytest_twisted.ensureDeferred
async def test_a_client_behind_a_proxy_may_connect_so_often_and_its_whole_network_counts(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        twice = read("[client]\nconnections_per_minute = 2")
        mx = await h.mx(settings=MxSettings(listen=FREE, proxy_from=ALL), limits=twice)
        port = mx.listening["mx"].port

        async def knock(source: str) -> str:
            client = await connect(port)
            client.send(proxy_header(source))
            reply = await client.reply()
            await client.close()
            return reply[:9]

        assert [await knock(f"2001:db8:5::{n}") for n in range(1, 4)] == ["220 mx.ma"] * 2 + ["421 4.7.0"]
        assert await knock("2001:db8:5:1::1") == "220 mx.ma", "another /64"
        assert [await knock("192.0.2.1") for _ in range(3)] == ["220 mx.ma"] * 2 + ["421 4.7.0"]
        assert await knock("192.0.2.2") == "220 mx.ma"
        assert [await knock("127.0.0.1") for _ in range(4)] == ["220 mx.ma"] * 4


@pytest_twisted.ensureDeferred
async def test_where_it_listens_can_be_switched_off_and_two_cannot_share(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        off = await h.mx(settings=MxSettings(listen=None))
        assert off.listening == {}
        on = await h.mx()
        with pytest.raises(ConfigurationError, match="MAILFARM_MX_LISTEN"):
            await h.mx(settings=MxSettings(listen=on.listening["mx"]), registry=CollectorRegistry())


@pytest_twisted.ensureDeferred
async def test_smtplib_sends(tmp_path: Path) -> None:
    import smtplib
    import ssl

    async with house(tmp_path) as h:
        mx = await h.mx()
        context = ssl.create_default_context(cafile=str(h.pair.certificate))

        def send(port: int) -> dict[str, tuple[int, bytes]]:
            with smtplib.SMTP("localhost", port, timeout=10) as smtp:
                smtp.starttls(context=context)
                return smtp.sendmail("a@b.example", ["inbox@mailfarm.test", "no@mailfarm.test"], "Subject: x\n\ntext\n")

        refused = await deferToThread(send, mx.listening["mx"].port)
        assert list(refused) == ["no@mailfarm.test"]
        ((spooled, content),) = await h.spooled()
        assert content == b"Subject: x\r\n\r\ntext\r\n"
        assert spooled.origin.protocol == "ESMTPS"
        assert spooled.origin.tls.startswith("TLSv1.3 TLS_")
        assert b"TLSv1.3" in spooled.trace


@pytest_twisted.ensureDeferred
async def test_settings_that_make_no_sense_are_named(tmp_path: Path) -> None:
    async with house(tmp_path) as h:
        with pytest.raises(ConfigurationError, match="MAILFARM_HOSTNAME"):
            await h.mx(hostname="no name")
        with pytest.raises(ConfigurationError, match=r"_MAX_RECIPIENTS.*at least 100"):
            await h.mx(settings=MxSettings(max_recipients=5), registry=CollectorRegistry())


def test_its_manual_names_its_settings() -> None:
    from mailfarm.config import variables

    for variable in variables():
        if variable.group == "mx":
            assert variable.name in (mx_module.__doc__ or "")
