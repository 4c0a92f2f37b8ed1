"""Filing in the transaction that accepts: what goes that way, what goes by the queue, and that nothing is lost or told
twice."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from dataclasses import replace

import pytest
import pytest_twisted
from mailbox_house import Bytes, House, until
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread

from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import Settings
from mailfarm.errors import DatabaseUnavailable, QueueUnavailable
from mailfarm.inbound import embedded
from mailfarm.inbound.embedded import FilingIntake
from mailfarm.mailboxes import messages, store
from mailfarm.mailboxes.match import ALL as EVERY
from mailfarm.services.inbound import Inbound

CONTENT = b"Subject: one\r\nFrom: a@x.test\r\n\r\nYour code is 123456\r\n"


class Embedded:
    """An intake on a SQLite file of its own, and what it counts and logs."""

    def __init__(self, house):
        self.house = house
        self.queue = Queue(house.engine, "inbound", house.ids, house.clock, reactor=reactor)
        self.counted = Counter()
        self.said = []
        self.computed = 0
        self.intake = self.made(house.database)

    def made(self, database):
        house = self.house
        return FilingIntake(queue=self.queue, database=database, bus=house.bus, ids=house.ids, host=self)

    async def compute(self, work):
        self.computed += 1
        return await deferToThread(work)

    def count(self, what, many):
        self.counted[what] += many

    def trouble(self, what, error):
        self.said.append((what, error))

    def spooled(self, *mailboxes, content=CONTENT, **changed):
        mail = self.house.item(*mailboxes).spooled
        return replace(mail, content=Bytes(content), sha256=hashlib.sha256(content).digest(), **changed)

    async def queued(self):
        return [entry.id for entry in await self.queue.inspect("waiting")]


@pytest_twisted.async_yield_fixture
async def place():
    house = await House().open()
    yield Embedded(house)
    await house.close()


@pytest_twisted.ensureDeferred
async def test_what_is_put_can_be_read_and_is_announced_and_counted(place):
    house = place.house
    mailbox = await house.mailbox()
    heard = []
    await house.bus.subscribe(mailbox.id, heard.append)
    spooled = place.spooled(mailbox)
    await place.intake.put(spooled)
    (event,) = heard
    assert (event.seq, event.message.subject, event.message.size) == (1, "one", len(CONTENT))
    stored = await house.read(messages.find, house.account, event.message.id)
    assert (stored.content.id, stored.sha256, stored.trace) == (spooled.id, spooled.sha256, spooled.trace)
    assert (await house.find(mailbox)).messages == 1
    assert await place.queued() == []
    assert place.counted == Counter(filed=1, known=0, dropped=0)
    assert not place.said


@pytest_twisted.ensureDeferred
async def test_nobody_hears_of_what_is_not_durable(place):
    house = place.house
    mailbox = await house.mailbox()
    read = []

    def hear(event):
        read.append(Deferred.fromCoroutine(house.find(mailbox)))

    await house.bus.subscribe(mailbox.id, hear)
    await gatherResults([Deferred.fromCoroutine(place.intake.put(place.spooled(mailbox))) for _ in range(20)])
    assert [each.messages for each in await gatherResults(read)] == [20] * 20


@pytest_twisted.ensureDeferred
async def test_many_at_once_share_a_commit_and_are_numbered_without_gaps(place):
    house = place.house
    boxes = [await house.mailbox() for _ in range(3)]
    before = house.engine.groups
    puts = [place.intake.put(place.spooled(boxes[n % 3])) for n in range(60)]
    await gatherResults([Deferred.fromCoroutine(put) for put in puts])
    assert house.engine.groups - before <= 3
    for box in boxes:
        assert sorted(event.seq for event in await house.events(box)) == list(range(1, 21))


@pytest_twisted.ensureDeferred
async def test_large_mail_and_mail_for_many_mailboxes_goes_by_the_queue(place):
    house = place.house
    boxes = [await house.mailbox() for _ in range(embedded.MOST_MAILBOXES + 1)]
    large = place.spooled(boxes[0], content=b"x" * (embedded.LARGEST + 1))
    many = place.spooled(*boxes)
    await place.intake.put(large)
    await place.intake.put(many)
    assert await place.queued() == [large.id, many.id]
    assert place.computed == 0
    await place.intake.put(place.spooled(*boxes[1:]))
    assert place.counted["filed"] == embedded.MOST_MAILBOXES
    assert (await house.counts())["content"] == 1


@pytest.mark.parametrize(("size", "computed"), [(embedded.INLINE, 0), (embedded.INLINE + 1, 1), (embedded.LARGEST, 1)])
@pytest_twisted.ensureDeferred
async def test_larger_mail_is_parsed_aside_and_filed_byte_for_byte(place, size, computed):
    house = place.house
    mailbox = await house.mailbox()
    content = b"Subject: large\r\n\r\n" + os.urandom(size)
    content = content[:size]
    spooled = place.spooled(mailbox, content=content)
    await gatherResults([Deferred.fromCoroutine(place.intake.put(mail)) for mail in (spooled, place.spooled(mailbox))])
    assert await place.queued() == []
    assert place.computed == computed
    assert (await house.find(mailbox)).messages == 2
    (found,) = [event for event in await house.events(mailbox) if event.message.subject == "large"]
    stored = await house.read(messages.find, house.account, found.message.id)
    pieces = [await house.read(messages.read_chunk, stored.content, n) for n in range(stored.content.chunks or 1)]
    assert b"".join(pieces) == content


@pytest_twisted.ensureDeferred
async def test_what_cannot_be_parsed_goes_by_the_queue(place, monkeypatch):
    def broken(content):
        raise RecursionError("too deep")

    mailbox = await place.house.mailbox()
    monkeypatch.setattr(embedded, "parse", broken)
    spooled = place.spooled(mailbox)
    await place.intake.put(spooled)
    assert await place.queued() == [spooled.id]
    ((what, error),) = place.said
    assert spooled.id in what
    assert isinstance(error, RecursionError)


@pytest_twisted.ensureDeferred
async def test_one_that_cannot_be_filed_goes_by_the_queue_and_all_others_are_filed(place):
    house = place.house
    mailbox = await house.mailbox()
    bad = place.spooled(mailbox, account="nobody")  # no such account: its row cannot be written
    mails = [place.spooled(mailbox), bad, place.spooled(mailbox)]
    await gatherResults([Deferred.fromCoroutine(place.intake.put(mail)) for mail in mails])
    assert await place.queued() == [bad.id]
    assert [event.seq for event in await house.events(mailbox)] == [1, 2]


@pytest_twisted.ensureDeferred
async def test_mail_for_a_mailbox_that_was_made_again_is_led_there_by_the_queue(place):
    house = place.house
    old = await house.mailbox(address="again@mailfarm.test")
    await house.unit(store.delete, house.ids, old.account, old.id)
    new = await house.mailbox(address="again@mailfarm.test")
    other = await house.mailbox()
    mail = place.spooled(old)
    await gatherResults([Deferred.fromCoroutine(place.intake.put(each)) for each in (mail, place.spooled(other))])
    assert await place.queued() == [mail.id]
    assert (await house.find(other)).messages == 1
    service = inbound(place)
    await service.start()
    try:
        await until(lambda: service.registry.get_sample_value("mailfarm_inbound_messages_total", {"outcome": "filed"}))
    finally:
        await service.stop()
    assert (await house.find(new)).messages == 1


@pytest_twisted.ensureDeferred
async def test_mail_for_a_mailbox_that_has_gone_is_dropped_and_counted(place):
    house = place.house
    mailbox = await house.mailbox()
    await house.unit(store.delete, house.ids, mailbox.account, mailbox.id)
    await place.intake.put(place.spooled(mailbox))
    assert place.counted["dropped"] == 1
    assert await place.queued() == []
    assert (await house.counts())["content"] == 0


@pytest_twisted.ensureDeferred
async def test_what_was_filed_and_not_confirmed_is_filed_once(place):
    """The commit went well and its answer was lost: the queue has it too, under the same id."""
    house = place.house
    mailbox = await house.mailbox()

    class Forgetful:
        def gather(self, work, told):
            add = house.database.gather(work, told)

            async def lost(item, size):
                await add(item, size)
                raise DatabaseUnavailable("no answer")

            return lost

    await place.made(Forgetful()).put(place.spooled(mailbox))
    assert len(await place.queued()) == 1
    service = inbound(place)
    await service.start()
    try:
        await until(lambda: service.registry.get_sample_value("mailfarm_inbound_messages_total", {"outcome": "known"}))
    finally:
        await service.stop()
    assert (await house.find(mailbox)).messages == 1
    page = await house.list(mailbox, EVERY)
    assert len(page.messages) == 1


@pytest_twisted.ensureDeferred
async def test_where_neither_can_take_it_the_queues_error_is_raised(place):
    mailbox = await place.house.mailbox()
    await place.house.engine.close()
    with pytest.raises(QueueUnavailable):
        await place.intake.put(place.spooled(mailbox))


def inbound(place):
    registry = CollectorRegistry()
    house = place.house
    made = Inbound(
        settings=Settings().inbound,
        queue=place.queue,
        database=house.database,
        bus=house.bus,
        ids=house.ids,
        clock=house.clock,
        reactor=reactor,
        registry=registry,
    )
    made.registry = registry
    return made
