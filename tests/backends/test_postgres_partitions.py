"""Partitions of content: made ahead, dropped when their day is over, missed by nobody when they are not there."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import psycopg2
import pytest
import pytest_twisted
from mailbox_house import House, until
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailfarm.backends.postgres_partitions import AGAIN, LOOK, Partitions
from mailfarm.mailboxes import messages

DAY = 86400


@pytest_twisted.async_yield_fixture
async def house(postgres_database):
    made = await House(postgres_database).open()
    yield made
    await made.close()
    assert not made.failures


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def partitions(house, clock):
    return Partitions(house.database.unit, house.database.read, clock.seconds)


@pytest.fixture
def other(postgres_database):
    """A connection of someone else's, in a transaction."""
    connection = psycopg2.connect(postgres_database)
    yield connection.cursor()
    connection.close()


def day(house, ahead: int = 0) -> str:
    now = datetime.fromtimestamp(house.clock() / 1_000_000, UTC)
    return (now + timedelta(days=ahead)).strftime("%Y%m%d")


async def standing(house) -> set[str]:
    """The days that have partitions, of both tables."""

    async def look(tx):
        return [
            {
                name.removeprefix(f"{table}_")
                for (name,) in await tx.rows(
                    "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
                    f" where i.inhparent = '{table}'::regclass"
                )
            }
            for table in ("content", "content_chunk")
        ]

    content, chunks = await house.database.read(look)
    assert content == chunks
    return content - {"never", "rest"}


async def where(house, table: str = "content") -> list[str]:
    """The partitions in which something stands, for each row."""

    async def look(tx):
        rows = await tx.rows(f"select tableoid::regclass::text from {table} order by 1")
        return [name.removeprefix(f"{table}_") for (name,) in rows]

    return await house.database.read(look)


@pytest_twisted.ensureDeferred
async def test_days_are_made_ahead_for_each_retention(house, partitions, clock):
    await partitions.prune()
    assert await standing(house) == {day(house, n) for n in (0, 1, 2)}
    await house.mailbox(retention=7 * DAY)
    await house.mailbox(retention=500 * DAY)
    clock.advance(LOOK)
    await partitions.prune()
    assert await standing(house) == {day(house, n) for n in (0, 1, 2, 7, 8, 9)}
    house.ahead = DAY
    clock.advance(LOOK)
    await partitions.prune()
    assert {day(house, n) for n in (0, 1, 2, 7, 8, 9)} <= await standing(house)


@pytest_twisted.ensureDeferred
async def test_content_stands_in_the_partition_of_its_day(house, partitions):
    boxes = [await house.mailbox(retention=each) for each in (DAY, 7 * DAY, None, 500 * DAY)]
    await partitions.prune()
    await house.file(*[house.item(box, content=os.urandom(100_000)) for box in boxes], house.item(*boxes))
    expected = sorted([day(house, 1), day(house, 7), "never", "never", "never"])
    assert await where(house) == expected
    assert await where(house, "content_chunk") == expected[:-1]


@pytest_twisted.ensureDeferred
async def test_a_day_is_dropped_whole_when_it_is_over(house, partitions):
    box = await house.mailbox(retention=60)
    await partitions.prune()
    await house.file(*[house.item(box, content=os.urandom(100_000)) for _ in range(3)])
    today = day(house)
    assert set(await where(house)) <= {today, day(house, 1)}  # it may be just before midnight
    house.ahead = 61
    while await house.unit(messages.expire, house.ids, 100):
        pass
    assert await partitions.prune() == 0
    assert len(await where(house)) == 3
    house.ahead = 2 * DAY
    assert await partitions.prune() == 1
    assert await partitions.prune() == 1
    assert await partitions.prune() == 0
    assert await where(house) == await where(house, "content_chunk") == []
    assert today not in await standing(house)


@pytest_twisted.ensureDeferred
async def test_a_day_of_which_a_message_is_left_stays(house, partitions):
    box = await house.mailbox(retention=60)
    await partitions.prune()
    (filed,) = (await house.file(house.item(box))).filed
    house.ahead = 2 * DAY  # and nobody has expired it
    await partitions.prune()
    assert (await house.read(messages.find, house.account, filed.message.id)).summary == filed.message


@pytest_twisted.ensureDeferred
async def test_what_is_filed_while_a_day_is_dropped_keeps_it(house, partitions, other):
    """A unit that began before is waited for; what it files is seen."""
    await house.mailbox(retention=60)
    await partitions.prune()
    yesterday = day(house)
    (moment,) = [house.clock()]
    other.execute(
        "insert into content values ('late', %s, 'a', 1, '', 1, '', 0, 2, '{}')",
        (moment,),
    )
    house.ahead = 2 * DAY
    assert await partitions.prune() == 0  # not within its time
    other.connection.rollback()
    assert yesterday in await standing(house)


@pytest_twisted.ensureDeferred
async def test_without_a_partition_content_is_filed_all_the_same_and_goes_row_by_row(house, partitions, clock):
    box = await house.mailbox(retention=60)
    await house.file(*[house.item(box, content=os.urandom(100_000)) for _ in range(3)])
    assert await where(house) == await where(house, "content_chunk") == ["rest"] * 3
    house.ahead = 1
    await partitions.prune()
    # where something stands in the rest its day is not made any more, but the others are
    assert day(house, 2) in await standing(house)
    assert await where(house) == ["rest"] * 3
    house.ahead = 61
    while await house.unit(messages.expire, house.ids, 100):
        pass
    assert await partitions.prune() == 3
    assert await where(house) == await where(house, "content_chunk") == []


@pytest_twisted.ensureDeferred
async def test_filing_while_the_partition_is_made_finds_it_or_the_rest(house, other):
    box = await house.mailbox(retention=7 * DAY)
    start = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=6)
    first, last = (int((start + timedelta(days=n)).timestamp()) * 1_000_000 for n in (0, 4))
    for table in ("content", "content_chunk"):
        other.execute(f"create table {table}_week (like {table} including defaults)")
        other.execute(f"alter table {table} attach partition {table}_week for values from ({first}) to ({last})")
    filing = Deferred.fromCoroutine(_file(house, box))

    def waits() -> bool:
        other.execute("select count(*) from pg_stat_activity where wait_event_type = 'Lock'")
        return other.fetchone()[0] > 0

    await until(waits)
    other.connection.commit()
    (filed,) = (await filing).filed
    assert await where(house) == ["week"]
    assert (await house.read(messages.find, house.account, filed.message.id)).summary == filed.message


async def _file(house, box):
    return await house.file(house.item(box))


@pytest_twisted.ensureDeferred
async def test_a_long_reader_puts_dropping_off_and_holds_up_nobody(house, partitions, clock, other):
    box, keeps = await house.mailbox(retention=60), await house.mailbox()
    await partitions.prune()
    await house.file(house.item(box))
    house.ahead = 2 * DAY
    while await house.unit(messages.expire, house.ids, 100):
        pass
    other.execute("select count(*) from content")  # as a dump does
    assert await partitions.prune() == 0
    assert len((await house.file(house.item(keeps))).filed) == 1
    other.connection.rollback()
    assert await partitions.prune() == 0  # not again so soon
    clock.advance(AGAIN)
    assert await partitions.prune() == 1


@pytest_twisted.ensureDeferred
async def test_small_mail_stays_in_its_row(house, partitions):
    box = await house.mailbox(retention=DAY)
    keeps = await house.mailbox()
    await partitions.prune()
    await house.file(house.item(box, content=os.urandom(5_000)), house.item(keeps, content=os.urandom(5_000)))

    async def toasted(tx):
        return await tx.rows(
            "select c.relname, pg_relation_size(c.reltoastrelid) from pg_class c"
            " where c.relkind = 'r' and c.relname ~ '^content_[0-9n]' and pg_relation_size(c.oid) > 0"
        )

    rows = await house.database.read(toasted)
    assert len(rows) == 2
    assert {size for _, size in rows} == {0}
