"""What came near, for who waited in vain."""

from __future__ import annotations

import pytest_twisted

from mailfarm.mailboxes import near
from mailfarm.mailboxes.match import ALL, Criteria


async def misses(house, mailbox, criteria, after=0, upto=1000):
    async def look(tx):
        return await near.near_misses(tx, mailbox.id, criteria, after=after, upto=upto)

    found = await house.database.read(look)
    return [(miss.message.seq, miss.failed) for miss in found]


@pytest_twisted.ensureDeferred
async def test_those_that_met_the_most_come_first_and_of_these_the_newest(house):
    mailbox = await house.mailbox()
    for subject, text in (("reset", "no"), ("other", "no"), ("reset", "the code"), ("other", "code"), ("reset", "no")):
        await house.send(mailbox, subject=subject, text=text)
    assert await misses(house, mailbox, Criteria(subject="reset", contains="code")) == [
        (5, ("contains",)),
        (4, ("subject",)),
        (1, ("contains",)),
        (2, ("subject", "contains")),
    ]


@pytest_twisted.ensureDeferred
async def test_they_are_few_of_the_newest_between_two_numbers(house, monkeypatch):
    monkeypatch.setattr(near, "LOOKED_AT", 7)
    mailbox = await house.mailbox()
    await house.send(mailbox, subject="reset", text="no")
    for n in range(9):
        await house.send(mailbox, subject=f"other {n}")
    both = Criteria(subject="reset", contains="code")
    assert [seq for seq, _ in await misses(house, mailbox, both)] == [10, 9, 8, 7, 6]
    assert [seq for seq, _ in await misses(house, mailbox, both, upto=7)] == [1, 7, 6, 5, 4]
    assert [seq for seq, _ in await misses(house, mailbox, both, after=8)] == [10, 9]
    await house.delete(mailbox, None)
    assert await misses(house, mailbox, both) == []


@pytest_twisted.ensureDeferred
async def test_where_nothing_was_asked_for_nothing_came_near(house):
    mailbox = await house.mailbox()
    await house.send(mailbox)
    assert await misses(house, mailbox, ALL) == []
