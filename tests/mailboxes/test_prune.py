"""Content goes with the last of its messages, whichever way that goes, and no sooner: the same on both engines."""

from __future__ import annotations

import os

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from mailfarm.mailboxes import messages, store
from mailfarm.ports import NEVER

DAY = 86400


async def pruned(house) -> None:
    """Everything that can be expired and pruned now."""
    while await house.unit(messages.expire, house.ids, 100):
        pass
    while await house.database.prune():
        pass


async def contents(house) -> tuple[int, int, int]:
    counts = await house.counts()
    return counts["message"], counts["content"], counts["content_chunk"]


@pytest_twisted.ensureDeferred
async def test_what_retention_ended_is_gone_when_its_day_is_over(house):
    await pruned(house)
    mailbox, keeps = await house.mailbox(retention=60), await house.mailbox()
    for box in (mailbox, keeps):
        await house.file(house.item(box), house.item(box, content=os.urandom(600_000)))
    assert await contents(house) == (4, 4, 6)
    house.ahead = 61
    await pruned(house)
    assert (await house.counts())["message"] == 2
    house.ahead = DAY + 61
    await pruned(house)
    assert await contents(house) == (2, 2, 3)
    (small, large) = (await house.list(keeps)).messages
    assert (small.size, large.size) == (21, 600_000)


@pytest_twisted.ensureDeferred
async def test_content_is_kept_for_the_last_of_its_messages(house):
    await pruned(house)
    short, long, ever = [await house.mailbox(retention=each) for each in (60, 10 * DAY, None)]
    await house.file(house.item(short, long), house.item(short, ever), house.item(short))
    house.ahead = 3 * DAY
    await pruned(house)
    assert await contents(house) == (2, 2, 0)
    for box in (long, ever):
        (message,) = (await house.list(box)).messages
        assert (await house.read(messages.find, house.account, message.id)).summary == message
    house.ahead = 12 * DAY
    await pruned(house)
    assert await contents(house) == (1, 1, 0)
    await house.delete(ever, None)
    assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_what_a_reader_deletes_goes_at_once_whatever_its_retention(house):
    await pruned(house)
    mailbox = await house.mailbox(retention=DAY)
    await house.file(house.item(mailbox), house.item(mailbox, content=os.urandom(600_000)))
    await house.delete(mailbox, None)
    assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_content_of_a_closed_mailbox_stays_until_it_is_cleared(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.MOST", 1)
    await pruned(house)
    mailbox = await house.mailbox(retention=60)
    await house.file(*[house.item(mailbox) for _ in range(3)])
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    house.ahead = 2 * DAY
    await pruned(house)
    assert await contents(house) == (2, 2, 0)
    while await house.unit(store.clear_closed):
        pass
    await pruned(house)
    assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_what_is_kept_very_long_goes_with_its_message(house):
    await pruned(house)
    mailbox = await house.mailbox(retention=500 * DAY)
    (filed,) = (await house.file(house.item(mailbox))).filed
    assert (await house.read(messages.find, house.account, filed.message.id)).content.until == NEVER
    house.ahead = 501 * DAY
    while await house.unit(messages.expire, house.ids, 100):
        pass
    assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_what_came_late_has_all_of_its_time_and_no_more(house):
    await pruned(house)
    mailbox = await house.mailbox(retention=60)
    item = house.item(mailbox)
    house.ahead = 5 * DAY  # it stood in the queue for so long
    await pruned(house)
    await house.file(item)
    await pruned(house)
    assert await contents(house) == (1, 1, 0)
    house.ahead = 6 * DAY + 61
    await pruned(house)
    assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_the_last_two_messages_of_a_content_may_go_at_the_same_time(house):
    boxes = [await house.mailbox() for _ in range(4)]
    for _ in range(5):
        await house.file(house.item(*boxes, content=os.urandom(300_000)))
        await gatherResults([Deferred.fromCoroutine(house.delete(box, None)) for box in boxes])
        assert await contents(house) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_several_prune_at_once(house):
    await pruned(house)
    boxes = [await house.mailbox(retention=60 + DAY * n) for n in range(4)]
    await house.file(*[house.item(box) for box in boxes for _ in range(20)])
    house.ahead = 6 * DAY
    await gatherResults([Deferred.fromCoroutine(pruned(house)) for _ in range(4)])
    await pruned(house)  # who found another one at work has left it to that one
    assert await contents(house) == (0, 0, 0)
