"""The dialogs of tests/smtp/dialogs, played at a live server on loopback."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.task import deferLater

from mailfarm.config import Address
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net.content import SpillContent
from mailfarm.net.incoming_room import IncomingRoom
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.smtp_session import Answer, Connection
from mailfarm.net.tls import ServerTls, dev_certificate
from mailfarm.smtp.requests import Auth, Data, Discarded, End, Hello, Mail, Rcpt, Refused

_AT = Path(__file__).parent.parent / "smtp" / "dialog.py"
_SPEC: Any = importlib.util.spec_from_file_location("dialog_of_the_core", _AT)
dialog_of_the_core = importlib.util.module_from_spec(_SPEC)
sys.modules["dialog_of_the_core"] = dialog_of_the_core
_SPEC.loader.exec_module(dialog_of_the_core)

decide = dialog_of_the_core.decide
LIVE = [dialog for dialog in dialog_of_the_core.dialogs() if not dialog.pure_only]


class Told:
    """Decides as the dialogs' host does; every other decision takes a turn of the reactor."""

    def __init__(self, heard: Any, connection: Connection) -> None:
        self.heard = heard
        self.connection = connection
        self.asked = 0

    def _decide(self, question: Any) -> Answer:
        self.asked += 1
        reply = decide(question, None)
        return reply if self.asked % 2 else deferLater(reactor, 0, lambda: reply)

    def connected(self) -> Answer:
        return dialog_of_the_core.GREETING

    def hello(self, request: Hello) -> Answer:
        return self._decide(request)

    def authenticate(self, request: Auth) -> Answer:
        return self._decide(request)

    def mail(self, request: Mail) -> Answer:
        return self._decide(request)

    def rcpt(self, request: Rcpt) -> Answer:
        return self._decide(request)

    def data(self, envelope: Envelope) -> Answer:
        return self._decide(Data(envelope))

    async def content(self, envelope: Envelope, content: SpillContent) -> Reply:
        data = b"".join([chunk async for chunk in content.chunks()])
        reply = decide(End(envelope, content.size), None)
        self.heard.content(envelope, data, reply)
        return reply

    def discarded(self, request: Discarded) -> None:
        self.heard.discards.append(request)

    def refused(self, request: Refused) -> None:
        self.heard.refused.append(request)

    def lost(self) -> None:
        pass


class LivePlayer:
    def __init__(self, client: Client, heard: Any, cut: int) -> None:
        self.client = client
        self.heard = heard
        self.cut = cut
        self.last_reply: list[str] = []

    async def line(self) -> str:
        client = self.client
        at = client.taken
        await client.until(lambda: b"\r\n" in client.received[at:] or client.lost is not None)
        line, end, _ = client.received[at:].partition(b"\r\n")
        assert end, f"the server has no line to give: {client!r}"
        client.taken = at + len(line) + 2
        return line.decode()

    async def step(self, step: Any) -> None:
        client = self.client
        if step.verb == "send":
            # What is cut off behind STARTTLS is no plain text any more but a broken handshake.
            cut = len(step.octets) if b"STARTTLS" in step.octets else self.cut or len(step.octets) or 1
            for start in range(0, len(step.octets), cut):
                if client.lost is None:
                    client.send(step.octets[start : start + cut])
                if self.cut:
                    await deferLater(reactor, 0, lambda: None)
        elif step.verb == "line":
            found = await self.line()
            assert found.startswith(step.text), found
        elif step.verb == "reply":
            self.last_reply = [await self.line()]
            while self.last_reply[-1][3:4] == "-":
                self.last_reply.append(await self.line())
            assert all(line[:3] == step.text for line in self.last_reply), self.last_reply
        elif step.verb == "has":
            assert step.text in [line[4:] for line in self.last_reply], self.last_reply
        elif step.verb == "lacks":
            assert not any(line[4:].split(" ")[0] == step.text for line in self.last_reply), self.last_reply
        elif step.verb == "silence":
            # that nothing comes cannot be waited for
            await deferLater(reactor, 0.02, lambda: None)
            assert client.received[client.taken :] == b""
            assert client.lost is None
        elif step.verb == "closed":
            await client.ended()
            assert client.received[client.taken :] == b""
        elif step.verb == "tls":
            await client.start_tls()
        else:
            self.heard.check(step)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ServerTls:
    from datetime import UTC, datetime

    return ServerTls(dev_certificate(tmp_path_factory.mktemp("tls"), "mx.example", datetime.now(UTC)))


@pytest.mark.parametrize("cut", [0, 7])
@pytest.mark.parametrize("dialog", LIVE, ids=[dialog.name for dialog in LIVE])
@pytest_twisted.ensureDeferred
async def test_dialog(dialog: Any, cut: int, tls: ServerTls, tmp_path: Path) -> None:
    if cut and sum(len(step.octets) for step in dialog.steps) > 20_000:
        cut = 4096
    heard = dialog_of_the_core.Heard()
    # the dialogs' host without TLS is a listener without a certificate
    without = any(b"no-tls.example" in step.octets for step in dialog.steps)
    factory = SMTPFactory(
        dialog.config,
        lambda connection: Told(heard, connection),
        reactor,
        SMTPMetrics(CollectorRegistry(), "test"),
        caps=Caps(sweep=0.05),
        tls=None if without else tls,
        implicit_tls=dialog.implicit_tls,
        room=IncomingRoom(tmp_path),
    )
    listener = Listener(Address("127.0.0.1", 0), factory, setting="MAILFARM_TEST_LISTEN")
    await listener.start()
    client = await connect(listener.address.port, tls=dialog.implicit_tls)
    player = LivePlayer(client, heard, cut)
    try:
        for step in dialog.steps:
            try:
                await player.step(step)
            except AssertionError as error:
                raise AssertionError(f"{dialog.path.name}:{step.number}: {step}: {error}") from error
        assert client.received[client.taken :] == b""
    finally:
        await client.close()
        await listener.stop(0)
