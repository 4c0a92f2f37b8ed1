"""The Twisted client's events against a WebSocket that does what a real server seldom does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import pytest_twisted
from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from driving import BOX, TIME, summary
from twisted.internet import reactor
from twisted.internet.task import deferLater

from mailfarm.sdk import CannotConnect, NoSuchMailbox, NotAllowed
from mailfarm.sdk.events import Following
from mailfarm.sdk.twisted_events import MANY, TwistedEvents
from mailfarm.sdk.verbs import Criteria
from mailfarm.sdk.wire import Server


class Script(WebSocketServerProtocol):
    """Answers each frame by the next step: frames to send, or a close code."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.heard.append(json.loads(payload))
        for frame in self.factory.script.pop(0):
            if isinstance(frame, int):
                self.sendClose(frame, "as scripted")
            else:
                self.sendMessage(json.dumps(frame).encode())


@pytest.fixture
def script() -> Iterator[Any]:
    """A factory that listens at ``url``, whose ``script`` is to be set and whose ``heard`` are the client's frames."""
    factory = WebSocketServerFactory(reactor=reactor)
    factory.protocol = Script
    factory.heard, factory.script = [], []
    port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    factory.url = f"http://127.0.0.1:{port.getHost().port}"
    yield factory
    port.stopListening()


def events(url: str, **more: Any) -> TwistedEvents[Any]:
    following = Following(str(BOX["id"]), Criteria(), 0)
    return TwistedEvents(reactor, Server(url), None, following, lambda each: each, more.get("timeout"))


def filed(seq: int) -> dict[str, Any]:
    return {"type": "filed", "mailbox": BOX["id"], "seq": seq, "at": TIME, "message": summary(seq)}


@pytest_twisted.ensureDeferred
async def test_after_a_resync_it_subscribes_again(script: Any) -> None:
    resync = {"type": "resync", "mailbox": BOX["id"], "oldest": 50, "cursor": 90}
    script.script = [[resync], [filed(90), filed(91)]]
    async with events(script.url) as coming:
        first, second = await coming.next(), await coming.next()
    assert (first.type, first.seq) == ("resync", 90)
    assert (second.type, second.seq) == ("filed", 91)
    assert [each["after"] for each in script.heard] == [0, 90]


@pytest_twisted.ensureDeferred
async def test_dropped_for_being_slow_it_goes_on(script: Any) -> None:
    script.script = [[filed(1), filed(2), 4008], [filed(2), filed(3)]]
    async with events(script.url) as coming:
        assert [(await coming.next()).seq for _ in range(3)] == [1, 2, 3]
    assert [each["after"] for each in script.heard] == [0, 2]


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_stops_reading_and_misses_nothing(script: Any) -> None:
    script.script = [[filed(number) for number in range(1, 3 * MANY)]]
    async with events(script.url) as coming:
        assert (await coming.next()).seq == 1
        while len(coming._heard) < MANY:
            await a_turn()
        for _ in range(20):
            await a_turn()
        assert len(coming._heard) < 2 * MANY
        assert [(await coming.next()).seq for _ in range(2, 3 * MANY)] == list(range(2, 3 * MANY))


async def a_turn() -> None:
    """One turn of the reactor."""
    await deferLater(reactor, 0.001)


@pytest_twisted.ensureDeferred
async def test_what_ends_it(script: Any) -> None:
    script.script = [[4401]]
    with pytest.raises(NotAllowed):
        await events(script.url).next()
    gone = {"type": "problem", "problem": "/v1/problems/not-found", "title": "no", "status": 404, "detail": "no"}
    script.script = [[gone]]
    async with events(script.url) as coming:
        with pytest.raises(NoSuchMailbox):
            await coming.next()
    script.script = [[{"type": "mailbox-closed", "mailbox": BOX["id"], "at": TIME}]]
    assert [each.type async for each in events(script.url)] == ["mailbox-closed"]
    script.script = [[]]
    assert [each async for each in events(script.url, timeout=0.1)] == []


@pytest_twisted.ensureDeferred
async def test_nobody_there(nobody: str) -> None:
    with pytest.raises(CannotConnect, match="mailfarm dev"):
        await events(nobody).next()
