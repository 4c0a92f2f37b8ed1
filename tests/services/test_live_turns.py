"""What concerns thousands of WebSockets is done in turns: pings, ends, hints."""

from functools import partial

import pytest
import pytest_twisted
from farm_api import pump
from farm_live import connect, listen
from twisted.internet import reactor
from twisted.internet.task import Clock

from mailfarm.events import LOOKUP, Revoked
from mailfarm.mailboxes.feed import Feeds
from mailfarm.net.turns import Turns

ensure = pytest_twisted.ensureDeferred


@ensure
async def test_a_client_that_answers_no_ping_is_dropped(farm):
    live = await listen(farm, heartbeat=0.2)
    client = await connect(live.listening[0].port)
    client.transport.pauseProducing()
    await pump(lambda: not live.connections)
    client.transport.resumeProducing()
    await client.until(lambda self: self.ended)


class CountedTurns(Turns):
    """Turns, and how many were taken."""

    taken = 0

    def next(self):
        self.taken += 1
        return super().next()


@pytest.fixture
def turns(farm, monkeypatch):
    """Two have their turn, then others."""
    monkeypatch.setattr("mailfarm.services.live.service.AT_ONCE", 2)
    monkeypatch.setattr("mailfarm.services.live.watch.TOLD_AT_ONCE", 2)
    turns = CountedTurns(reactor)
    farm.feeds = Feeds(farm.database, farm.bus, farm.spawn, turns.next)
    return turns


@ensure
async def test_all_are_pinged_in_turns_and_who_answers_stays(farm, turns):
    live = await listen(farm, heartbeat=0.2)
    clients = [await connect(live.listening[0].port) for _ in range(5)]
    pinged = [0] * len(clients)

    def watched(number):
        def ping(payload):
            pinged[number] += 1
            clients[number].sendPong(payload)

        return ping

    for number, client in enumerate(clients):
        client.onPing = watched(number)
    await pump(lambda: min(pinged) >= 3)  # the third comes to those only who answered the second
    assert len(live.connections) == 5
    assert turns.taken
    assert list(live.connections.values()) == sorted(live.connections.values())


@ensure
async def test_a_ping_is_due_once_in_a_heartbeat(farm, turns):
    clock = Clock()
    live = await listen(farm, reactor=clock, heartbeat=30.0)
    clients = [await connect(live.listening[0].port) for _ in range(5)]
    pinged = []
    for served in live.connections:
        served.ping = partial(pinged.append, served)
    clock.advance(29.0)
    assert not pinged
    clock.advance(3.0)
    await pump(lambda: len(pinged) == 5)
    assert pinged == list(live.connections)
    assert turns.taken == 2
    clock.advance(3.0)
    assert len(pinged) == len(clients)


@ensure
async def test_a_ping_that_fails_is_logged_and_the_others_are_pinged(farm, logged):
    clock = Clock()
    live = await listen(farm, reactor=clock, heartbeat=30.0)
    clients = [await connect(live.listening[0].port) for _ in range(3)]
    pinged = []
    first, *others = live.connections
    first.ping = lambda: [][0]
    for served in others:
        served.ping = partial(pinged.append, served)
    for _ in range(24):
        clock.advance(3.0)
    assert pinged == others * 2
    assert [entry["log_failure"].type for entry in logged] == [IndexError] * 2
    logged.clear()
    assert len(live.connections) == len(clients)


@ensure
async def test_thousands_with_one_token_are_ended_in_turns(farm, turns):
    live = await listen(farm, account=None)
    token = await farm.token()
    clients = [await connect(live.listening[0].port, authorization=f"Bearer {token}") for _ in range(5)]
    caller = next(iter(live.connections)).caller
    farm.bus.publish(LOOKUP, Revoked("e1", farm.account, 0, "token", caller.token))
    for client in clients:
        await client.until(lambda self: self.ended)
        assert client.ended[0] == 4401
    assert turns.taken == 2


@ensure
async def test_many_hints_for_many_are_told_in_turns(farm, turns):
    live = await listen(farm)
    heard = [[] for _ in range(3)]

    def tell(number, octets, closed, frames=1):
        heard[number].append(octets)

    for number in range(3):
        await live.watch(farm.account, partial(tell, number))
    (watch,) = live._watches.values()
    watch._telling = True  # as while others are told
    for number in range(4):
        watch._tell(b"%d" % number, "")
    await watch._tell_line()
    assert heard == [[b"0", b"1", b"2", b"3"]] * 3
    assert turns.taken == 2  # four hints each, so one watcher a turn
