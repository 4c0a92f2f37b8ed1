"""SMTP inside TLS: handshakes that do not end, back-pressure, deadlines and draining above a TLS layer."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_playing import FAST, GREETED, OK, Deciding, all_sent, later
from twisted.internet import defer, reactor

from mailfarm.config import Address
from mailfarm.mail.reply import Reply
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import READ_AHEAD, Caps, SMTPFactory
from mailfarm.net.tls import ServerTls, dev_certificate
from mailfarm.smtp.server import Deadlines, ServerConfig

NO_HURRY = Deadlines()


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    return ServerTls(dev_certificate(tmp_path_factory.mktemp("tls"), "mx.test", datetime.now(UTC)))


@pytest.fixture(params=["implicit", "starttls"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@asynccontextmanager
async def secured(
    tls: ServerTls, how: str, *, caps: Caps = FAST, deadlines: Deadlines = NO_HURRY, **answers: Any
) -> AsyncIterator[tuple[Listener, list[Deciding]]]:
    sessions: list[Deciding] = []

    def session(connection: Any) -> Deciding:
        sessions.append(Deciding(answers, connection))
        return sessions[-1]

    factory = SMTPFactory(
        ServerConfig("mx.test", starttls=how == "starttls", deadlines=deadlines),
        session,
        reactor,
        SMTPMetrics(CollectorRegistry(), "test"),
        caps=caps,
        tls=tls,
        implicit_tls=how == "implicit",
    )
    listener = Listener(Address("127.0.0.1", 0), factory, setting="X")
    await listener.start()
    try:
        yield listener, sessions
    finally:
        await listener.stop(0)
        assert not factory.open


async def inside(listener: Listener, how: str) -> Client:
    """A client that has its TLS and is greeted."""
    client = await connect(listener.address.port, tls=how == "implicit")
    assert (await client.reply()).startswith("220 ")
    if how == "starttls":
        await client.say("EHLO client.test")
        assert (await client.say("STARTTLS")).startswith("220 ")
        await client.start_tls()
    assert (await client.say("EHLO client.test")).startswith("250")
    return client


@pytest_twisted.ensureDeferred
async def test_mail_comes_in(tls: ServerTls, how: str) -> None:
    async with secured(tls, how) as (listener, sessions):
        client = await inside(listener, how)
        client.send(GREETED + "DATA\r\n")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        body = b"x" * 998 + b"\r\n"
        client.send(body * 3000 + b".\r\nQUIT\r\n")
        assert await client.codes(2) == ["250", "221"]
        await client.ended()
        assert [data for _, data in sessions[0].accepted] == [body * 3000]
        assert sessions[0].connection.tls.startswith("TLSv1.3 ")


@pytest.mark.parametrize("sent", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01"])
@pytest_twisted.ensureDeferred
async def test_a_handshake_that_does_not_end_is_cut(tls: ServerTls, how: str, sent: bytes) -> None:
    async with secured(tls, how, caps=Caps(sweep=0.05, handshake=0.2)) as (listener, sessions):
        client = await connect(listener.address.port)
        if how == "starttls":
            await client.reply()
            await client.say("EHLO client.test")
            await client.say("STARTTLS")
        client.send(sent)
        before = len(client.received)
        await client.ended()
        assert b"421" not in client.received[before:]
        await wait_until(lambda: sessions and sessions[0].is_lost)
        assert [session.asked for session in sessions] == [
            ["connected", "hello"] if how == "starttls" else ["connected"]
        ]


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest_twisted.ensureDeferred
async def test_who_is_not_let_in_is_cut_while_it_shakes_hands(tls: ServerTls, when: str) -> None:
    no = Reply(421, "4.7.0", "Too many", close=True)
    answer: defer.Deferred[Reply] = defer.Deferred()
    async with secured(tls, "implicit", connected=lambda: answer if when == "later" else no) as (listener, sessions):
        client = await connect(listener.address.port)
        await wait_until(lambda: sessions)
        answer.callback(no)
        await client.ended()
        assert client.received == b""
        await wait_until(lambda: sessions[0].is_lost)
        assert listener.factory.metrics.turned_away == 1


@pytest_twisted.ensureDeferred
async def test_who_is_let_in_late_is_greeted_once_the_handshake_is_over(tls: ServerTls) -> None:
    answer: defer.Deferred[Reply] = defer.Deferred()
    async with secured(tls, "implicit", connected=lambda: answer) as (listener, sessions):
        client = await connect(listener.address.port, tls=True)
        await wait_until(lambda: sessions and sessions[0].connection.tls)
        assert client.received == b""
        answer.callback(Reply(220, "", "welcome"))
        assert (await client.reply()).startswith("220 ")
        assert (await client.say("EHLO client.test")).startswith("250")
        await client.close()


@pytest_twisted.ensureDeferred
async def test_plain_text_instead_of_a_handshake_is_cut(tls: ServerTls, how: str) -> None:
    async with secured(tls, how) as (listener, _):
        client = await connect(listener.address.port)
        if how == "starttls":
            await client.reply()
            await client.say("EHLO client.test")
            await client.say("STARTTLS")
        client.send("MAIL FROM:<a@b.example>\r\n")
        await client.ended()
        assert b"\r\n503" not in client.received
        assert b"\r\n250 2.1.0" not in client.received


@pytest_twisted.ensureDeferred
async def test_a_client_that_stalls_is_told_421(tls: ServerTls, how: str) -> None:
    async with secured(tls, how, deadlines=Deadlines(command=0.3)) as (listener, _):
        client = await inside(listener, how)
        client.send("MAIL FRO")
        assert (await client.reply()).startswith("421 4.4.2 ")
        await client.ended()


@pytest_twisted.ensureDeferred
async def test_what_comes_while_a_decision_is_pending_is_not_read_without_bound(tls: ServerTls, how: str) -> None:
    answer, asked = later()
    async with secured(tls, how, content=answer) as (listener, _):
        client = await inside(listener, how)
        client.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        await wait_until(lambda: asked)
        (protocol,) = listener.factory.open
        core: Any = protocol._core
        lines = 200_000
        client.send(b"NOOP\r\n" * lines)
        await wait_until(lambda: not protocol._reading)
        held = core.buffered
        assert READ_AHEAD < held <= READ_AHEAD * 3
        asked[0].callback(OK)
        before = client.taken
        await client.until(lambda: client.received[before:].count(b"250 2.0.0 Ok\r\n") == lines, 25)
        await client.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_its_replies_late_goes_on_where_it_was(tls: ServerTls, how: str) -> None:
    async with secured(tls, how) as (listener, _):
        client = await inside(listener, how)
        (protocol,) = listener.factory.open
        client.transport.pauseProducing()
        raw = getattr(client.transport, "transport", client.transport)
        lines = 0
        while protocol._unread_since is None:
            assert lines < 4_000_000
            client.send(b"HELP\r\n" * 20_000)
            lines += 20_000
            await wait_until(lambda: protocol._unread_since is not None or all_sent_raw(raw), every=0.001)
        before = client.received.count(b"\r\n")
        client.send("QUIT\r\n")
        client.transport.resumeProducing()
        await client.ended(25)
        assert client.received.count(b"\r\n") == before + lines + 1
        assert client.received.endswith(b"221 2.0.0 Bye\r\n")


def all_sent_raw(transport: Any) -> bool:
    return not transport.dataBuffer and not transport._tempDataLen


@pytest_twisted.ensureDeferred
async def test_draining_lets_a_transaction_finish_and_cuts_a_handshake(tls: ServerTls, how: str) -> None:
    async with secured(tls, how) as (listener, sessions):
        shaking = await connect(listener.address.port)
        if how == "starttls":
            await shaking.reply()
            await shaking.say("EHLO client.test")
            await shaking.say("STARTTLS")
        busy = await inside(listener, how)
        idle = await inside(listener, how)
        busy.send(GREETED)
        assert await busy.codes(3) == ["250", "250", "250"]
        stopped = defer.ensureDeferred(listener.stop(20))
        await shaking.ended()
        assert (await idle.reply()).startswith("421 4.3.2 ")
        await idle.ended()
        busy.send("DATA\r\n")
        assert (await busy.reply()).startswith("354 ")
        busy.send("text\r\n.\r\n")
        assert (await busy.reply()).startswith("250 ")
        assert (await busy.reply()).startswith("421 4.3.2 ")
        await busy.ended()
        await stopped
        assert sum(len(session.accepted) for session in sessions) == 1


@pytest_twisted.ensureDeferred
async def test_above_the_cap_implicit_tls_is_closed_without_a_handshake(tls: ServerTls) -> None:
    async with secured(tls, "implicit", caps=Caps(sweep=0.05, max_sessions=1)) as (listener, _):
        first = await inside(listener, "implicit")
        second = await connect(listener.address.port)
        await second.ended()
        assert second.received == b""
        assert await first.say("NOOP") == "250 2.0.0 Ok"
        await first.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_in_the_middle_of_a_handshake_leaves_nothing(tls: ServerTls, how: str) -> None:
    async with secured(tls, how) as (listener, _):
        client = await connect(listener.address.port)
        if how == "starttls":
            await client.reply()
            await client.say("EHLO client.test")
            await client.say("STARTTLS")
        client.send(b"\x16\x03\x01")
        await wait_until(lambda: all_sent(client))
        await client.close()
        await wait_until(lambda: not listener.factory.open)
