"""WebSockets whose reader is slow, or has gone."""

from types import SimpleNamespace

import pytest_twisted
from farm_api import Browser, pump
from farm_live import connect, listen
from test_api_guard import serve
from twisted.internet.task import Clock

from mailfarm.services.live.connection import Connection
from mailfarm.services.live.frames import EventFrames

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_a_slow_consumer_is_noticed_also_behind_the_api(farm):
    live = await listen(farm, endpoints=(), slow_after=0.3)
    port = await serve(farm, websocket=live.resource)
    box = (await Browser(farm.api())("POST", "/v1/mailboxes", {})).json
    client = await connect(port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    client.transport.pauseProducing()
    for _ in range(500):
        await farm.file(box, "x" * 20_000)
        if not live.connections:
            break
    await pump(lambda: not len(farm.feeds))
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)
    assert client.ended[0] == 4008


@ensure
async def test_a_consumer_that_takes_nothing_is_dropped_and_goes_on_by_cursor(farm, ask):
    live = await listen(farm, slow_after=0.5)
    port = live.listening[0].port
    box = (await ask("POST", "/v1/mailboxes", {})).json
    slow = await connect(port)
    slow.say(op="subscribe", mailbox=box["id"])
    await slow.next("subscribed")
    slow.transport.pauseProducing()
    (served,) = live.connections
    count = 0
    while not served._full:
        for _ in range(50):
            await farm.file(box, "x" * 20_000, text="y")
            count += 1
        assert count < 3000
    held = 0
    for _ in range(60):
        await farm.file(box, "x" * 20_000, text="y")
        count += 1
        held = max(held, served._gathered.octets)
    assert held < 400 * 1024  # feeds paused: what comes is not gathered without end
    await pump(lambda: not live.connections or served.state != served.STATE_OPEN)
    slow.transport.resumeProducing()
    await slow.until(lambda self: self.ended)
    assert slow.ended[0] == 4008
    had = [one["seq"] for one in slow.of("filed")]
    assert had == list(range(1, len(had) + 1))
    assert len(had) < count
    again = await connect(port)
    again.say(op="subscribe", mailbox=box["id"], after=had[-1])
    await again.until(lambda self: len(self.of("filed")) == count - len(had))
    assert [one["seq"] for one in again.of("filed")] == list(range(had[-1] + 1, count + 1))


@ensure
async def test_a_consumer_that_pauses_and_goes_on_misses_nothing(farm, ask):
    live = await listen(farm, slow_after=30)
    box = (await ask("POST", "/v1/mailboxes", {})).json
    client = await connect(live.listening[0].port)
    client.say(op="subscribe", mailbox=box["id"])
    await client.next("subscribed")
    client.transport.pauseProducing()
    (served,) = live.connections
    count = 0
    while served._gathered.octets < 256 * 1024:
        await farm.file(box, "x" * 20_000)
        count += 1
        assert count < 3000
    for _ in range(20):
        await farm.file(box, "z")
        count += 1
    client.transport.resumeProducing()
    await client.until(lambda self: len(self.of("filed")) == count)
    assert [one["seq"] for one in client.of("filed")] == list(range(1, count + 1))


@ensure
async def test_stopping_cuts_off_who_does_not_answer(farm, monkeypatch):
    monkeypatch.setattr("mailfarm.services.live.service.CLOSING", 0.1)
    live = await listen(farm)
    client = await connect(live.listening[0].port)
    client.transport.pauseProducing()
    await live.stop()
    assert not live.connections
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)


def test_a_slow_reader_has_its_time_anew_with_each_piece_it_takes():
    clock = Clock()
    dropped = []
    connection = Connection()
    connection.factory = SimpleNamespace(live=SimpleNamespace(reactor=clock, slow_after=15.0, frames=EventFrames()))
    connection.state = connection.STATE_OPEN
    connection.drop = lambda *told: dropped.append(told)
    written = []

    class Transport:
        def write(self, data):
            written.append(data)
            connection.pauseProducing()  # full at once

    connection.transport = Transport()
    connection.send(b"x")
    for _ in range(3 * 64):
        connection.send(b"x" * 1024)
    for _ in range(3):
        clock.advance(14)
        connection.resumeProducing()
    assert [len(data) for data in written] == [1, *[64 * 1024] * 3]
    assert dropped == []
    clock.advance(16)
    assert dropped[0][0] == 4008
