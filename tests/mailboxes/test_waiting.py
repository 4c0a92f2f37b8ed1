"""Waiting for mail, in every way there is."""

from __future__ import annotations

import random

import pytest
import pytest_twisted
from mailbox_house import House, until
from test_feed import LossyBus
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall

from mailfarm.errors import Invalid, NotFound
from mailfarm.mailboxes import store
from mailfarm.mailboxes.feed import Feeds
from mailfarm.mailboxes.match import ALL, Criteria
from mailfarm.mailboxes.waiting import Need, Wait
from mailfarm.net.turns import Turns


class Waiting:
    """One wait and the answers it gave."""

    def __init__(self, house, feeds, mailbox, need, criteria=ALL, after=0):
        self.answers = []
        self.wait = Wait(
            feeds,
            house.database,
            house.spawn,
            mailbox.account,
            mailbox.id,
            criteria,
            need,
            self.answers.append,
            after,
        )

    async def begin(self):
        await self.wait.start()
        return self

    @property
    def answer(self):
        (answer,) = self.answers
        return answer

    async def answered(self):
        await until(lambda: self.answers)
        return self.answer


@pytest.fixture
def feeds(house):
    return Feeds(house.database, house.bus, house.spawn, Turns(reactor).next)


@pytest.fixture
def begin(house, feeds):
    async def begin(mailbox, need, criteria=ALL, after=0):
        return await Waiting(house, feeds, mailbox, need, criteria, after).begin()

    return begin


def subjects(answer):
    return [message.subject for message in answer.messages]


@pytest_twisted.ensureDeferred
async def test_what_is_there_answers_at_once(house, begin, feeds):
    mailbox = await house.mailbox()
    for n in range(3):
        await house.send(mailbox, subject=f"s{n}")
    waiting = await begin(mailbox, Need.at_least(1))
    assert (waiting.answer.kind, subjects(waiting.answer), waiting.answer.cursor) == ("found", ["s0"], 1)
    waiting = await begin(mailbox, Need.at_least(2), after=1)
    assert (subjects(waiting.answer), waiting.answer.cursor) == (["s1", "s2"], 3)
    assert len(feeds) == 0


@pytest_twisted.ensureDeferred
async def test_what_comes_later_answers_then(house, begin, feeds):
    mailbox = await house.mailbox()
    waiting = await begin(mailbox, Need.at_least(2), Criteria(subject="yes"))
    for subject in ("yes 1", "no", "yes 2", "yes 3"):
        await house.send(mailbox, subject=subject)
    assert subjects(waiting.answer) == ["yes 1", "yes 2"]
    assert waiting.answer.cursor == 3
    assert len(feeds) == 0


@pytest_twisted.ensureDeferred
async def test_waiting_again_after_the_cursor_skips_nothing_and_finds_nothing_twice(house, begin):
    mailbox = await house.mailbox()
    for n in range(7):
        await house.send(mailbox, subject=f"{'yes' if n % 2 == 0 else 'no'} {n}")
    found, cursor = [], 0
    for _ in range(4):
        answer = (await begin(mailbox, Need.at_least(1), Criteria(subject="yes"), cursor)).answer
        found += subjects(answer)
        cursor = answer.cursor
    assert found == ["yes 0", "yes 2", "yes 4", "yes 6"]


@pytest_twisted.ensureDeferred
async def test_exactly_so_many_until_the_time_out(house, begin):
    mailbox = await house.mailbox()
    await house.send(mailbox, subject="1")
    waiting = await begin(mailbox, Need.exactly(2))
    await house.send(mailbox, subject="2")
    assert waiting.answers == []
    waiting.wait.time_out()
    assert (waiting.answer.kind, subjects(waiting.answer), waiting.answer.cursor) == ("found", ["1", "2"], 2)
    too_few = await begin(mailbox, Need.exactly(3))
    too_few.wait.time_out()
    assert (too_few.answer.kind, len(too_few.answer.messages)) == ("timeout", 2)
    at_once = await begin(mailbox, Need.exactly(1))
    assert (at_once.answer.kind, subjects(at_once.answer)) == ("too-many", ["1", "2"])
    later = await begin(mailbox, Need.exactly(2))
    await house.send(mailbox, subject="3")
    assert (later.answer.kind, subjects(later.answer), later.answer.cursor) == ("too-many", ["1", "2", "3"], 3)
    nothing = await begin(mailbox, Need.exactly(0), after=3)
    nothing.wait.time_out()
    assert nothing.answer.kind == "found"


@pytest_twisted.ensureDeferred
async def test_none_until_the_time_out(house, begin):
    mailbox = await house.mailbox()
    waiting = await begin(mailbox, Need.none(), Criteria(subject="spam"))
    await house.send(mailbox, subject="ham")
    waiting.wait.time_out()
    assert (waiting.answer.kind, waiting.answer.messages, waiting.answer.cursor) == ("found", (), 1)
    waiting = await begin(mailbox, Need.none(), Criteria(subject="spam"))
    await house.send(mailbox, subject="spam")
    assert (waiting.answer.kind, subjects(waiting.answer)) == ("too-many", ["spam"])
    assert (await begin(mailbox, Need.none())).answer.kind == "too-many"


@pytest_twisted.ensureDeferred
async def test_a_deleted_message_no_longer_counts(house, begin):
    mailbox = await house.mailbox(retention=60)
    first = await house.send(mailbox, subject="1")
    count, exact = await begin(mailbox, Need.at_least(2)), await begin(mailbox, Need.exactly(1))
    await house.delete(mailbox, [first])
    await house.send(mailbox, subject="2")
    assert count.answers == exact.answers == []
    await house.send(mailbox, subject="3")
    assert subjects(count.answer) == ["2", "3"]
    assert exact.answer.kind == "too-many"


@pytest_twisted.ensureDeferred
async def test_text_is_waited_for_too(house, begin):
    mailbox = await house.mailbox()
    await house.send(mailbox, text="nothing")
    waiting = await begin(mailbox, Need.at_least(3), Criteria(contains="the code"))
    await house.send(mailbox, text="the  CODE is 1")
    await house.send(mailbox, visible="The code is 2")
    await house.send(mailbox, text="nothing", html="<p>The <b>code</b> is 3")
    assert [message.seq for message in (await waiting.answered()).messages] == [2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_a_stopped_wait_gives_no_answer_and_holds_nothing(house, begin, feeds):
    mailbox = await house.mailbox()
    waiting = await begin(mailbox, Need.at_least(1))
    waiting.wait.stop()
    waiting.wait.stop()
    waiting.wait.time_out()
    await house.send(mailbox)
    assert waiting.answers == []
    assert len(feeds) == 0
    assert not house.bus._topics


@pytest_twisted.ensureDeferred
async def test_a_wait_stopped_while_it_begins_holds_nothing(house, feeds):
    mailbox = await house.mailbox()
    waiting = Waiting(house, feeds, mailbox, Need.at_least(1))
    house.spawn(waiting.wait.start())
    waiting.wait.stop()
    await house.find(mailbox)
    await until(lambda: not house.bus._topics)
    assert len(feeds) == 0


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_goes_ends_the_wait(house, begin):
    mailbox = await house.mailbox()
    waiting = await begin(mailbox, Need.at_least(1))
    house.bus.publish(mailbox.id, await house.unit(store.delete, house.ids, house.account, mailbox.id))
    assert waiting.answer.kind == "closed"


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_waited_for(house, begin):
    mailbox = await house.mailbox()
    with pytest.raises(Invalid):
        await begin(mailbox, Need.at_least(1), after=1)
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    with pytest.raises(NotFound):
        await begin(mailbox, Need.at_least(1))
    for need in ((Need.at_least, 0), (Need.at_least, 10_001), (Need.exactly, -1), (Need.exactly, 10_001)):
        with pytest.raises(Invalid):
            need[0](need[1])


@pytest_twisted.ensureDeferred
async def test_a_mailbox_too_large_for_one_look_is_looked_through_and_nothing_is_missed(house, begin, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.scan.MOST", 5)
    mailbox = await house.mailbox()
    await house.file(*[house.item(mailbox, subject="yes" if n in (3, 27) else "no") for n in range(30)])
    waiting = await begin(mailbox, Need.at_least(3), Criteria(subject="yes"))
    await house.send(mailbox, subject="yes")
    assert [message.seq for message in (await waiting.answered()).messages] == [4, 28, 31]
    exact = await begin(mailbox, Need.exactly(3), Criteria(subject="yes"))
    exact.wait.time_out()
    assert (exact.answer.kind, exact.answer.cursor) == ("found", 31)


@pytest_twisted.ensureDeferred
async def test_who_falls_behind_what_is_kept_begins_anew(house, begin, feeds, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.EVENTS_KEPT", 5)
    monkeypatch.setattr("mailfarm.mailboxes.changes.TRIM", 1)
    mailbox = await house.mailbox()
    waiting = await begin(mailbox, Need.at_least(2), Criteria(subject="yes"))
    await house.file(*[house.item(mailbox, subject="yes" if n in (2, 15) else "no") for n in range(20)])
    await feeds.look()
    assert [message.seq for message in (await waiting.answered()).messages] == [3, 16]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(5))
async def test_many_waits_on_a_bus_that_loses_get_theirs_and_nothing_else(database_url, seed):
    chance = random.Random(seed)
    house = await House(database_url).open()
    feeds = Feeds(house.database, house.bus, house.spawn, Turns(reactor).next)
    bus = LossyBus(house.bus, chance)
    boxes = [await house.mailbox() for _ in range(4)]
    waits = []
    for n in range(40):
        box = chance.choice(boxes)
        waiting = Waiting(house, feeds, box, Need.at_least(1), Criteria(subject=f"mail {n}."))
        start = waiting.begin()
        if chance.random() < 0.5:
            await start
        else:
            house.spawn(start)
        waits.append((n, box, waiting))
        for event in (await house.file(house.item(box, subject=f"mail {n}."))).filed:
            bus.publish(box.id, event)
        if chance.random() < 0.2:
            await feeds.look()
    looking = LoopingCall(lambda: Deferred.fromCoroutine(feeds.look()))  # as a service does: some begin only now
    looking.start(0.05)
    for n, box, waiting in waits:
        answer = await waiting.answered()
        (message,) = answer.messages
        assert (message.mailbox, message.subject) == (box.id, f"mail {n}.")
    looking.stop()
    assert len(feeds) == 0
    assert not house.failures
    await house.close()
