"""Thousands who follow one mailbox: all are told everything, in order, and others have their turn meanwhile."""

from __future__ import annotations

import pytest
import pytest_twisted
from mailbox_house import until
from twisted.internet.defer import Deferred

from mailfarm.events import Expired, Filed, MailboxClosed, Summary
from mailfarm.mailboxes import crowd as crowd_module
from mailfarm.mailboxes import feed as feed_module
from mailfarm.mailboxes.crowd import AT_ONCE, TOGETHER, Heard, at_once, parted
from mailfarm.mailboxes.feed import Feeds


class Held:
    """Turns that come when they are given."""

    def __init__(self):
        self.waiting = []

    def next(self):
        turn = Deferred()
        self.waiting.append(turn)
        return turn

    def give(self):
        self.waiting.pop(0).callback(None)


@pytest.fixture
def turns():
    return Held()


@pytest.fixture
def few(monkeypatch):
    """Two feeds are told before others have their turn."""
    monkeypatch.setattr(crowd_module, "AT_ONCE", 2)


@pytest.fixture
def feeds(house, turns):
    return Feeds(house.database, house.bus, house.spawn, turns.next)


async def followers(house, feeds, mailbox, count):
    heard = [[] for _ in range(count)]
    made = [await feeds.follow(house.account, mailbox.id, None, each.append) for each in heard]
    return heard, made


def numbers(told):
    return [[change.seq for change in together] for together in told]


@pytest_twisted.ensureDeferred
async def test_some_are_told_and_then_others_have_their_turn(house, feeds, turns, few):
    mailbox = await house.mailbox()
    heard, _ = await followers(house, feeds, mailbox, 5)
    await house.send(mailbox)
    assert [len(each) for each in heard] == [1, 1, 0, 0, 0]
    turns.give()
    assert [len(each) for each in heard] == [1, 1, 1, 1, 0]
    turns.give()
    assert [numbers(each) for each in heard] == [[[1]]] * 5
    assert not turns.waiting


@pytest_twisted.ensureDeferred
async def test_what_comes_meanwhile_is_told_together_and_as_one_tuple(house, feeds, turns, few):
    mailbox = await house.mailbox()
    heard, _ = await followers(house, feeds, mailbox, 4)
    for _ in range(6):
        await house.send(mailbox)
    while turns.waiting:
        turns.give()
    assert [numbers(each) for each in heard] == [[[1], [2, 3, 4, 5, 6]]] * 4
    assert len({id(each[1]) for each in heard}) == 1


@pytest_twisted.ensureDeferred
async def test_past_the_line_they_read_what_they_missed(house, feeds, turns, few, monkeypatch):
    monkeypatch.setattr(crowd_module, "LINE", 3)
    mailbox = await house.mailbox()
    heard, _ = await followers(house, feeds, mailbox, 3)
    for _ in range(9):
        await house.send(mailbox)

    def all_told():
        while turns.waiting:
            turns.give()
        return all([seq for told in numbers(each) for seq in told] == list(range(1, 10)) for each in heard)

    await until(all_told)


@pytest_twisted.ensureDeferred
async def test_who_comes_or_goes_while_others_are_told(house, feeds, turns, few):
    mailbox = await house.mailbox()
    heard, made = await followers(house, feeds, mailbox, 4)
    await house.send(mailbox)
    late = []
    feed = await feeds.follow(house.account, mailbox.id, None, late.append)
    assert feed.cursor == 1  # it has read what the others are being told
    made[3].stop()
    await house.send(mailbox)
    while turns.waiting:
        turns.give()
    assert [numbers(each) for each in heard] == [[[1], [2]], [[1], [2]], [[1], [2]], []]
    assert numbers(late) == [[2]]


@pytest_twisted.ensureDeferred
async def test_a_crowd_hears_the_bus_once_and_no_more_when_it_has_gone(house, feeds):
    mailbox = await house.mailbox()
    _, made = await followers(house, feeds, mailbox, 3)
    assert len(house.bus._topics[mailbox.id]) == 1
    for feed in made:
        feed.stop()
    assert mailbox.id not in house.bus._topics
    assert len(feeds) == 0


@pytest_twisted.ensureDeferred
async def test_the_end_of_a_mailbox_is_told_to_all_and_last(house, feeds, turns, few):
    mailbox = await house.mailbox()
    heard, _ = await followers(house, feeds, mailbox, 3)
    await house.send(mailbox)
    house.bus.publish(mailbox.id, MailboxClosed("e1", house.account, mailbox.id, 1, mailbox.address))
    while turns.waiting:
        turns.give()
    for each in heard:
        assert [type(one) for together in each for one in together] == [Filed, MailboxClosed]
    assert len(feeds) == 0


def _filed(seq, subject=""):
    message = Summary(f"m{seq}", "box", seq, 0, "", (), None, (), (), subject, "", "", 0, 0)
    return Filed(f"e{seq}", "account", "box", seq, 0, message)


def test_changes_without_a_gap_are_known_as_such():
    assert (Heard([_filed(4), _filed(5)]).first, Heard([_filed(4), _filed(5)]).last) == (4, 5)
    for gap in ([_filed(4), _filed(6)], [_filed(5), _filed(4)], [_filed(4), _filed(4)]):
        assert Heard(gap).first == -1
    assert Heard([_filed(4), MailboxClosed("e", "account", "box", 0, "")]).first == -1


def test_so_many_are_told_together_and_not_more_octets_than_fit():
    many = [_filed(seq) for seq in range(1, 71)]
    assert [len(each.changes) for each in parted(many)] == [TOGETHER, TOGETHER, 6]
    large = [_filed(seq, "x" * 20_000) for seq in range(1, 4)]
    assert [len(each.changes) for each in parted(large)] == [1, 1, 1]
    wide = Expired("e", "account", "box", 1, 0, tuple(str(n) for n in range(500)))
    assert [len(each.changes) for each in parted([wide] * 5)] == [3, 2]
    assert list(parted([])) == []


def test_the_more_there_is_to_tell_the_fewer_are_told_at_once():
    assert at_once(tuple(parted([_filed(1)]))) == AT_ONCE
    assert at_once(tuple(parted([_filed(seq) for seq in range(1, 500)]))) == AT_ONCE // 16  # writes, of 26 KB each
    assert at_once(tuple(parted([_filed(seq, "x" * 20_000) for seq in range(1, 500)]))) == 1


@pytest_twisted.ensureDeferred
async def test_looking_is_done_in_turns_too(house, feeds, turns, monkeypatch):
    monkeypatch.setattr(feed_module, "LOOKED_AT", 2)
    mailboxes = [await house.mailbox() for _ in range(3)]
    heard = [(await followers(house, feeds, mailbox, 3))[0] for mailbox in mailboxes]
    for mailbox in mailboxes:
        await house.file(house.item(mailbox))
    looked = Deferred.fromCoroutine(feeds.look())
    given = 0
    while not looked.called:
        await until(lambda: turns.waiting or looked.called)
        if turns.waiting:
            turns.give()
            given += 1
    assert given == 4  # nine feeds, two in a turn
    await until(lambda: all(numbers(each) == [[1]] for some in heard for each in some))
