"""Partitions of content in PostgreSQL: one for each day (UTC), made ahead, dropped when its day is over.

Content stands in the partition of its ``until``, the end of its last message's retention. So what retention deletes
most of, the content, costs no deletion: a whole day goes in a moment, and its room on the disk with it::

    content_never       until is 2^63-1: kept until a reader or the end of a mailbox deletes it
    content_20260301    until is on that day (UTC); dropped on the next, when no message is left that ended by then
    content_rest        until is on a day that has no partition; deleted row by row

and the same for ``content_chunk``. Nothing depends on a partition being there: a day without one is a day whose
content is in ``content_rest``, where a day's partition cannot be made any more once something of it stands.

*Ahead* is today and the next two days, and the same from the end of each retention that a mailbox has.

Making and dropping a partition each need the tables for themselves for a moment. Who waits for that holds up all
others, so nobody waits longer than ``LOCK_TIMEOUT``: a dump that reads them only puts it off to a later pass.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable
from mailfarm.ports import Tx

from .postgres_errors import first_line
from .postgres_schema import LOCK

DAY = 86400 * 1_000_000
AHEAD = 3
"""Days, the first one among them."""
FARTHEST = 400 * DAY
"""The filing gives no content a longer time than this: see ``filing.PRUNED``."""
LOOK = 600.0
"""Seconds between two looks whether partitions are missing."""
AGAIN = 60.0
"""Seconds until partitions are made or dropped again when that failed."""
RETENTIONS = 1000
"""Different retentions for which partitions are made ahead at most."""
ROWS = 500
OCTETS = 64 * 1024 * 1024
"""One step deletes no more rows of ``content_rest`` than these, nor more octets, unless it is one row."""
LOCK_TIMEOUT = "500ms"

_NAME = re.compile(r"content_(\d{8})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_log = Logger()


class Partitions:
    """``unit`` and ``read`` are the database's, ``seconds`` a clock that is never set."""

    def __init__(
        self,
        unit: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
        read: Callable[[Callable[[Any], Awaitable[Any]]], Awaitable[Any]],
        seconds: Callable[[], float],
    ) -> None:
        self._unit = unit
        self._read = read
        self._seconds = seconds
        self._look_at = self._drop_at = seconds()

    async def prune(self) -> int:
        """Make what is missing, drop one day that is over, delete some of the rest. How many were dropped and deleted;
        0 when there is nothing left to do now. Raises DatabaseUnavailable."""
        if self._seconds() >= self._look_at:
            missing = await self._read(_missing)
            self._look_at = self._seconds() + LOOK
            for day in missing:
                await self._try("make", day, _make)
        dropped = 0
        if self._seconds() >= self._drop_at:
            for day in await self._read(_over):
                dropped = await self._try("drop", day, _drop)
                break
        deleted: int = await self._unit(_delete_rest)
        return dropped + deleted

    async def _try(self, what: str, day: int, work: Callable[[Tx, int], Awaitable[int]]) -> int:
        try:
            done: int = await self._unit(lambda tx: work(tx, day))
        except (DatabaseUnavailable, psycopg2.Error) as error:
            # someone reads the tables for long, or we may not change them
            self._look_at = self._drop_at = self._seconds() + AGAIN
            _log.warn("cannot {what} the partition of {day}: {error}", what=what, day=_name(day), error=_text(error))
            return 0
        return done


async def _missing(tx: Tx) -> list[int]:
    """The days that should have a partition and have none, the next first."""
    rows = await tx.rows(
        f"select distinct retention from mailbox where retention is not null order by retention limit {RETENTIONS}"
    )
    ends = [tx.now, *(tx.now + retention * 1_000_000 for (retention,) in rows)]
    wanted = {end // DAY + ahead for end in ends if end <= tx.now + FARTHEST for ahead in range(AHEAD)}
    return sorted(wanted - await _days(tx))


async def _over(tx: Tx) -> list[int]:
    """The days that are over and have no message left, the oldest first."""
    over = sorted(day for day in await _days(tx) if day < tx.now // DAY)
    return [day for day in over if not await _left(tx, day)]


async def _days(tx: Tx) -> set[int]:
    rows = await tx.rows(
        "select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid"
        " where i.inhparent = 'content'::regclass"
    )
    found = (_NAME.fullmatch(name) for (name,) in rows)
    days = (datetime.strptime(each[1], "%Y%m%d").replace(tzinfo=UTC) for each in found if each)
    return {(day - _EPOCH).days for day in days}


async def _left(tx: Tx, day: int) -> bool:
    # a message ends no later than its content, so this finds all that were made of the day's content, and perhaps more
    return await tx.row("select 1 from message where expires_at < ? limit 1", ((day + 1) * DAY,)) is not None


async def _begin(tx: Tx) -> bool:
    """Whether this unit has the right to change tables, which it keeps to its end: one at a time has it, and none while
    ``mailfarm schema`` works."""
    await tx.lock("mailbox", [])  # each statement is to see what is there by then, not when the unit began
    row = await tx.row(f"select pg_try_advisory_xact_lock({LOCK})")
    await tx.execute(f"set local lock_timeout = '{LOCK_TIMEOUT}'")
    return bool(row and row[0])


async def _make(tx: Tx, day: int) -> int:
    if not await _begin(tx) or day in await _days(tx):
        return 0
    start, end = day * DAY, (day + 1) * DAY
    stray = "select 1 from content_rest where until >= ? and until < ? limit 1"
    if await tx.row(stray, (start, end)) is not None:
        return 0
    for table, options in (("content", " with (toast_tuple_target = 8160)"), ("content_chunk", "")):
        name = f"{table}_{_name(day)}"
        await tx.execute(f"create table {name} (like {table} including defaults including storage){options}")
        await tx.execute(f"alter table {table} attach partition {name} for values from ({start}) to ({end})")
    return 1


async def _drop(tx: Tx, day: int) -> int:
    if not await _begin(tx) or day not in await _days(tx):
        return 0
    # filing that is under way ends first, and is seen then
    await tx.execute("lock table only content, only content_chunk in access exclusive mode")
    if await _left(tx, day):
        return 0
    await tx.execute(f"drop table content_{_name(day)}, content_chunk_{_name(day)}")
    return 1


async def _delete_rest(tx: Tx) -> int:
    await tx.lock("mailbox", [])
    # the tables first, in _drop's order, which wants content_rest as well: each would wait for the other
    await tx.execute("lock table only content, only content_chunk in row exclusive mode")
    found = await tx.rows(
        "select id, until, size from content_rest where until <= ?"
        " and not exists (select 1 from message where message.content = content_rest.id) order by until limit ?",
        (tx.now, ROWS),
    )
    gone: dict[str, int] = {}
    octets = 0
    for id, until, size in found:
        octets += size
        if gone and octets > OCTETS:
            break
        gone[id] = until
    if not gone:
        return 0
    ids, moments = ", ".join("?" * len(gone)), ", ".join("?" * len(set(gone.values())))
    params = [*gone, *set(gone.values())]
    await tx.execute(f"delete from content_chunk where content in ({ids}) and until in ({moments})", params)
    return await tx.execute(f"delete from content where id in ({ids}) and until in ({moments})", params)


def _name(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).strftime("%Y%m%d")


def _text(error: BaseException) -> str:
    return first_line(error) if isinstance(error, psycopg2.Error) else str(error)
