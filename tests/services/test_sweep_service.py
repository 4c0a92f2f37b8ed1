"""sweep: what has expired goes, and leaves nothing behind."""

from __future__ import annotations

import os

import pytest
import pytest_twisted
from mailbox_house import House, until
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from mailfarm.accounts import store as accounts
from mailfarm.accounts.secret import new_secret
from mailfarm.config import SweepSettings
from mailfarm.errors import DatabaseUnavailable
from mailfarm.events import Expired, MailboxClosed
from mailfarm.mailboxes import store
from mailfarm.services.sweep import Sweep

DAY = 86400


@pytest_twisted.async_yield_fixture
async def house(database_url):
    made = await House(database_url).open()
    yield made
    await made.close()


@pytest_twisted.async_yield_fixture
async def on_sqlite():
    made = await House().open()
    yield made
    await made.close()


@pytest.fixture
def heard():
    return []


def sweep(house, database=None, interval=3600.0):
    registry = CollectorRegistry()
    service = Sweep(
        settings=SweepSettings(interval=interval),
        database=database or house.database,
        bus=house.bus,
        ids=house.ids,
        reactor=reactor,
        registry=registry,
    )
    service.registry = registry
    return service


async def everything(house, database_url):
    """The number of rows in every table there is, but what makes the database one of ours."""
    if database_url:
        names = (
            "select relname from pg_class where relnamespace = 'public'::regnamespace and not relispartition"
            " and relkind in ('r', 'p')"
        )
    else:
        names = "select name from sqlite_master where type = 'table' and name not like 'sqlite_%'"

    async def count(tx):
        return {table: (await tx.row(f"select count(*) from {table}"))[0] for (table,) in await tx.rows(names)}

    return await house.database.read(count)


@pytest_twisted.ensureDeferred
async def test_a_disposable_mailbox_that_ended_leaves_nothing_behind(house, database_url, heard):
    before = await everything(house, database_url)
    mailbox = await house.mailbox(kind="disposable", lifetime=60)
    await house.bus.subscribe(mailbox.id, heard.append)
    await house.bus.subscribe(f"account:{house.account}", heard.append)
    secret = new_secret(os.urandom)
    await house.unit(
        accounts.create_credential, house.ids, house.account, secret.verifier, name=mailbox.id, mailbox=mailbox.id
    )
    for n in range(30):
        await house.send(mailbox, content=b"x" * 20_000 * n)
    await house.mark(mailbox, None)
    await house.delete(mailbox, [(await house.list(mailbox)).messages[0].id])
    heard.clear()
    house.ahead = 61
    await sweep(house).sweep()
    assert [type(event) for event in heard] == [MailboxClosed, MailboxClosed]
    after = await everything(house, database_url)
    # that something was filed once is remembered without saying what or where, until no redelivery can come
    assert after.pop("filed") == 30
    before.pop("filed")
    assert after == before
    house.ahead = 31 * DAY
    await sweep(house).sweep()
    assert (await everything(house, database_url))["filed"] == 0


@pytest_twisted.ensureDeferred
async def test_what_was_in_it_can_not_be_read_from_the_disk_either(on_sqlite):
    house = on_sqlite
    other = await house.mailbox()
    mailbox = await house.mailbox(kind="disposable", lifetime=60)
    for size in (1000, 20_000, 600_000):
        for box in (mailbox, other):
            await house.send(box, content=os.urandom(size), text="Lorem ipsum dolor sit amet " * 10)
    folder = house.engine.path.parent

    async def stored(tx):
        rows = await tx.rows(
            "select m.mailbox, c.data, coalesce(k.data, '') from message m join content c on c.id = m.content"
            " left join content_chunk k on k.content = c.id"
        )
        return [(box, bytes(data)[-40:]) for box, *blobs in rows for data in blobs if data]

    pieces = await house.database.read(stored)
    theirs = [data for box, data in pieces if box == mailbox.id]
    others = [data for box, data in pieces if box == other.id]
    assert len(theirs) == len(others) >= 5

    def found(what):
        return sum(any(data in file for file in files) for files in [read()] for data in what)

    def read():
        return [path.read_bytes() for path in folder.iterdir()]

    assert found(theirs) == len(theirs)
    house.ahead = 61
    await sweep(house).sweep()
    await until(lambda: not found(theirs))
    assert found(others) == len(others)


@pytest_twisted.ensureDeferred
async def test_messages_expire_by_their_mailboxs_retention(house, heard):
    mailbox, keeps = await house.mailbox(retention=60), await house.mailbox()
    await house.bus.subscribe(mailbox.id, heard.append)
    for box in (mailbox, keeps):
        for _ in range(3):
            await house.send(box)
    heard.clear()
    house.ahead = 61
    await sweep(house).sweep()
    (event,) = heard
    assert isinstance(event, Expired)
    assert (event.seq, len(event.messages)) == (4, 3)
    assert (await house.find(mailbox)).messages == 0
    assert (await house.find(keeps)).messages == 3


@pytest_twisted.ensureDeferred
async def test_what_a_deletion_left_to_do_is_done(house, monkeypatch):
    monkeypatch.setattr("mailfarm.mailboxes.changes.MOST", 3)
    mailbox = await house.mailbox()
    await house.file(*[house.item(mailbox) for _ in range(20)])
    await house.unit(store.delete, house.ids, house.account, mailbox.id)
    assert (await house.counts())["message"] > 0
    await sweep(house).sweep()
    assert set((await house.counts()).values()) == {0}


@pytest_twisted.ensureDeferred
async def test_two_sweeps_at_once_do_no_harm(house, heard):
    boxes = [await house.mailbox(lifetime=60, retention=30) for _ in range(5)]
    for box in boxes:
        await house.bus.subscribe(box.id, heard.append)
        await house.file(*[house.item(box) for _ in range(10)])
    house.ahead = 61
    first, second = sweep(house), sweep(house)
    house.spawn(first.sweep())
    await second.sweep()
    await first.sweep()
    await first.stop()
    assert set((await house.counts()).values()) == {0}
    assert len(heard) == 5
    assert not house.failures


@pytest_twisted.ensureDeferred
async def test_content_goes_when_the_retention_of_its_messages_has_ended(house):
    service = sweep(house)
    mailbox = await house.mailbox(retention=60)
    await service.sweep()
    await house.file(*[house.item(mailbox, content=os.urandom(size)) for size in (10, 100_000)])
    house.ahead = 61
    await service.sweep()
    assert (await house.counts())["message"] == 0
    house.ahead = DAY + 61
    await service.sweep()
    assert set((await house.counts()).values()) == {0, 1, 3}  # the mailbox, and that it had two and lost them
    assert service.registry.get_sample_value("mailfarm_sweep_swept_total", {"kind": "content"}) >= 1


@pytest_twisted.ensureDeferred
async def test_many_sweeps_at_once_end_each_thing_once(house, heard):
    ends = [await house.mailbox(lifetime=60) for _ in range(20)]
    stays = [await house.mailbox(retention=30) for _ in range(5)]
    for box in (*ends, *stays):
        await house.bus.subscribe(box.id, heard.append)
        await house.file(*[house.item(box) for _ in range(5)])
    house.ahead = 61
    sweeps = [sweep(house) for _ in range(4)]
    await gatherResults([Deferred.fromCoroutine(each.sweep()) for each in sweeps])
    await sweeps[0].sweep()
    closed = [event.mailbox for event in heard if isinstance(event, MailboxClosed)]
    assert sorted(closed) == sorted(box.id for box in ends)
    expired = [id for event in heard if isinstance(event, Expired) for id in event.messages]
    assert len(expired) == len(set(expired)) == 25
    for box in stays:
        seqs = [event.seq for event in await house.events(box)]
        assert seqs == list(range(1, len(seqs) + 1))


class Flaky:
    """The real database, away now and then."""

    def __init__(self, database):
        self._database = database
        self.units = 0

    def unit(self, work):
        self.units += 1
        if self.units % 2:
            raise DatabaseUnavailable("away")
        return self._database.unit(work)

    def prune(self):
        return self._database.prune()


@pytest_twisted.ensureDeferred
async def test_the_service_goes_on_whatever_happens_and_stops_when_asked(house, heard):
    mailbox = await house.mailbox(lifetime=60)
    await house.bus.subscribe(mailbox.id, heard.append)
    house.ahead = 61
    database = Flaky(house.database)
    service = sweep(house, database, interval=0.01)
    await service.start()
    await until(lambda: heard and database.units > 10)
    await service.stop()
    await service.stop()
    units = database.units
    await house.mailbox()
    assert database.units == units
