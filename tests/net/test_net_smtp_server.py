"""SMTP sessions on real sockets: order, writes, back-pressure, deadlines, caps and draining."""

from __future__ import annotations

import errno
import gc
import re
from typing import Any

import pytest
import pytest_twisted
from loopback import wait_until
from smtp_playing import GREETED, OK, Playing, errors, later, playing

from mailfarm.errors import ConfigurationError, DatabaseUnavailable, QueueFull
from mailfarm.mail.reply import Reply
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_session import Answer
from mailfarm.smtp.server import ServerConfig


def spy_on_writes(play: Playing) -> list[bytes]:
    (protocol,) = play.factory.open
    writes: list[bytes] = []
    write = protocol.transport.write

    def spied(data: bytes) -> None:
        writes.append(data)
        write(data)

    protocol.transport.write = spied
    return writes


@pytest_twisted.ensureDeferred
async def test_a_mail_comes_in() -> None:
    async with playing() as play:
        client = await play.connect()
        assert "250-PIPELINING" in await client.say("EHLO client.test")
        assert await client.say("MAIL FROM:<a@client.test>") == "250 2.1.0 Ok"
        assert await client.say("RCPT TO:<b@mx.test>") == "250 2.1.0 Ok"
        assert (await client.say("DATA")).startswith("354 ")
        assert await client.say("Subject: x\r\n\r\n..hello\r\n.") == "250 2.0.0 Accepted"
        assert (await client.say("QUIT")).startswith("221 ")
        await client.ended()
        ((envelope, data),) = play.session.accepted
        assert envelope.sender == "a@client.test"
        assert [r.address for r in envelope.recipients] == ["b@mx.test"]
        assert data == b"Subject: x\r\n\r\n.hello\r\n"
        assert play.session.connection.client == "127.0.0.1"
        assert play.session.connection.helo == "client.test"
        assert play.session.connection.extended
        assert play.count("messages_total", outcome="accepted") == 1
        assert play.count("recipients_total", outcome="accepted") == 1
        assert play.count("content_octets_total") == len(data)


@pytest_twisted.ensureDeferred
async def test_the_replies_of_a_batch_leave_in_one_write() -> None:
    async with playing() as play:
        client = await play.connect()
        writes = spy_on_writes(play)
        client.send(GREETED + "RCPT TO:<c@mx.test>\r\nDATA\r\n")
        assert await client.codes(5) == ["250", "250", "250", "250", "354"]
        assert len(writes) == 1
        client.send("hello\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\nNOOP\r\nQUIT\r\n")
        assert await client.codes(5) == ["250", "250", "250", "250", "221"]
        assert len(writes) == 2
        await client.ended()


@pytest_twisted.ensureDeferred
async def test_replies_stay_in_order_and_in_one_write_however_long_a_decision_takes() -> None:
    answer, asked = later()
    async with playing(rcpt=answer) as play:
        client = await play.connect()
        writes = spy_on_writes(play)
        client.send(GREETED + "RCPT TO:<c@mx.test>\r\nNOOP\r\nRCPT TO:<d@mx.test>\r\nDATA\r\n")
        for number, reply in enumerate((OK, Reply(550, "5.1.1", "Unknown"), Reply(450, "4.2.0", "Later"))):
            await wait_until(lambda number=number: len(asked) == number + 1)
            assert not writes
            asked[number].callback(reply)
        assert await client.codes(7) == ["250", "250", "250", "550", "250", "450", "354"]
        assert len(writes) == 1


@pytest_twisted.ensureDeferred
async def test_every_cut_of_the_input_gives_the_same() -> None:
    dialog = GREETED + "DATA\r\none\r\n..two\r\n.\r\nRSET\r\nQUIT\r\n"
    async with playing() as play:
        client = await play.connect()
        for octet in dialog.encode():
            before = len(client.received)
            client.send(bytes([octet]))
            if octet == 10:
                await client.until(lambda before=before: len(client.received) > before or play.session.asked)
        await client.ended()
        assert [data for _, data in play.session.accepted] == [b"one\r\n.two\r\n"]
        assert re.findall(rb"^(\d{3}) ", client.received, re.M) == [
            b"220", b"250", b"250", b"250", b"354", b"250", b"250", b"221",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("raised", "expected", "logged"),
    [
        (RuntimeError("with details"), "451 4.3.0 Something failed here; try again later", 1),
        (DatabaseUnavailable("locked"), "451 4.3.0 Something failed here; try again later", 0),
        (QueueFull("the disk is full"), "452 4.3.1 Not enough storage; try again later", 0),
        (OSError(errno.ENOSPC, "No space left on device"), "452 4.3.1 Not enough storage; try again later", 0),
    ],
)
@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("what", ["mail", "rcpt", "data", "content"])
@pytest_twisted.ensureDeferred
async def test_a_failing_decision_is_bland_outside_and_full_in_the_log(
    said: list[Any], raised: Exception, expected: str, logged: int, when: str, what: str
) -> None:
    async def fail_later() -> Reply:
        raise raised

    def fail(*_: Any) -> Answer:
        if when == "later":
            return fail_later()
        raise raised

    async with playing(**{what: fail}) as play:
        client = await play.connect()
        client.send("EHLO client.test\r\n")
        replies = [await client.reply()]
        for line in ("MAIL FROM:<a@client.test>", "RCPT TO:<b@mx.test>", "DATA", "text\r\n."):
            replies.append(await client.say(line))
            if not replies[-1].startswith(("250", "354")):
                break
        assert replies[-1] == expected
        assert await client.say("NOOP") == "250 2.0.0 Ok", "the session lives on"
        assert len(errors(said)) == logged
        if logged:
            assert errors(said)[0]["log_failure"].value is raised
            assert "with details" not in client.received.decode()
    if logged:
        gc.collect()


@pytest_twisted.ensureDeferred
async def test_a_failing_greeting_is_421() -> None:
    async def fail(*_: Any) -> Reply:
        raise RuntimeError("no")

    async with playing(connected=fail) as play:
        client = await play.connect(greeted=False)
        assert (await client.reply()).startswith("421 4.3.0 ")
        await client.ended()
        assert play.count("sessions_total", outcome="turned_away") == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_talks_before_the_greeting_is_answered_after_it() -> None:
    answer, asked = later()
    async with playing(connected=answer) as play:
        client = await play.connect(greeted=False)
        client.send("EHLO client.test\r\nNOOP\r\n")
        await wait_until(lambda: asked)
        assert client.received == b""
        asked[0].callback(Reply(220, "", "mx.test"))
        assert await client.codes(3) == ["220", "250", "250"]


@pytest_twisted.ensureDeferred
async def test_one_who_is_turned_away_hears_why_and_nothing_else() -> None:
    async with playing(connected=lambda: Reply(421, "4.7.0", "Too often", close=True)) as play:
        client = await play.connect(greeted=False)
        assert await client.reply() == "421 4.7.0 Too often"
        await client.ended()
        assert client.received.count(b"\r\n") == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_frees_everything() -> None:
    answer, asked = later()
    async with playing(content=answer) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        await wait_until(lambda: asked)
        await client.close()
        await wait_until(lambda: not play.factory.open)
        assert play.session.is_lost
        asked[0].callback(OK)
        assert play.count("messages_total", outcome="accepted") == 1, "the decision counts though nobody hears it"


@pytest_twisted.ensureDeferred
async def test_a_client_that_says_everything_and_then_only_listens_is_answered() -> None:
    """As ``printf ... | nc -N`` does: its end of the connection is closed before our decisions are made."""
    answer, asked = later()
    async with playing(rcpt=answer) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        client.transport.loseWriteConnection()
        await wait_until(lambda: asked)
        (protocol,) = play.factory.open
        await wait_until(lambda: protocol._ended)
        asked[0].callback(OK)
        assert await client.codes(5) == ["250", "250", "250", "354", "250"]
        await client.ended()
        assert [data for _, data in play.session.accepted] == [b"text\r\n"]


@pytest_twisted.ensureDeferred
async def test_starttls_without_a_certificate_is_454() -> None:
    async with playing(config=ServerConfig(hostname="mx.test", starttls=True)) as play:
        client = await play.connect()
        await client.say("EHLO client.test")
        assert (await client.say("STARTTLS")).startswith("454 4.7.0 ")
        assert await client.say("NOOP") == "250 2.0.0 Ok"


@pytest_twisted.ensureDeferred
async def test_a_session_is_told_what_the_core_refused() -> None:
    async with playing(config=ServerConfig("mx.test", max_size=100)) as play:
        client = await play.connect()
        client.send("EHLO c.example\r\nMAIL FROM:<a@c.example> SIZE=101\r\n")
        assert await client.codes(2) == ["250", "552"]
        client.send("MAIL FROM:<a@c.example>\r\nRCPT TO:<b..c@x.example>\r\n")
        assert await client.codes(2) == ["250", "501"]
        told = [(each.reply.code, each.sender, each.recipient) for each in play.session.refusals]
        assert told == [(552, "a@c.example", ""), (501, "a@c.example", "b..c@x.example")]


@pytest_twisted.ensureDeferred
async def test_a_port_in_use_says_what_to_do() -> None:
    async with playing() as play:
        taken = Listener(play.listener.address, play.factory, setting="MAILFARM_TEST_LISTEN")
        with pytest.raises(ConfigurationError, match=r"cannot listen on 127.0.0.1:\d+: .*set MAILFARM_TEST_LISTEN"):
            await taken.start()
