"""Who stalls, floods or does not go: deadlines, back-pressure, caps and draining."""

from __future__ import annotations

from typing import Any

import pytest
import pytest_twisted
from loopback import connect, wait_until
from prometheus_client import CollectorRegistry
from smtp_playing import CONFIG, GREETED, OK, Deciding, all_sent, deadlines, errors, later, playing
from twisted.internet import defer, reactor, task

from mailfarm.mail.reply import Reply
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import READ_AHEAD, Caps, SMTPFactory


@pytest_twisted.ensureDeferred
async def test_what_is_sent_while_a_decision_is_pending_is_not_read_without_bound() -> None:
    answer, asked = later()
    async with playing(content=answer) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        client.send("text\r\n.\r\n")
        await wait_until(lambda: asked)
        (protocol,) = play.factory.open
        core: Any = protocol._core
        batch = b"NOOP\r\n" * 10_000
        for _ in range(60):
            client.send(batch)
        await wait_until(lambda: not protocol._reading)
        held = core.buffered
        assert READ_AHEAD < held <= READ_AHEAD + 128 * 1024
        await wait_until(lambda: client.transport.producerPaused or len(client.transport.dataBuffer) > 0)
        assert core.buffered == held, "nothing more is read"
        asked[0].callback(OK)
        await client.until(lambda: len(client.received) >= 600_000 * len(b"250 2.0.0 Ok\r\n"), 25)
        assert not core.buffered


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_its_replies_is_not_read_either_and_cut_in_the_end() -> None:
    caps = Caps(sweep=0.05, unread=0.5)
    async with playing(caps=caps) as play:
        client = await play.connect()
        (protocol,) = play.factory.open
        client.transport.pauseProducing()
        help_ = b"HELP\r\n" * 20_000
        sent = 0
        while protocol._unread_since is None:
            client.send(help_)
            sent += 1
            assert sent < 400
            await wait_until(lambda: protocol._unread_since is not None or all_sent(client), every=0.001)
        waiting = len(protocol.transport.dataBuffer) + protocol.transport._tempDataLen
        core: Any = protocol._core
        assert waiting < 3 * 1024 * 1024
        assert core.buffered <= READ_AHEAD * 3
        await wait_until(lambda: not play.factory.open)
        assert play.count("aborted_total") == 1
        client.transport.resumeProducing()
        await client.ended()


@pytest_twisted.ensureDeferred
async def test_a_client_that_reads_again_goes_on_where_it_was() -> None:
    async with playing() as play:
        client = await play.connect()
        (protocol,) = play.factory.open
        client.transport.pauseProducing()
        lines = 0
        while protocol._unread_since is None:
            client.send(b"HELP\r\n" * 20_000)
            lines += 20_000
            await wait_until(lambda: protocol._unread_since is not None or all_sent(client), every=0.001)
        client.send("QUIT\r\n")
        client.transport.resumeProducing()
        await client.ended(25)
        assert client.received.count(b"\r\n") == lines + 2
        assert client.received.endswith(b"221 2.0.0 Bye\r\n")


@pytest.mark.parametrize(
    ("said_first", "dribble"),
    [
        ("", b""),
        ("", b"N"),
        ("EHLO client.test\r\n", b""),
        ("EHLO client.test\r\n", b"MAIL FROM:<"),
        (GREETED, b""),
        (GREETED, b"D"),
    ],
    ids=["silent", "part of a command", "after EHLO", "half of MAIL", "after RCPT", "half of DATA"],
)
@pytest_twisted.ensureDeferred
async def test_a_client_that_stalls_in_commands_is_told_421(said_first: str, dribble: bytes) -> None:
    async with playing(config=deadlines(command=0.3)) as play:
        client = await play.connect()
        client.send(said_first.encode() + dribble)
        await client.until(lambda: b"421 4.4.2 " in client.received)
        await client.ended()
        assert play.count("timeouts_total") == 1


@pytest.mark.parametrize("sent", [b"", b"half a li", b"a line\r\n", b"a line\r\n."])
@pytest_twisted.ensureDeferred
async def test_a_client_that_stalls_in_its_content_is_told_421(sent: bytes) -> None:
    async with playing(config=deadlines(data_block=0.3)) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        client.send(sent)
        assert (await client.reply()).startswith("421 4.4.2 ")
        await client.ended()
        assert len(play.session.discards) == 1
        assert not play.session.accepted


@pytest.mark.parametrize("phase", ["command", "content"])
@pytest_twisted.ensureDeferred
async def test_an_octet_now_and_then_does_not_keep_a_session(phase: str) -> None:
    async with playing(config=deadlines(command=0.5, data_block=0.5)) as play:
        client = await play.connect()
        if phase == "content":
            client.send(GREETED + "DATA\r\n")
            assert await client.codes(4) == ["250", "250", "250", "354"]
        from twisted.internet.task import LoopingCall

        dribble = LoopingCall(lambda: client.send(b"x"))
        ended = dribble.start(0.05)
        try:
            await client.ended()
        finally:
            dribble.stop()
            await ended
        assert b"421 4.4.2 " in client.received


@pytest_twisted.ensureDeferred
async def test_a_decision_that_takes_for_ever_is_answered_for_and_the_session_goes_on(said: list[Any]) -> None:
    answer, asked = later()
    caps = Caps(sweep=0.05, decision=0.3)
    async with playing(caps=caps, content=answer, config=deadlines(command=5.0)) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        assert (await client.say("text\r\n.")).startswith("451 4.3.0 ")
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        asked[0].callback(OK)  # too late: nobody is told
        assert await client.say("NOOP") == "250 2.0.0 Ok"
        assert client.received.count(b"250 2.1.0 Ok") == 2
        assert len(errors(said)) == 1


@pytest_twisted.ensureDeferred
async def test_the_time_a_decision_takes_is_not_the_clients() -> None:
    answer, asked = later()
    async with playing(content=answer, config=deadlines(command=0.3, data_block=0.3, transaction=0.6)) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        await wait_until(lambda: asked)
        waited: defer.Deferred[None] = defer.Deferred()
        reactor.callLater(1.0, waited.callback, None)
        await waited
        asked[0].callback(OK)
        assert await client.codes(5) == ["250", "250", "250", "354", "250"]


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_go_is_cut() -> None:
    async with playing(caps=Caps(sweep=0.05, leave=0.2)) as play:
        client = await play.connect()
        client.transport.pauseProducing()
        (protocol,) = play.factory.open
        # more than the kernel takes for a client that does not read, then good-bye
        protocol.transport.write(b"250 x\r\n" * 2_000_000)
        protocol._leave()
        await wait_until(lambda: not play.factory.open)
        client.transport.resumeProducing()
        await client.ended()
        assert play.count("aborted_total") == 1


@pytest_twisted.ensureDeferred
async def test_there_is_a_cap_on_sessions() -> None:
    async with playing(caps=Caps(sweep=0.05, max_sessions=2)) as play:
        first, second = await play.connect(), await play.connect()
        third = await play.connect(greeted=False)
        assert (await third.reply()).startswith("421 4.3.2 ")
        await third.ended()
        assert play.count("sessions_total", outcome="full") == 1
        await first.close()
        await wait_until(lambda: len(play.factory.open) == 1)
        fourth = await play.connect()
        assert await fourth.say("NOOP") == "250 2.0.0 Ok"
        assert await second.say("NOOP") == "250 2.0.0 Ok"
        assert play.count("sessions_open") == 2


@pytest_twisted.ensureDeferred
async def test_draining_while_the_greeting_is_decided_says_421_and_nothing_else() -> None:
    answer, asked = later()
    async with playing(connected=answer) as play:
        client = await play.connect(greeted=False)
        await wait_until(lambda: asked)
        stopped = defer.ensureDeferred(play.listener.stop(20))
        await wait_until(lambda: play.factory.draining)
        asked[0].callback(Reply(220, "", "mx.test"))
        await client.ended()
        await stopped
        assert client.received.startswith(b"421 4.3.2 ")
        assert client.received.count(b"\r\n") == 1


@pytest_twisted.ensureDeferred
async def test_draining_ends_idle_sessions_and_lets_transactions_finish() -> None:
    answer, asked = later()
    async with playing(content=answer) as play:
        idle, busy, deciding = await play.connect(), await play.connect(), await play.connect()
        await idle.say("EHLO idle.test")
        busy.send(GREETED)
        assert await busy.codes(3) == ["250", "250", "250"]
        deciding.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        await wait_until(lambda: len(asked) == 1)
        port = play.listener.address.port
        stopped = defer.ensureDeferred(play.listener.stop(20))
        assert (await idle.reply()).startswith("421 4.3.2 ")
        await idle.ended()
        with pytest.raises(Exception, match="refused"):
            await connect(port)
        assert (await busy.say("DATA")).startswith("354 ")
        busy.send("text\r\n.\r\n")
        await wait_until(lambda: len(asked) == 2)
        assert not stopped.called
        for each, client in zip(asked, (deciding, busy), strict=True):
            each.callback(OK)
            await client.ended()
            assert b"250 2.1.0 Ok\r\n421 4.3.2 " in client.received[-200:]
        await stopped


@pytest_twisted.ensureDeferred
async def test_what_does_not_finish_within_the_grace_is_cut() -> None:
    answer, asked = later()
    async with playing(content=answer) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\ntext\r\n.\r\n")
        await wait_until(lambda: asked)
        await play.listener.stop(0.2)
        await client.ended()
        # RFC 5321 §3.8: not without a word
        assert client.received.endswith(
            b"354 End data with <CR><LF>.<CR><LF>\r\n421 4.3.2 Shutting down; try again soon\r\n"
        )
        assert not play.factory.open
        assert not play.session.discards, "the session has the content, and may be storing it"


@pytest_twisted.ensureDeferred
async def test_what_is_cut_in_the_midst_of_its_content_is_told_why() -> None:
    async with playing() as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\nhalf a line")
        assert await client.codes(4) == ["250", "250", "250", "354"]
        await play.listener.stop(0.1)
        await client.ended()
        assert client.received.endswith(b"\r\n421 4.3.2 Shutting down; try again soon\r\n")
        assert len(play.session.discards) == 1
        assert play.session.is_lost


def test_a_sweep_looks_at_each_session_once_a_tenth_of_them_at_a_time() -> None:
    class Looked:
        def __init__(self) -> None:
            self.at: list[float] = []

        def check_deadlines(self, now: float) -> None:
            self.at.append(now)

    clock: Any = task.Clock()
    factory = SMTPFactory(
        CONFIG, lambda connection: Deciding({}, connection), clock, SMTPMetrics(CollectorRegistry(), "t")
    )
    sessions: list[Any] = [Looked() for _ in range(95)]
    for each in sessions:
        assert factory.came(each)
    for _ in range(10):
        before = sum(len(each.at) for each in sessions)
        clock.advance(0.1)
        assert sum(len(each.at) for each in sessions) - before <= 10
    assert all(len(each.at) == 1 for each in sessions)
    gone, late = sessions.pop(), Looked()
    factory.went(gone)
    assert factory.came(late)
    for _ in range(10):
        clock.advance(0.1)
    assert all(len(each.at) == 2 for each in sessions)
    assert (len(gone.at), len(late.at)) == (1, 1)
    for each in (*sessions, late):
        factory.went(each)
    assert not factory._sweep.running
