"""SMTP sessions on real sockets: order, writes, back-pressure, deadlines, caps and draining."""

from __future__ import annotations

import errno
import gc
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from prometheus_client import CollectorRegistry
from twisted.internet import defer, reactor, task
from twisted.logger import LogLevel, globalLogPublisher

from mailfarm.config import Address
from mailfarm.errors import ConfigurationError, DatabaseUnavailable, QueueFull
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net import content as content_module
from mailfarm.net.content import SpillContent
from mailfarm.net.incoming_room import IN_ONE, IncomingRoom
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import READ_AHEAD, Caps, SMTPFactory
from mailfarm.net.smtp_session import Answer, Connection
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused
from mailfarm.smtp.server import Deadlines, ServerConfig

CONFIG = ServerConfig(hostname="mx.test", max_size=20 * 1024 * 1024)
OK = Reply(250, "2.1.0", "Ok")
GO = Reply(354, "", "Go ahead")
FAST = Caps(sweep=0.05)
GREETED = "EHLO client.test\r\nMAIL FROM:<a@client.test>\r\nRCPT TO:<b@mx.test>\r\n"


class Deciding:
    """A session that says yes to everything, or what a test puts into ``answers`` by the question's name."""

    def __init__(self, answers: dict[str, Callable[..., Answer]], connection: Connection) -> None:
        self.answers = answers
        self.connection = connection
        self.asked: list[str] = []
        self.accepted: list[tuple[Envelope, bytes]] = []
        self.discards: list[Discarded] = []
        self.refusals: list[Refused] = []
        self.is_lost = False

    def _answer(self, name: str, otherwise: Reply, *what: Any) -> Answer:
        self.asked.append(name)
        return self.answers[name](*what) if name in self.answers else otherwise

    def connected(self) -> Answer:
        return self._answer("connected", Reply(220, "", "mx.test ESMTP"))

    def hello(self, request: Hello) -> Answer:
        return self._answer("hello", OK, request)

    def authenticate(self, request: Auth) -> Answer:
        return self._answer("authenticate", Reply(235, "2.7.0", "Welcome"), request)

    def mail(self, request: Mail) -> Answer:
        return self._answer("mail", OK, request)

    def rcpt(self, request: Rcpt) -> Answer:
        return self._answer("rcpt", OK, request)

    def data(self, envelope: Envelope) -> Answer:
        return self._answer("data", GO, envelope)

    def content(self, envelope: Envelope, content: SpillContent) -> Answer:
        if "content" in self.answers:
            return self._answer("content", OK, envelope, content)
        return self._keep(envelope, content)

    async def _keep(self, envelope: Envelope, content: SpillContent) -> Reply:
        data = b"".join([chunk async for chunk in content.chunks()])
        self.accepted.append((envelope, data))
        return Reply(250, "2.0.0", "Accepted")

    def discarded(self, request: Discarded) -> None:
        self.discards.append(request)

    def refused(self, request: Refused) -> None:
        self.refusals.append(request)

    def lost(self) -> None:
        self.is_lost = True


class Playing:
    """A listener and the sessions it made."""

    def __init__(self, listener: Listener, sessions: list[Deciding]) -> None:
        self.listener = listener
        self.factory = listener.factory
        self.sessions = sessions
        self.clients: list[Client] = []

    @property
    def session(self) -> Deciding:
        return self.sessions[-1]

    def count(self, name: str, **labels: str) -> float:
        return self.factory.metrics_registry.get_sample_value(f"mailfarm_test_{name}", labels) or 0.0  # type: ignore[attr-defined]

    async def connect(self, greeted: bool = True) -> Client:
        client = await connect(self.listener.address.port)
        self.clients.append(client)
        if greeted:
            assert (await client.reply()).startswith("220 ")
        return client


@asynccontextmanager
async def playing(
    *,
    config: ServerConfig = CONFIG,
    caps: Caps = FAST,
    room: IncomingRoom | None = None,
    **answers: Callable[..., Answer],
) -> AsyncIterator[Playing]:
    sessions: list[Deciding] = []

    def session(connection: Connection) -> Deciding:
        sessions.append(Deciding(answers, connection))
        return sessions[-1]

    registry = CollectorRegistry()
    factory = SMTPFactory(config, session, reactor, SMTPMetrics(registry, "test"), caps=caps, room=room)
    factory.metrics_registry = registry  # type: ignore[attr-defined]
    listener = Listener(Address("127.0.0.1", 0), factory, setting="MAILFARM_TEST_LISTEN")
    await listener.start()
    play = Playing(listener, sessions)
    try:
        yield play
    finally:
        for client in play.clients:
            await client.close()
        await listener.stop(0.0)
        assert all(session.is_lost for session in sessions)
        assert not factory.open
        assert not factory._sweep.running


def later() -> tuple[Callable[..., Answer], list[defer.Deferred[Reply]]]:
    """A decision that a test makes when it likes."""
    asked: list[defer.Deferred[Reply]] = []

    def answer(*_: Any) -> Answer:
        asked.append(defer.Deferred())
        return asked[-1]

    return answer, asked


def spy_on_writes(play: Playing) -> list[bytes]:
    (protocol,) = play.factory.open
    writes: list[bytes] = []
    write = protocol.transport.write

    def spied(data: bytes) -> None:
        writes.append(data)
        write(data)

    protocol.transport.write = spied
    return writes


def all_sent(client: Client) -> bool:
    return not client.transport.dataBuffer and not client.transport._tempDataLen


@pytest.fixture
def said() -> Any:
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    yield events
    globalLogPublisher.removeObserver(events.append)


def errors(said: list[Any]) -> list[Any]:
    return [event for event in said if event["log_level"] in (LogLevel.error, LogLevel.critical)]


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
        await client.until(lambda: client.received.count(b"\r\n") >= 600_000, 25)
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


def deadlines(**seconds: float) -> ServerConfig:
    return ServerConfig(hostname="mx.test", deadlines=Deadlines(**seconds))


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
        reactor.callLater(1.0, waited.callback, None)  # type: ignore[attr-defined]
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
async def test_content_that_is_not_taken_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[SpillContent] = []
    real = content_module.SpillContent.__init__

    def spied(self: SpillContent, *rest: Any, **more: Any) -> None:
        made.append(self)
        real(self, *rest, **more)

    monkeypatch.setattr(content_module.SpillContent, "__init__", spied)
    config = ServerConfig(hostname="mx.test", max_size=1_000_000)
    async with playing(room=IncomingRoom(tmp_path, in_memory=256 * 1024), config=config) as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n" + "x" * 70 + "\r\n" + ("y" * 70 + "\r\n") * 20_000 + ".\r\n")
        assert await client.codes(5) == ["250", "250", "250", "354", "552"]
        assert made[-1].closed
        client.send("MAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n" + ("z" * 70 + "\r\n") * 8_000)
        assert await client.codes(3) == ["250", "250", "354"]
        await wait_until(lambda: made[-1].spilled)
        await client.close()
        await wait_until(lambda: made[-1].closed)
        assert len(made) == 2
        assert play.count("messages_total", outcome="discarded") >= 1


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_452_for_that_transaction_and_the_session_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: list[Any]
) -> None:
    def full(number: int, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with playing(room=IncomingRoom(tmp_path, in_memory=256 * 1024)) as play:
        client = await play.connect()
        client.send("EHLO client.test\r\n")
        assert (await client.reply()).startswith("250")
        big = "MAIL FROM:<>\r\nRCPT TO:<b@mx.test>\r\nDATA\r\n" + ("x" * 70 + "\r\n") * 8_000 + ".\r\n"
        with monkeypatch.context() as patched:
            patched.setattr(content_module, "_write_all", full)
            client.send(big)
            assert await client.codes(4) == ["250", "250", "354", "452"]
        assert b"452 4.3.1 " in client.received
        assert "No space left" in errors(said)[0]["why"]
        client.send(big)
        assert await client.codes(4) == ["250", "250", "354", "250"]
        assert len(play.session.accepted) == 1


@pytest_twisted.ensureDeferred
async def test_empty_content_is_content() -> None:
    async with playing() as play:
        client = await play.connect()
        client.send(GREETED + "DATA\r\n.\r\n")
        assert await client.codes(5) == ["250", "250", "250", "354", "250"]
        assert [data for _, data in play.session.accepted] == [b""]


@pytest_twisted.ensureDeferred
async def test_starttls_without_a_certificate_is_454() -> None:
    async with playing(config=ServerConfig(hostname="mx.test", starttls=True)) as play:
        client = await play.connect()
        await client.say("EHLO client.test")
        assert (await client.say("STARTTLS")).startswith("454 4.7.0 ")
        assert await client.say("NOOP") == "250 2.0.0 Ok"


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


def in_memory(protocol: Any) -> int:
    """The octets of content a session keeps in memory, here and in the core."""
    content = protocol._incoming.content
    kept = 0 if content is None else content.in_memory
    return kept + protocol._core.buffered + len(protocol._core.content._gathered)


@pytest_twisted.ensureDeferred
async def test_many_large_messages_at_once_cost_little_memory(tmp_path: Path) -> None:
    """Twenty of 8 MB in flight: each keeps 2 MiB at most in memory, counted where it is kept."""
    line = b"x" * 998 + b"\r\n"
    count, lines = 20, 8 * 1024
    async with playing(room=IncomingRoom(tmp_path)) as play:
        clients = [await play.connect() for _ in range(count)]
        for client in clients:
            client.send(GREETED + "DATA\r\n")
            assert await client.codes(4) == ["250", "250", "250", "354"]
        block = line * 1024
        sizes: list[int] = []
        for _ in range(lines // 1024):
            for client in clients:
                client.send(block)
            await wait_until(lambda: all(all_sent(client) for client in clients))
            sizes.append(sum(in_memory(protocol) for protocol in play.factory.open))
        assert max(sizes) <= count * (IN_ONE + 256 * 1024)
        for client in clients:
            client.send(b".\r\n")
            assert (await client.reply()).startswith("250 ")
        assert sum(len(data) for session in play.sessions for _, data in session.accepted) == count * lines * 1000


@pytest_twisted.ensureDeferred
async def test_content_of_all_sessions_together_has_so_much_memory_and_the_rest_is_in_files(tmp_path: Path) -> None:
    """Each stays below what one session may keep in memory, and holds back its end."""
    room = IncomingRoom(tmp_path, in_memory=1024 * 1024)
    line = b"x" * 998 + b"\r\n"
    async with playing(room=room) as play:
        clients = [await play.connect() for _ in range(20)]
        for client in clients:
            client.send(GREETED + "DATA\r\n")
            assert await client.codes(4) == ["250", "250", "250", "354"]
            client.send(line * 250)
        await wait_until(lambda: all(protocol._incoming is not None for protocol in play.factory.open))
        await wait_until(lambda: sum(p._incoming.content.size for p in play.factory.open) >= 20 * 200_000)  # type: ignore[union-attr]
        contents = [protocol._incoming.content for protocol in play.factory.open]  # type: ignore[union-attr]
        kept = sum(content.in_memory for content in contents if content is not None)
        assert kept == room.held <= 1024 * 1024
        assert sum(content.spilled for content in contents if content is not None) >= 15
        for client in clients[1:]:
            client.send(b".\r\n")
            assert (await client.reply()).startswith("250 ")
        await clients[0].close()
        await wait_until(lambda: len(play.factory.open) == 19)
        del contents
    assert room.held == 0
    assert all(content == line * 250 for session in play.sessions for _, content in session.accepted)


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
    assert factory.came(late)  # type: ignore[arg-type]  # it is asked for no more than this
    for _ in range(10):
        clock.advance(0.1)
    assert all(len(each.at) == 2 for each in sessions)
    assert (len(gone.at), len(late.at)) == (1, 1)
    for each in (*sessions, late):
        factory.went(each)
    assert not factory._sweep.running
