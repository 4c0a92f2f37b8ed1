"""Watching an account: everybody is told, and telling leaves time for others."""

from __future__ import annotations

import json

import pytest
import pytest_twisted
from farm_api import pump
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from mailfarm.events import MailboxOpened
from mailfarm.services.live import watch as watch_module
from mailfarm.services.live.frames import EventFrames
from mailfarm.services.live.watch import LINE, LINGER, LONGEST, REST, Watch

ensure = pytest_twisted.ensureDeferred


class Turns:
    """Each turn of the others takes so long."""

    def __init__(self, clock, seconds=0.0):
        self.clock, self.seconds, self.count = clock, seconds, 0

    def next(self):
        self.count += 1
        self.clock.advance(self.seconds)
        return succeed(None)


@pytest.fixture
def clock():
    return Clock()


async def watched(farm, clock, turns, count):
    made = Watch(farm.account, farm.database, farm.bus, farm.spawn, turns.next, clock, EventFrames())
    heard = [[] for _ in range(count)]
    for each in heard:
        made.telling[lambda *told, each=each: each.append(told)] = None
    await made.start()
    farm.cleanup.append(lambda: succeed(made.stop()))
    return made, heard


def kinds(told):
    return [json.loads(octets[octets.index(b"{") :])["type"] for octets, _, _ in told]


@ensure
async def test_many_are_told_a_few_at_a_time(farm, clock, monkeypatch):
    monkeypatch.setattr(watch_module, "TOLD_AT_ONCE", 2)
    turns = Turns(clock)
    _, heard = await watched(farm, clock, turns, 5)
    farm.bus.publish(f"account:{farm.account}", MailboxOpened("e", farm.account, "box", 1, "a@b.test"))
    assert [kinds(told) for told in heard] == [["mailbox-opened"]] * 5
    assert turns.count == 2


@ensure
@pytest.mark.parametrize(("turn", "pause"), [(0.0, LINGER), (0.05, REST * 0.1), (5.0, LONGEST)])
async def test_after_a_telling_that_took_long_hints_wait_longer(farm, ask, clock, monkeypatch, turn, pause):
    monkeypatch.setattr(watch_module, "TOLD_AT_ONCE", 1)
    other = (await ask("POST", "/v1/mailboxes", {})).json
    _, heard = await watched(farm, clock, Turns(clock, turn), 3)
    box = (await ask("POST", "/v1/mailboxes", {})).json  # which three are told of
    (waiting,) = clock.getDelayedCalls()
    assert waiting.getTime() - clock.seconds() == pytest.approx(pause)
    await farm.file(other)
    clock.advance(pause)
    await pump(lambda: all(len(told) == 2 for told in heard))
    for told in heard:
        octets, closed, frames = told[-1]
        assert (closed, frames, octets.count(b'"type":"mailbox"')) == ("", 2, 2)
        assert all(each["id"].encode() in octets for each in (box, other))


@ensure
async def test_past_the_line_they_are_told_to_ask_again(farm, clock, monkeypatch):
    monkeypatch.setattr(watch_module, "TOLD_AT_ONCE", 1)

    class Held(Turns):
        def next(self):
            if not self.count:  # while the first waits for its turn, too much happens
                self.count += 1
                for n in range(LINE + 1):
                    farm.bus.publish(
                        f"account:{farm.account}", MailboxOpened(f"e{n}", farm.account, f"box{n}", 1, "a@b.test")
                    )
            return succeed(None)

    _, heard = await watched(farm, clock, Held(clock), 2)
    farm.bus.publish(f"account:{farm.account}", MailboxOpened("e", farm.account, "box", 1, "a@b.test"))
    assert [kinds(told) for told in heard] == [["mailbox-opened", "watching", "mailbox-opened"]] * 2
