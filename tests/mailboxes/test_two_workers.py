"""Several workers, sweeps and readers at the same mailboxes, on PostgreSQL, where they do not take turns by nature."""

from __future__ import annotations

import random

import pytest
import pytest_twisted
from servers import shifted_url
from spooled_samples import start
from twisted.internet import reactor
from twisted.internet.defer import gatherResults

from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.errors import Conflict, NotFound
from mailfarm.events import Deleted, Expired, Filed, Seen
from mailfarm.mailboxes import filing, messages, store
from mailfarm.mailboxes.mailbox import NewMailbox


@pytest.fixture
def database_url(postgres_database):
    return postgres_database


@pytest_twisted.async_yield_fixture
async def workers(house, postgres_database):
    """Three more processes' databases."""
    made = [PostgresDatabase(shifted_url(postgres_database), reactor, pool=3) for _ in range(3)]
    yield made
    for each in made:
        await each.stop()


def file(house, worker, items):
    return start(worker.unit(lambda tx: filing.file(tx, house.ids, items), late=True))


async def check(house, mailbox):
    """Numbers without a gap, and counters that agree with what is there."""
    found = await house.find(mailbox)
    events = await house.events(mailbox)
    assert [event.seq for event in events] == list(range(1, found.cursor + 1))
    page = await house.list(mailbox, limit=1000)
    assert len(page.messages) == found.messages
    assert sum(not message.seen for message in page.messages) == found.unseen
    return events


@pytest_twisted.ensureDeferred
async def test_workers_that_file_into_the_same_mailboxes_leave_no_gap(house, workers):
    boxes = [await house.mailbox() for _ in range(5)]
    chance = random.Random(1)
    batches = [
        [house.item(*chance.sample(boxes, chance.randint(1, 5))) for _ in range(chance.randint(1, 10))]
        for _ in range(60)
    ]
    wanted = sum(len(set(item.spooled.mailboxes)) for batch in batches for item in batch)
    # some batches come to two workers, as after a lease that ran out
    given = [*batches, *batches[::3]]
    chance.shuffle(given)
    results = await gatherResults([file(house, workers[n % 3], batch) for n, batch in enumerate(given)])
    filed = [event for result in results for event in result.filed]
    assert len(filed) == wanted
    assert sum(len(result.known) for result in results) == sum(len(batch) for batch in batches[::3])
    events = [event for box in boxes for event in await check(house, box)]
    assert {(e.mailbox, e.seq, e.id) for e in events} == {(e.mailbox, e.seq, e.id) for e in filed}


@pytest.mark.parametrize("seed", range(2))
@pytest_twisted.ensureDeferred
async def test_filing_marking_deleting_expiring_and_closing_at_the_same_time(house, workers, seed):
    chance = random.Random(seed)
    boxes = [await house.mailbox(retention=chance.choice((None, 1))) for _ in range(4)]
    dying = await house.mailbox()
    told, closed = [], []

    async def unit(work, *args):
        told.extend(await chance.choice(workers).unit(lambda tx: work(tx, house.ids, *args)))

    async def filing_():
        for _ in range(15):
            items = [house.item(*chance.sample([*boxes, dying], chance.randint(1, 5))) for _ in range(3)]
            told.extend((await file(house, chance.choice(workers), items)).filed)

    async def reading():
        for _ in range(15):
            box = chance.choice(boxes)
            if chance.random() < 0.7:
                await unit(messages.mark, house.account, box.id, None, chance.random() < 0.7)
            else:
                shown = (await house.list(box, limit=5)).messages
                await unit(messages.delete, house.account, box.id, [message.id for message in shown])

    async def sweeping():
        for _ in range(20):
            house.ahead += 0.2  # what is kept for one second expires while all this goes on
            await unit(messages.expire, 50)
            closed.extend(await chance.choice(workers).unit(lambda tx: store.expire_mailboxes(tx, house.ids, 10)))
            while await chance.choice(workers).unit(store.clear_closed):
                pass

    async def closing():
        await house.unit(store.change, house.account, dying.id, *())
        closed.append(await house.unit(store.delete, house.ids, house.account, dying.id))

    works = [filing_(), filing_(), filing_(), reading(), reading(), sweeping(), sweeping(), closing()]
    await gatherResults([start(work) for work in works])
    seen = {kind: sum(type(event) is kind for event in told) for kind in (Filed, Seen, Deleted, Expired)}
    assert all(seen.values()), seen
    for box in boxes:
        events = await check(house, box)
        assert {event.id for event in events} == {event.id for event in told if event.mailbox == box.id}
    assert [event.mailbox for event in closed] == [dying.id]
    with pytest.raises(NotFound):
        await house.find(dying)


@pytest_twisted.ensureDeferred
async def test_two_sweeps_announce_each_end_once(house, workers):
    boxes = [await house.mailbox(lifetime=60) for _ in range(25)]
    house.ahead = 61

    async def sweep(worker):
        found = []
        while closed := await worker.unit(lambda tx: store.expire_mailboxes(tx, house.ids, 7)):
            found += closed
        while await worker.unit(store.clear_closed):
            pass
        return found

    found = await gatherResults([start(sweep(worker)) for worker in workers])
    ended = [closed.mailbox for each in found for closed in each]
    assert sorted(ended) == sorted(box.id for box in boxes)
    assert set((await house.counts()).values()) == {0}


@pytest_twisted.ensureDeferred
async def test_content_whose_last_two_messages_go_at_once_goes_with_them(house, workers):
    a, b = await house.mailbox(), await house.mailbox()
    await house.file(*[house.item(a, b, content=b"x" * 1000) for _ in range(20)])

    def delete(worker, box):
        return start(worker.unit(lambda tx: messages.delete(tx, house.ids, house.account, box.id, None)))

    await gatherResults([delete(workers[0], a), delete(workers[1], b)])
    counts = await house.counts()
    assert (counts["message"], counts["content"], counts["content_chunk"]) == (0, 0, 0)


@pytest_twisted.ensureDeferred
async def test_an_address_asked_for_by_many_at_once_is_given_to_one(house, workers):
    async def create(worker):
        new = NewMailbox(address="ann@mailfarm.test")
        try:
            return (await worker.unit(lambda tx: store.create(tx, house.ids, house.account, new, house.domains)))[0]
        except Conflict:
            return None

    made = await gatherResults([start(create(workers[n % 3])) for n in range(12)])
    assert len([each for each in made if each is not None]) == 1

    async def ensure(worker):
        return (await worker.unit(lambda tx: store.ensure(tx, house.ids, house.account, "bob@mailfarm.test")))[0].id

    assert len(set(await gatherResults([start(ensure(workers[n % 3])) for n in range(12)]))) == 1


@pytest_twisted.ensureDeferred
async def test_what_is_in_a_mailbox_goes_with_it_also_when_its_account_goes(house):
    """Also where nothing but the database knows of it: an older mailfarm, or a person with psql."""
    gone, stays = await house.mailbox(), await house.mailbox(await house.new_account("other"))
    await house.file(house.item(gone), house.item(gone), house.item(stays))

    async def delete(tx):
        await tx.execute("delete from account where id = ?", (house.account,))

    await house.database.unit(delete)
    for table in ("mailbox", "message", "event"):
        sql = f"select count(*), max({'id' if table == 'mailbox' else 'mailbox'}) from {table}"
        assert await house.database.read(lambda tx, sql=sql: tx.row(sql)) == (1, stays.id)
