"""Feeds: every change, in order, once, whatever the bus does to its hints."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import pytest_twisted
from mailbox_house import House, until
from twisted.internet import reactor

from mailfarm.errors import CursorTooOld, DatabaseUnavailable, Invalid, NotFound
from mailfarm.events import Filed, MailboxClosed
from mailfarm.mailboxes import messages, store
from mailfarm.mailboxes.feed import Feeds
from mailfarm.mailboxes.match import Criteria
from mailfarm.net.turns import Turns


class LossyBus:
    """A real bus that loses, doubles and reorders what is published on it."""

    def __init__(self, bus, chance):
        self._bus = bus
        self._chance = chance
        self._held = []

    def publish(self, topic, event):
        what = self._chance.random()
        if what < 0.25:
            return
        self._held.append((topic, event))
        if what < 0.5:
            self._held.append((topic, event))
        if what < 0.6:
            return
        self._chance.shuffle(self._held)
        held, self._held = self._held, []
        for topic_, event_ in held:
            self._bus.publish(topic_, event_)

    def subscribe(self, topic, hear):
        return self._bus.subscribe(topic, hear)


class Counting:
    """The real database, which counts reads and can be made to fail."""

    def __init__(self, database):
        self._database = database
        self.reads = 0
        self.away = False

    def read(self, work, *, once=False):
        self.reads += 1
        if self.away:
            raise DatabaseUnavailable("away")
        return self._database.read(work, once=once)


@pytest.fixture
def database(house):
    return Counting(house.database)


@pytest.fixture
def feeds(house, database):
    return Feeds(database, house.bus, house.spawn, Turns(reactor).next)


def numbers(told):
    return [change.seq for change in told]


@pytest_twisted.ensureDeferred
async def test_a_change_in_order_is_told_without_reading_the_database(house, feeds, database):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    reads = database.reads
    for _ in range(5):
        await house.send(mailbox)
    assert numbers(told) == [1, 2, 3, 4, 5]
    assert database.reads == reads


@pytest_twisted.ensureDeferred
async def test_what_was_before_comes_first_and_ready_before_that(house, feeds):
    mailbox = await house.mailbox()
    for _ in range(3):
        await house.send(mailbox)
    told = []
    feed = await feeds.follow(
        house.account,
        mailbox.id,
        1,
        lambda heard: told.extend(change.seq for change in heard),
        ready=lambda at: told.append(("ready", at)),
    )
    await until(lambda: len(told) == 3)
    await house.send(mailbox)
    assert told == [("ready", 1), 2, 3, 4]
    assert feed.cursor == 4


@pytest_twisted.ensureDeferred
async def test_what_the_bus_never_told_is_found_by_looking(house, feeds):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    await house.file(house.item(mailbox), house.item(mailbox))
    assert told == []
    await feeds.look()
    await until(lambda: numbers(told) == [1, 2])


@pytest_twisted.ensureDeferred
async def test_one_look_is_one_query_for_all_mailboxes(house, feeds, database):
    boxes = [await house.mailbox() for _ in range(20)]
    for box in boxes:
        await feeds.follow(house.account, box.id, None, lambda told: None)
    assert len(feeds) == 20
    reads = database.reads
    await feeds.look()
    assert database.reads == reads + 1


@pytest_twisted.ensureDeferred
async def test_a_gap_is_filled_by_one_read_for_all_who_miss_the_same(house, feeds, database):
    mailbox = await house.mailbox()
    many = [[] for _ in range(10)]
    for told in many:
        await feeds.follow(house.account, mailbox.id, None, told.extend)
    await house.file(house.item(mailbox), house.item(mailbox))
    reads = database.reads
    await house.send(mailbox)
    await until(lambda: all(numbers(told) == [1, 2, 3] for told in many))
    assert database.reads == reads + 1


@pytest_twisted.ensureDeferred
async def test_old_and_doubled_hints_are_passed_over(house, feeds):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    (filed,) = (await house.file(house.item(mailbox))).filed
    for _ in range(3):
        house.bus.publish(mailbox.id, filed)
    assert numbers(told) == [1]


@pytest_twisted.ensureDeferred
async def test_a_hint_of_what_cannot_be_read_yet_is_waited_for(house, feeds):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    (filed,) = (await house.file(house.item(mailbox))).filed
    house.bus.publish(mailbox.id, replace(filed, seq=9))
    await until(lambda: numbers(told) == [1])
    await until(lambda: not feeds._filling)
    await house.send(mailbox)
    assert numbers(told) == [1, 2]


@pytest_twisted.ensureDeferred
async def test_nobody_follows_what_is_not_theirs_or_not_there(house, feeds):
    mailbox = await house.mailbox()
    other = await house.new_account("other")
    for account, id, after, error in (
        (other, mailbox.id, None, NotFound),
        (house.account, "nosuchmailbox", None, NotFound),
        (house.account, mailbox.id, 1, Invalid),
        (house.account, mailbox.id, -1, Invalid),
    ):
        with pytest.raises(error):
            await feeds.follow(account, id, after, lambda told: None)
    assert len(feeds) == 0
    assert not house.bus._topics


@pytest_twisted.ensureDeferred
async def test_a_stopped_feed_tells_nothing_and_holds_nothing(house, feeds):
    mailbox = await house.mailbox()
    told = []
    feed = await feeds.follow(house.account, mailbox.id, None, told.extend)
    feed.stop()
    feed.stop()
    await house.send(mailbox)
    assert told == []
    assert len(feeds) == 0
    assert not house.bus._topics


@pytest_twisted.ensureDeferred
async def test_the_end_of_a_mailbox_is_told_and_is_the_last(house, feeds):
    by_bus, by_look, ends = [await house.mailbox() for _ in range(2)] + [await house.mailbox(lifetime=60)]
    told = {box.id: [] for box in (by_bus, by_look, ends)}
    for box in (by_bus, by_look, ends):
        await feeds.follow(house.account, box.id, None, told[box.id].extend)
    closed = await house.unit(store.delete, house.ids, house.account, by_bus.id)
    house.bus.publish(by_bus.id, closed)
    assert told[by_bus.id] == [closed]
    await house.unit(store.delete, house.ids, house.account, by_look.id)
    house.ahead = 61
    await feeds.look()
    for box in (by_look, ends):
        (last,) = told[box.id]
        assert isinstance(last, MailboxClosed)
        assert (last.mailbox, last.account, last.address) == (box.id, box.account, box.address)
        assert last.at > box.created_at
    assert len(feeds) == 0


@pytest_twisted.ensureDeferred
async def test_a_mailbox_that_ends_while_a_gap_is_filled_is_told(house, feeds):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    (filed,) = (await house.file(house.item(mailbox))).filed
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    house.bus.publish(mailbox.id, replace(filed, seq=2))
    await until(lambda: told)
    assert isinstance(told[0], MailboxClosed)


@pytest_twisted.ensureDeferred
async def test_a_paused_feed_catches_up_when_it_resumes(house, feeds):
    mailbox = await house.mailbox()
    told = []
    feed = await feeds.follow(house.account, mailbox.id, None, told.extend)
    feed.pause()
    for _ in range(5):
        await house.send(mailbox)
    await feeds.look()
    assert told == []
    feed.resume()
    await until(lambda: numbers(told) == [1, 2, 3, 4, 5])


@pytest_twisted.ensureDeferred
async def test_who_falls_behind_what_is_kept_is_told_to_list_again(house, feeds, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.EVENTS_KEPT", 10)
    monkeypatch.setattr("mailfarm.mailboxes.changes.TRIM", 1)
    mailbox = await house.mailbox()
    told, current = [], []
    feed = await feeds.follow(house.account, mailbox.id, None, told.extend)
    await feeds.follow(house.account, mailbox.id, None, current.extend)
    feed.pause()
    for _ in range(30):
        await house.send(mailbox)
    feed.resume()
    await until(lambda: told)
    assert isinstance(told[0], CursorTooOld)
    assert told[0].last == 30
    assert numbers(current) == list(range(1, 31))
    with pytest.raises(CursorTooOld):
        await feeds.follow(house.account, mailbox.id, 0, told.extend)
    assert len(feeds) == 1


@pytest_twisted.ensureDeferred
async def test_a_database_that_is_away_only_delays(house, feeds, database):
    mailbox = await house.mailbox()
    told = []
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    database.away = True
    await house.file(house.item(mailbox))
    await house.send(mailbox)
    with pytest.raises(DatabaseUnavailable):
        await feeds.look()
    assert told == []
    database.away = False
    await feeds.look()
    await until(lambda: numbers(told) == [1, 2])


@pytest_twisted.ensureDeferred
async def test_one_followers_fault_costs_another_nothing(house, feeds):
    mailbox = await house.mailbox()
    told = []

    def fails(change):
        raise ValueError("a fault")

    await feeds.follow(house.account, mailbox.id, None, fails)
    await feeds.follow(house.account, mailbox.id, None, told.extend)
    await house.file(house.item(mailbox))
    await feeds.look()
    await until(lambda: numbers(told) == [1])
    await until(lambda: house.failures)
    assert [str(error) for error in house.failures] == ["a fault"]
    house.failures.clear()
    assert len(feeds) == 1


@pytest_twisted.ensureDeferred
async def test_with_criteria_only_what_meets_them_is_told_in_order(house, feeds):
    mailbox = await house.mailbox()
    told = []
    feed = await feeds.follow(
        house.account,
        mailbox.id,
        0,
        told.extend,
        criteria=Criteria(subject="yes", contains="word"),
    )
    for n in range(1, 9):
        await house.send(mailbox, subject="yes" if n % 2 else "no", text="a WORD" if n % 3 else "nothing")
    await until(lambda: feed.cursor == 8)  # a text that is deleted before it is read has no word in it
    await house.delete(mailbox, None)
    await until(lambda: feed.cursor == 9)
    assert numbers(told) == [1, 5, 7, 9]


@pytest_twisted.ensureDeferred
async def test_a_long_line_of_undecided_messages_stays_bounded_and_in_order(house, feeds, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.feed.LINE", 5)
    mailbox = await house.mailbox()
    told = []
    feed = await feeds.follow(house.account, mailbox.id, None, told.extend, criteria=Criteria(contains="word"))
    filed = (await house.file(*[house.item(mailbox, text="word") for _ in range(60)])).filed
    longest = 0
    for event in filed:
        house.bus.publish(mailbox.id, event)
        longest = max(longest, len(feed._line))
    assert longest <= 5
    await until(lambda: numbers(told) == list(range(1, 61)))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("seed", range(6))
async def test_whatever_the_bus_does_each_follower_gets_the_event_tables_sequence(database_url, seed):
    chance = random.Random(seed)
    house = await House(database_url).open()
    feeds = Feeds(house.database, house.bus, house.spawn, Turns(reactor).next)
    bus = LossyBus(house.bus, chance)
    mailbox = await house.mailbox()
    followers = []
    for _ in range(150):
        what = chance.random()
        if what < 0.5:
            changes = (await house.file(*[house.item(mailbox) for _ in range(chance.randint(1, 3))])).filed
        elif what < 0.6:
            changes = await house.unit(messages.delete, house.ids, house.account, mailbox.id, None)
        else:
            changes = await house.unit(messages.mark, house.ids, house.account, mailbox.id, None, chance.random() < 0.5)
        for change in changes:
            bus.publish(mailbox.id, change)
        if chance.random() < 0.1:
            await feeds.look()
        if chance.random() < 0.1:
            after = chance.choice((None, 0, (await house.find(mailbox)).cursor // 2))
            told = []
            feed = await feeds.follow(house.account, mailbox.id, after, told.extend)
            followers.append((feed, feed.cursor if after is None else after, told))
        if followers and chance.random() < 0.1:
            feed = chance.choice(followers)[0]
            feed.pause() if chance.random() < 0.5 else feed.resume()
    for feed, _, _ in followers:
        feed.resume()
    await feeds.look()
    last = (await house.find(mailbox)).cursor
    await until(lambda: all(feed.cursor == last for feed, _, _ in followers))
    events = await house.events(mailbox)
    for feed, after, told in followers:
        assert [(c.seq, c.id, type(c)) for c in told] == [(c.seq, c.id, type(c)) for c in events if c.seq > after]
        assert all(isinstance(change.message.id, str) for change in told if isinstance(change, Filed))
        feed.stop()
    assert followers
    assert not house.failures
    await house.close()
