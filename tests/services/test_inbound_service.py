"""inbound: from the queue into the mailboxes, once, whatever fails on the way."""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace

import pytest
import pytest_twisted
from mailbox_house import Bytes, House, until
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import InboundSettings
from mailfarm.errors import DatabaseUnavailable, QueueUnavailable
from mailfarm.events import Filed
from mailfarm.inbound import pipeline
from mailfarm.inbound.found import find
from mailfarm.mailboxes import messages, store
from mailfarm.services.inbound import Inbound


class Works:
    """An inbound service on a queue and a database of its own."""

    def __init__(self, house):
        self.house = house
        self.queue = Queue(house.engine, "inbound", house.ids, house.clock, reactor=reactor)
        self.database = house.database
        self.lease = 60.0
        self.made = []

    async def start(self, **arguments):
        registry = CollectorRegistry()
        service = Inbound(
            settings=InboundSettings(batch=10, lease=self.lease),
            queue=arguments.pop("queue", self.queue),
            database=arguments.pop("database", self.database),
            bus=self.house.bus,
            ids=self.house.ids,
            clock=self.house.clock,
            reactor=reactor,
            registry=registry,
            **arguments,
        )
        service.registry = registry
        await service.start()
        self.made.append(service)
        return service

    async def stop(self):
        for service in self.made:
            await service.stop()

    async def put(self, mailbox, content=b"Subject: hi\r\n\r\nhello", **changed):
        spooled = self.house.item(mailbox).spooled
        spooled = replace(spooled, content=Bytes(content), sha256=hashlib.sha256(content).digest(), **changed)
        await self.queue.put(spooled)
        return spooled

    async def empty(self):
        while True:
            depth = await self.queue.depth()
            if not depth.waiting and not depth.leased:
                return depth


def counted(service, outcome):
    return service.registry.get_sample_value("mailfarm_inbound_messages_total", {"outcome": outcome}) or 0


@pytest_twisted.async_yield_fixture
async def works(database_url):
    house = await House(database_url).open()
    made = Works(house)
    yield made
    await made.stop()
    await house.close()
    assert not house.failures


@pytest_twisted.ensureDeferred
async def test_what_is_queued_is_filed_announced_and_ended(works):
    house = works.house
    mailbox = await house.mailbox()
    by_mailbox, by_account = [], []
    await house.bus.subscribe(mailbox.id, by_mailbox.append)
    await house.bus.subscribe(f"account:{house.account}", by_account.append)
    service = await works.start()
    await works.put(mailbox, b"Subject: one\r\nFrom: a@x.test\r\n\r\nYour code is 123456")
    await until(lambda: by_mailbox)
    assert by_mailbox == by_account
    (event,) = by_mailbox
    assert isinstance(event, Filed)
    assert event.message.subject == "one"
    stored = await house.read(messages.find, house.account, event.message.id)
    assert find("", stored.text, stored.html).codes == ("123456",)
    assert (await works.empty()).aside == 0
    assert counted(service, "filed") == 1


@pytest_twisted.ensureDeferred
async def test_many_are_filed_each_once_by_several_services(works):
    house = works.house
    boxes = [await house.mailbox() for _ in range(3)]
    await works.start()
    await works.start()
    for n in range(120):
        await works.put(boxes[n % 3], b"Subject: %d\r\n\r\nx" % n)
    await works.empty()
    for number, box in enumerate(boxes):
        page = await house.list(box, limit=1000)
        assert sorted(int(message.subject) for message in page.messages) == list(range(number, 120, 3))
        assert [change.seq for change in await house.events(box)] == list(range(1, 41))


@pytest_twisted.ensureDeferred
async def test_large_content_is_read_in_pieces_and_kept_exactly(works):
    house = works.house
    mailbox = await house.mailbox()
    content = b"Subject: large\r\n\r\n" + bytes(range(32, 127)) * 30_000
    await works.put(mailbox, content)
    await works.start()
    await works.empty()
    (message,) = (await house.list(mailbox)).messages
    assert message.size == len(content)
    read, number = b"", 0
    stored = await house.read(messages.find, house.account, message.id)
    while (chunk := await house.read(messages.read_chunk, stored.content, number)) is not None:
        read += chunk
        number += 1
    assert read == content


@pytest_twisted.ensureDeferred
async def test_what_came_again_is_ended_and_not_filed_again(works):
    house = works.house
    mailbox = await house.mailbox()
    spooled = await works.put(mailbox)
    service = await works.start()
    await works.empty()
    await house.delete(mailbox, None)
    await works.queue.put(spooled)
    await works.empty()
    assert (await house.list(mailbox)).messages == ()
    assert counted(service, "known") == 1


@pytest_twisted.ensureDeferred
async def test_mail_for_a_mailbox_that_has_gone_is_dropped_and_counted(works):
    house = works.house
    mailbox = await house.mailbox()
    await works.put(mailbox)
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    service = await works.start()
    await works.empty()
    assert counted(service, "dropped") == 1
    assert set((await house.counts()).values()) == {0}


@pytest_twisted.ensureDeferred
async def test_mail_for_an_address_that_was_deleted_and_made_again_is_not_dropped(works):
    house = works.house
    old = await house.mailbox(address="anna@mailfarm.test")
    await house.unit(store.delete, house.ids, house.account, old.id)
    new = await house.mailbox(address="anna@mailfarm.test")
    for _ in range(3):
        await works.put(old)  # a listener that has not heard of it
    service = await works.start()
    await works.empty()
    assert len((await house.list(new)).messages) == 3
    assert (counted(service, "filed"), counted(service, "dropped")) == (3, 0)


@pytest_twisted.ensureDeferred
async def test_a_message_that_was_sent_twice_says_so_and_is_there_twice(works):
    house = works.house
    mailbox = await house.mailbox()
    content = b"Message-ID: <1@x.test>\r\nSubject: hi\r\n\r\nhello"
    for sent in (content, content, content + b"!"):
        await works.put(mailbox, content=sent)
    await works.start()
    await works.empty()
    listed = sorted((await house.list(mailbox)).messages, key=lambda message: message.seq)
    assert [message.duplicate_of for message in listed] == [None, listed[0].id, None]


@pytest_twisted.ensureDeferred
async def test_one_that_cannot_be_filed_is_not_in_the_others_way(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()
    for n in range(8):
        await works.put(mailbox, b"Subject: %s\r\n\r\nx" % (b"poison" if n == 3 else b"good"))
    real = pipeline.file

    async def file(tx, ids, items, **settings):
        if any(item.parsed.subject == "poison" for item in items):
            raise RuntimeError("poison")
        return await real(tx, ids, items, **settings)

    monkeypatch.setattr(pipeline, "file", file)
    service = await works.start()
    await until(lambda: counted(service, "failed") >= 1 and counted(service, "filed") == 7)
    assert len((await house.list(mailbox)).messages) == 7
    (entry,) = await works.queue.inspect("waiting")
    assert "poison" in entry.reason


@pytest_twisted.ensureDeferred
async def test_a_message_that_keeps_failing_is_filed_unparsed(works, monkeypatch):
    """Parsing kills the worker each time: it is stood in for by leases given up."""
    house = works.house
    mailbox = await house.mailbox()
    await works.put(mailbox, b"Subject: evil\r\n\r\nx")
    for _ in range(pipeline.TRIES_TO_PARSE):
        (attempt,) = await works.queue.take(1, 60)
        await works.queue.fail(attempt.fence, "the worker died")
    monkeypatch.setattr(pipeline, "parse", lambda content: pytest.fail("it was parsed again"))
    service = await works.start()
    await works.empty()
    (message,) = (await house.list(mailbox)).messages
    stored = await house.read(messages.find, house.account, message.id)
    assert "not parsed" in stored.head.findings[0]
    assert message.subject == "evil"
    assert counted(service, "unparsed") == 1


@pytest_twisted.ensureDeferred
async def test_a_fault_of_the_parser_keeps_no_mail_from_its_reader(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()

    def parse(content):
        raise RecursionError

    monkeypatch.setattr(pipeline, "parse", parse)
    await works.put(mailbox)
    await works.put(mailbox, b"Subject: large\r\n\r\n" + b"x" * 200_000)
    await works.start()
    await works.empty()
    found = (await house.list(mailbox)).messages
    assert sorted(message.size for message in found) == [20, 200_018]


class Outage:
    """The real database, away for its first few units."""

    def __init__(self, database, units):
        self._database = database
        self.left = units
        self.last = False

    def unit(self, work, **how):
        if self.left:
            self.left -= 1
            raise DatabaseUnavailable("away")
        return self._database.unit(work, **how)


@pytest_twisted.ensureDeferred
async def test_an_outage_of_the_database_only_delays_and_uses_up_no_tries(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.01)
    outage = Outage(house.database, 12)
    await works.put(mailbox)
    service = await works.start(database=outage)
    await works.empty()
    assert outage.left == 0
    assert len((await house.list(mailbox)).messages) == 1
    assert counted(service, "retried") == 12
    assert counted(service, "failed") == 0


@pytest_twisted.ensureDeferred
async def test_stopping_in_an_outage_loses_nothing(works):
    house = works.house
    mailbox = await house.mailbox()
    outage = Outage(house.database, 10**9)
    await works.put(mailbox)
    service = await works.start(database=outage)
    await until(lambda: counted(service, "retried"))
    await service.stop()
    depth = await works.queue.depth()
    assert (depth.waiting, depth.leased, depth.aside) == (1, 0, 0)
    (entry,) = await works.queue.inspect("waiting")
    assert entry.tries == 0, "to stop is nobody's fault"


@pytest_twisted.ensureDeferred
async def test_leases_of_long_work_are_extended(works):
    house = works.house
    mailbox = await house.mailbox()
    works.lease = 0.3
    extended = []
    real = works.queue.extend

    class Watched:
        def __getattr__(self, name):
            return getattr(works.queue, name)

        def extend(self, fence, lease):
            extended.append(fence)
            return real(fence, lease)

    outage = Outage(house.database, 10**9)
    await works.put(mailbox)
    service = await works.start(queue=Watched(), database=outage)
    await until(lambda: len(extended) >= 5)
    assert len(set(extended)) == 1  # it is still the first turn
    outage.left = 0
    await works.empty()
    await service.stop()
    assert len((await house.list(mailbox)).messages) == 1


@pytest_twisted.ensureDeferred
async def test_stopping_finishes_what_is_under_way_and_takes_nothing_more(works):
    house = works.house
    mailbox = await house.mailbox()
    service = await works.start()
    for _ in range(30):
        await works.put(mailbox)
    await service.stop()
    await service.stop()
    there = len((await house.list(mailbox)).messages)
    depth = await works.queue.depth()
    assert (depth.leased, depth.waiting) == (0, 30 - there)
    await works.put(mailbox)
    assert (await works.queue.depth()).waiting == 31 - there
    await works.start()
    await works.empty()
    assert len((await house.list(mailbox)).messages) == 31


@pytest_twisted.ensureDeferred
async def test_stopping_right_behind_a_put_leaves_nothing_leased_and_costs_no_try(works):
    house = works.house
    mailbox = await house.mailbox()

    async def states(tx):
        return await tx.rows("select state, tries from queue_entry where state <> 'waiting' or tries > 0")

    for _ in range(20):
        service = await works.start()
        await works.put(mailbox)
        groups = house.engine.groups
        ends = time.monotonic() + 0.1
        while house.engine.groups == groups and time.monotonic() < ends:
            pass  # not a turn of the reactor: a take is under way and has not been told
        await service.stop()
        assert await Database(house.engine).read(states) == []
    await works.start()
    await works.empty()
    assert len((await house.list(mailbox)).messages) == 20


@pytest_twisted.ensureDeferred
async def test_content_in_memory_has_a_budget(works):
    house = works.house
    mailbox = await house.mailbox()
    for n in range(6):
        await works.put(mailbox, b"Subject: %d\r\n\r\n" % n + b"x" * 400_000)
    await works.start(in_memory=500_000, workers=3)
    await works.empty()
    assert len((await house.list(mailbox)).messages) == 6


@pytest_twisted.ensureDeferred
async def test_batches_are_parted_by_octets_messages_and_number(works):
    house = works.house
    mailbox = await house.mailbox()

    def attempts(sizes, leads=1):
        found = []
        for size in sizes:
            spooled = house.item(mailbox).spooled
            content = Bytes(b"")
            content.data = memoryview(bytes(1)) if size == 1 else bytes(size)
            spooled = replace(spooled, content=content, mailboxes=tuple(str(n) for n in range(leads)))
            found.append(pipeline.Attempt(str(len(found)), 1, spooled))
        return found

    def sizes(found):
        return [len(group) for group in pipeline.groups(found)]

    assert sizes([]) == []
    assert sizes(attempts([1] * 250)) == [100, 100, 50]
    assert sizes(attempts([3 << 20] * 5)) == [2, 2, 1]
    assert sizes(attempts([1, 20 << 20, 1])) == [1, 1, 1]
    assert sizes(attempts([1] * 4, leads=900)) == [2, 2]


class Unreadable(Bytes):
    """Content whose queue is away for the first few readings."""

    left = 5

    async def chunks(self):
        if self.left:
            self.left -= 1
            raise QueueUnavailable("away")
        yield self.data


@pytest_twisted.ensureDeferred
async def test_an_outage_of_the_queue_while_content_is_read_uses_up_no_tries(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()
    monkeypatch.setattr(pipeline, "LONGEST_PAUSE", 0.01)
    await works.put(mailbox)
    content = Unreadable(b"Subject: late\r\n\r\nx")

    class Behind:
        def __getattr__(self, name):
            return getattr(works.queue, name)

        async def take(self, *args):
            taken = await works.queue.take(*args)
            return [replace(one, spooled=replace(one.spooled, content=content)) for one in taken]

    service = await works.start(queue=Behind())
    await works.empty()
    assert [message.subject for message in (await house.list(mailbox)).messages] == ["late"]
    assert content.closed
    assert counted(service, "failed") == 0


class Slow:
    """The real database, where each unit waits to be let through."""

    def __init__(self, database):
        self._database = database
        self.held = []

    async def unit(self, work, **how):
        gate = Deferred()
        self.held.append(gate)
        await gate
        return await self._database.unit(work, **how)


@pytest_twisted.ensureDeferred
async def test_the_next_batch_is_parsed_while_the_last_one_commits(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()
    parsed = []
    real = pipeline.parse
    monkeypatch.setattr(pipeline, "parse", lambda content: (parsed.append(content), real(content))[1])
    for n in range(30):
        await works.put(mailbox, b"Subject: %d\r\n\r\nx" % n)
    slow = Slow(house.database)
    await works.start(database=slow)
    await until(lambda: len(slow.held) == 2)
    assert len(parsed) == 20  # two batches of ten, and neither is stored
    assert (await house.list(mailbox)).messages == ()
    slow.held[0].callback(None)
    await until(lambda: len(slow.held) == 3)
    for gate in slow.held[1:]:
        gate.callback(None)
    await works.empty()
    assert len((await house.list(mailbox)).messages) == 30


@pytest.mark.parametrize(("size", "at_once"), [(600, 2), (1001, 1)])
@pytest_twisted.ensureDeferred
async def test_of_large_mail_two_parts_of_a_batch_are_under_way_and_huge_mail_goes_alone(
    works, monkeypatch, size, at_once
):
    house = works.house
    mailbox = await house.mailbox()
    monkeypatch.setattr(pipeline, "MOST_OCTETS", 1000)
    for n in range(5):
        await works.put(mailbox, (b"Subject: %d\r\n\r\n" % n).ljust(size, b"x"))
    slow = Slow(house.database)
    await works.start(database=slow, workers=1)
    for ended in range(5):
        await until(lambda ended=ended: len(slow.held) == min(5, ended + at_once))
        slow.held[ended].callback(None)
    await works.empty()
    assert len((await house.list(mailbox)).messages) == 5


@pytest_twisted.ensureDeferred
async def test_parts_of_a_batch_that_cannot_be_finished_go_back_when_it_stops(works, monkeypatch):
    house = works.house
    mailbox = await house.mailbox()
    monkeypatch.setattr(pipeline, "MOST_OCTETS", 1000)
    for n in range(5):
        await works.put(mailbox, (b"Subject: %d\r\n\r\n" % n).ljust(600, b"x"))
    tried = []

    class Away:
        async def unit(self, work, **how):
            tried.append(work)
            raise DatabaseUnavailable("away")

    service = await works.start(database=Away(), workers=1)
    await until(lambda: len(tried) >= 2)
    await service.stop()
    depth = await works.queue.depth()
    assert (depth.waiting, depth.leased, depth.aside) == (5, 0, 0)
    (attempt, *_) = await works.queue.take(5, 60.0)
    assert attempt.tries == 1, "none of them was a try"


@pytest_twisted.ensureDeferred
async def test_what_was_lost_twice_is_alone_in_its_process(works, monkeypatch):
    """If its worker dies of one of them, nobody else's mail has used up a try; also not another one's that was lost
    twice, because it was beside it before."""
    house = works.house
    mailbox = await house.mailbox()
    for number in range(2):
        await works.put(mailbox, f"Subject: lost twice {number}\r\n\r\nx".encode())
    for tries in (1, 2):
        lost = []
        while len(lost) < 2:
            lost += await works.queue.take(2, 0.01, 1.0)
        assert [attempt.tries for attempt in lost] == [tries] * 2
    beside, real = {}, pipeline.to_file

    def to_file(packer, spooled, parsed, content):
        beside[content.split(b"\r\n")[0]] = len(service._pipeline.held)
        return real(packer, spooled, parsed, content)

    monkeypatch.setattr(pipeline, "to_file", to_file)
    service = await works.start()
    for number in range(5):
        await works.put(mailbox, f"Subject: ordinary {number}\r\n\r\nx".encode())
    assert (await works.empty()).aside == 0
    assert len((await house.list(mailbox)).messages) == 7
    assert [beside[f"Subject: lost twice {number}".encode()] for number in range(2)] == [1, 1]
