"""A listener whose sessions decide what a test wants, and a client of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from loopback import Client, connect
from prometheus_client import CollectorRegistry
from twisted.internet import defer, reactor
from twisted.logger import LogLevel

from mailfarm.config import Address
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net.content import SpillContent
from mailfarm.net.incoming_room import IncomingRoom
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
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
        return self.factory.metrics_registry.get_sample_value(f"mailfarm_test_{name}", labels) or 0.0

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
    factory.metrics_registry = registry
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


def all_sent(client: Client) -> bool:
    return not client.transport.dataBuffer and not client.transport._tempDataLen


def errors(said: list[Any]) -> list[Any]:
    return [event for event in said if event["log_level"] in (LogLevel.error, LogLevel.critical)]


def deadlines(**seconds: float) -> ServerConfig:
    return ServerConfig(hostname="mx.test", deadlines=Deadlines(**seconds))
