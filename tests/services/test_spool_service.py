"""Draining: from a real spool into a real Redis, and into one that does not take everything."""

from __future__ import annotations

from itertools import pairwise

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from redis_house import Working, server
from spooled_samples import DEADLINE, IDS, clock, octets, soon, spooled, until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import formatEvent, globalLogPublisher

from mailfarm.backends import spool_waiting
from mailfarm.backends.spool_disk import DiskSpool
from mailfarm.backends.spool_form import to_form
from mailfarm.errors import Invalid, QueueUnavailable, Temporary
from mailfarm.services import spool as service
from mailfarm.services.spool import Spool

ALL = 1 << 40


@pytest.fixture
def disk(tmp_path):
    made = DiskSpool(
        tmp_path, f"mx-{IDS.new()}", reactor, CollectorRegistry(), clock, max_octets=ALL, max_entries=ALL, reserve=0
    )
    pytest_twisted.blockon(Deferred.fromCoroutine(made.start()))
    yield made
    pytest_twisted.blockon(Deferred.fromCoroutine(made.stop()))


@pytest.fixture
def redis(component):
    component("redis-server")
    with server() as made:
        yield made


class Draining:
    """The service at work, for the length of an ``async with``; what it logs."""

    def __init__(self, disk, queue):
        self.service = Spool(disk=disk, queue=queue, reactor=reactor)
        self.said = []

    async def __aenter__(self):
        globalLogPublisher.addObserver(self._hear)
        await self.service.start()
        return self

    async def __aexit__(self, *_):
        await soon(self.service.stop(0))
        globalLogPublisher.removeObserver(self._hear)

    def _hear(self, event):
        if str(event.get("log_namespace", "")).startswith("mailfarm."):
            self.said.append(formatEvent(event))

    def count(self, text):
        return sum(text in line for line in self.said)


async def fill(disk, *sizes):
    mails = [spooled(bytes([number % 256]) * size) for number, size in enumerate(sizes)]
    for mail in mails:
        await disk.put(mail)
    return mails


async def taken(queue):
    found = []
    while attempts := await queue.take(100, 60.0):
        found += attempts
    return found


@pytest_twisted.ensureDeferred
async def test_all_of_it_goes_into_the_queue_in_order_and_whole(disk, redis):
    mails = await fill(disk, *[1000] * 250, 700_000, 10, 3_000_000, 10, 0)
    async with Working(redis.url) as queue, Draining(disk, queue) as draining:
        await until(lambda: not disk.depth[0])
        await until(lambda: draining.count("the spool is empty: 255 mails went into the queue"))
        attempts = await taken(queue)
        assert [each.spooled.id for each in attempts] == [mail.id for mail in mails]
        for each, mail in zip(attempts, mails, strict=True):
            assert to_form(each.spooled) == to_form(mail)
            assert await octets(each.spooled) == await octets(mail)


@pytest_twisted.ensureDeferred
async def test_it_waits_for_the_queue_says_so_once_and_goes_on_by_itself(disk, redis):
    async with Working(redis.url) as queue, Draining(disk, queue) as draining:
        redis.kill()
        await until(lambda: queue.unavailable is not None)
        mails = await fill(disk, 10, 10, 10)
        await until(lambda: draining.count("the queue takes no mail from the spool"))
        more = await fill(disk, 10)
        await pause(3 * service.AGAIN)
        assert (disk.depth[0], draining.count("the queue takes no mail from the spool")) == (4, 1)
        redis.start()
        await until(lambda: not disk.depth[0])
        assert [each.spooled.id for each in await taken(queue)] == [mail.id for mail in (*mails, *more)]


@pytest_twisted.ensureDeferred
async def test_a_queue_that_is_full_gets_the_rest_when_it_has_room(disk, redis):
    mails = await fill(disk, *[10] * 9)
    found: list[str] = []
    async with Working(redis.url, max_entries=4) as queue, Draining(disk, queue):
        while len(found) < 9:
            left = max(0, 9 - 4 - len(found))
            await until(lambda left=left: disk.depth[0] <= left)
            attempts = await queue.take(4, 60.0)
            found += [each.spooled.id for each in attempts]
            await queue.done([each.fence for each in attempts])
    assert found == [mail.id for mail in mails]
    assert disk.depth == (0, 0)


@pytest_twisted.ensureDeferred
async def test_what_the_queue_will_never_take_is_put_aside_and_in_nobodys_way(disk, redis, tmp_path):
    mails = await fill(disk, 10, 20, 30)

    async with Working(redis.url) as queue:

        class Choosy:
            """The queue, but for one mail."""

            admit = queue.admit

            async def put(self, mail):
                if mail.id == mails[1].id:
                    raise Invalid("not this one")
                await queue.put(mail)

        async with Draining(disk, Choosy()) as draining:
            await until(lambda: not disk.depth[0])
            assert draining.count("not this one") == 1
        assert [each.spooled.id for each in await taken(queue)] == [mails[0].id, mails[2].id]
    (aside,) = (tmp_path / "damaged").iterdir()
    assert aside.read_bytes().endswith(await octets(mails[1]))


@pytest.fixture
def soon_again(monkeypatch):
    """What is passed over is tried again after a fifth of a second."""
    monkeypatch.setattr(spool_waiting, "FIRST_PAUSE", 0.2)
    monkeypatch.setattr(spool_waiting, "LONGEST_PAUSE", 0.4)


@pytest.mark.parametrize("size", [3_800_000, 3_300_000], ids=["more than it says it can hold", "more than it can"])
@pytest_twisted.ensureDeferred
async def test_what_the_queue_has_no_memory_for_lets_the_others_past_and_comes_when_it_has(
    disk, component, soon_again, size
):
    component("redis-server")
    with server("--maxmemory", "4mb") as redis:
        mails = await fill(disk, 10, size, 20, 30)
        async with Working(redis.url) as queue, Draining(disk, queue) as draining:
            await until(lambda: disk.depth[0] == 1)
            attempts = await taken(queue)
            assert [each.spooled.id for each in attempts] == [mail.id for mail in (mails[0], *mails[2:])]
            await queue.done([each.fence for each in attempts])
            await until(lambda: draining.count("is passed over and tried again") >= 2)
            assert (disk.passed_over, disk.backlog) == (1, False)
            with pytest.raises(Temporary, match=r"1 mails wait .*; others go past 1 of them: "):
                await disk.is_empty()
            redis.ask("config", "set", "maxmemory", "40mb")
            await until(lambda: not disk.depth[0])
            (large,) = await taken(queue)
            assert large.spooled.id == mails[1].id
            assert await octets(large.spooled) == await octets(mails[1])
            assert (disk.passed_over, disk.depth) == (0, (0, 0))


@pytest_twisted.ensureDeferred
async def test_what_the_disk_does_not_give_lets_the_others_past_and_comes_when_it_does(
    disk, redis, soon_again, tmp_path
):
    """Root may read everything; a link that leads to itself nobody can."""
    mails = await fill(disk, *[10] * 30)
    files = sorted(path for path in tmp_path.glob("mx-*/*") if path.name != "lock")
    for path in files[1:21]:
        path.rename(tmp_path / path.name)
        path.symlink_to(path)
    began = reactor.seconds()
    async with Working(redis.url) as queue, Draining(disk, queue) as draining:
        await until(lambda: disk.depth[0] == 20)
        assert reactor.seconds() - began < 2 * spool_waiting.TRIES * service.AGAIN + 1  # not for each of them
        assert [each.spooled.id for each in await taken(queue)] == [mail.id for mail in (mails[0], *mails[21:])]
        assert disk.passed_over == 20
        assert draining.count("it cannot be read: ") >= 20
        for path in files[1:21]:
            path.unlink()
            (tmp_path / path.name).rename(path)
        await until(lambda: not disk.depth[0])
        found = await taken(queue)
        assert sorted(each.spooled.id for each in found) == sorted(mail.id for mail in mails[1:21])


@pytest_twisted.ensureDeferred
async def test_a_mail_stays_on_the_disk_until_the_queue_has_confirmed_it(disk, tmp_path):
    """Whoever is killed in between has lost nothing. One that was not confirmed is tried again."""
    await fill(disk, 10, 10, 10)
    asked: list[Deferred[None]] = []

    class Thoughtful:
        """A queue that answers when it is told to."""

        async def admit(self, size): ...
        async def put(self, mail):
            asked.append(Deferred())
            await asked[-1]

    def kept():
        return len([path for path in tmp_path.glob("mx-*/*") if path.name != "lock"])

    async with Draining(disk, Thoughtful()):
        await until(lambda: len(asked) == 3)
        assert kept() == 3
        asked[0].callback(None)
        asked[2].callback(None)
        assert kept() == 3  # they are answered together
        asked[1].errback(QueueUnavailable("it may have been done"))
        await until(lambda: len(asked) == 4)
        assert kept() == 1
        asked[3].callback(None)
        await until(lambda: kept() == 0)


class Slow:
    """An intake whose every put takes so many seconds; when each window began."""

    def __init__(self, seconds):
        self.seconds = seconds
        self.began = []
        self.got = []

    async def admit(self, size):
        self.began.append(reactor.seconds())

    async def put(self, mail):
        await pause(self.seconds)
        self.got.append(mail.id)


async def pause(seconds):
    await deferLater(reactor, seconds)


@pytest_twisted.ensureDeferred
async def test_it_rests_for_as_long_as_it_worked(disk, monkeypatch):
    monkeypatch.setattr(service, "MOST", 2)
    mails = await fill(disk, *[10] * 6)
    queue = Slow(0.1)
    async with Draining(disk, queue):
        await until(lambda: not disk.depth[0])
    assert queue.got == [mail.id for mail in mails]
    assert len(queue.began) == 3
    assert all(later - before >= 0.2 for before, later in pairwise(queue.began))


@pytest_twisted.ensureDeferred
async def test_who_stops_goes_on_within_the_grace_and_does_not_rest(disk, monkeypatch):
    monkeypatch.setattr(service, "MOST", 2)
    await fill(disk, *[10] * 6)
    queue = Slow(0.1)
    draining = Spool(disk=disk, queue=queue, reactor=reactor)
    await draining.start()
    began = reactor.seconds()
    await soon(draining.stop(30))
    assert (len(queue.got), disk.depth[0]) == (6, 0)
    await fill(disk, *[10] * 6)
    draining = Spool(disk=disk, queue=queue, reactor=reactor)
    await draining.start()
    await soon(draining.stop(0.05))  # no longer than that: what has begun is finished
    assert disk.depth[0] == 4
    assert reactor.seconds() - began < DEADLINE


@pytest_twisted.ensureDeferred
async def test_who_stops_does_not_wait_for_a_queue_that_is_away(disk, redis):
    async with Working(redis.url) as queue:
        redis.kill()
        await until(lambda: queue.unavailable is not None)
        await fill(disk, 10)
        draining = Spool(disk=disk, queue=queue, reactor=reactor)
        await draining.start()
        began = reactor.seconds()
        await soon(draining.stop(1000))
        assert reactor.seconds() - began < DEADLINE
        assert disk.depth[0] == 1


@pytest_twisted.ensureDeferred
async def test_a_fault_of_our_own_ends_nothing(disk, redis, logged):
    await fill(disk, 10)
    async with Working(redis.url) as queue:

        class Faulty:
            calls = 0
            put = queue.put

            async def admit(self, size):
                self.calls += 1
                if self.calls == 1:
                    raise ZeroDivisionError("a fault")

        async with Draining(disk, Faulty()) as draining:
            await until(lambda: not disk.depth[0])
            assert draining.count("the spool could not be drained") == 1
    assert [event["log_failure"].type for event in logged] == [ZeroDivisionError]
    logged.clear()
