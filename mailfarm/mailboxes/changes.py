"""Changing what is in mailboxes: the one place that gives out change numbers and deletes content.

A unit that changes a mailbox locks its row, takes the next numbers, writes an event row for each, and stores the last
number back: no gaps, whatever else happens at the same time.

An event row holds no content. A ``filed`` row names its message, and reading joins the message's summary to it; so a
message that is deleted leaves nothing of itself in the events either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson

from mailfarm.events import (
    Change,
    Deleted,
    Expired,
    Filed,
    Seen,
    Summary,
    from_json,
    summary_form,
    summary_from_form,
    to_json,
)
from mailfarm.ports import Rows, Tx
from mailfarm.values import value

T = TypeVar("T")

EVENTS_KEPT = 10_000
"""How many of its last changes a mailbox keeps as events, at least."""
TRIM = 1_000
"""Old events are deleted so many at a time: that makes it rare."""
MOST = 500
"""The most messages one call and one event mark or delete."""
MOST_OCTETS = 64 * 1024 * 1024
"""Where their content together is larger than this, a call deletes fewer: at least one."""


@value
class Place:
    """Where a mailbox's numbering stands."""

    mailbox: str
    account: str
    seq: int
    oldest: int


@value
class Growth:
    """How many messages were filed into a mailbox, each with the next number."""

    where: Place
    messages: int


TO_REMOVE = "m.id, m.content, m.until, m.shared, m.seen, m.size"
"""The columns of a message that ``Removal`` holds."""
AT_ONCE = 500
"""Rows in one parameter."""


@dataclass(frozen=True, slots=True)
class Removal:
    """A message that is to go. ``until`` says where its content is, ``shared`` whether other messages were made of it;
    ``size`` is the content's, in octets."""

    id: str
    content: str
    until: int
    shared: int
    seen: int
    size: int


async def place(tx: Tx, mailbox: str) -> Place | None:
    """Lock the mailbox and say where its numbering stands; None if it is gone or has ended."""
    await tx.lock("mailbox", [mailbox])
    row = await tx.row(
        "select id, account, seq, oldest from mailbox where id = ? and (ends_at is null or ends_at > ?)",
        (mailbox, tx.now),
    )
    return None if row is None else Place(*row)


async def places(tx: Tx, mailboxes: Sequence[str]) -> Sequence[Place]:
    """The same for several, at most ``MOST``: all are locked before anything of any is looked at."""
    await tx.lock("mailbox", mailboxes)
    rows = await tx.rows(
        f"select id, account, seq, oldest from mailbox where id in ({marks(mailboxes)})"
        " and (ends_at is null or ends_at > ?) order by id",
        (*mailboxes, tx.now),
    )
    return [Place(*row) for row in rows]


EVENT = ("mailbox", "seq", "data")
"""The columns of an event."""


def filed_row(id: str, mailbox: str, seq: int, at: int, message: str) -> tuple[str, int, str]:
    """The row of a ``filed`` event."""
    return mailbox, seq, f'{{"filed":"{id}","at":{at},"message":"{message}"}}'


def event_from_row(account: str, mailbox: str, seq: int, data: str, summary: str | None) -> Change:
    """The inverse. ``summary`` is the message's, None when it has been deleted since: then the change still has its
    number and the message its id, and nothing else, and is marked ``gone``."""
    if not data.startswith('{"filed":'):
        change = from_json(data)
        assert isinstance(change, Seen | Deleted | Expired)
        return change
    raw = orjson.loads(data)
    message = (
        Summary(raw["message"], mailbox, seq, raw["at"], "", (), None, (), (), "", "", "", 0, 0)
        if summary is None
        else summary_from(summary, False)
    )
    return Filed(raw["filed"], account, mailbox, seq, raw["at"], message, summary is None)


def summary_text(summary: Summary) -> str:
    """The ``summary`` column of a message."""
    return orjson.dumps(summary_form(summary)).decode()


def summary_from(text: str, seen: bool) -> Summary:
    """The inverse; whether it was seen is a column of its own."""
    form = orjson.loads(text)
    form["seen"] = seen
    return summary_from_form(form)


def summary_json(text: str, seen: bool) -> orjson.Fragment:
    """The JSON form of a summary, made of that column: what is stored is what is shown. A quotation mark inside a text
    has a backslash before it, so what is looked for is found as a member alone."""
    return orjson.Fragment(text.replace('"seen":false', '"seen":true', 1) if seen else text)


async def record(tx: Tx, where: Place, change: Sequence[Change], messages: int, unseen: int) -> None:
    """Write the events of one mailbox, which bear the numbers after ``where.seq``, and what they do to its counters."""
    await tx.insert("event", EVENT, [(each.mailbox, each.seq, to_json(each).decode()) for each in change])
    await advance(tx, where, change[-1].seq, messages, unseen)


async def advance(tx: Tx, where: Place, seq: int, messages: int, unseen: int) -> None:
    """Store the last number given out, and trim the events when there are enough to trim."""
    await tx.execute(
        "update mailbox set seq = ?, messages = messages + ?, unseen = unseen + ? where id = ?",
        (seq, messages, unseen, where.mailbox),
    )
    await _trim(tx, where, seq)


async def grow(tx: Tx, growths: Sequence[Growth]) -> None:
    """The same for messages filed into many mailboxes, in a statement for every ``AT_ONCE`` of them."""
    grown = [growth for growth in growths if growth.messages]
    for some in parted(grown):
        await tx.tell(
            "update mailbox set seq = seq + v.column2, messages = messages + v.column2, unseen = unseen + v.column2"
            " from (values ?) as v where mailbox.id = v.column1",
            [Rows([(growth.where.mailbox, growth.messages) for growth in some])],
        )
    for growth in grown:
        await _trim(tx, growth.where, growth.where.seq + growth.messages)


async def _trim(tx: Tx, where: Place, seq: int) -> None:
    if seq - where.oldest >= EVENTS_KEPT + TRIM:
        oldest = seq - EVENTS_KEPT
        await tx.execute("delete from event where mailbox = ? and seq <= ?", (where.mailbox, oldest))
        await tx.execute("update mailbox set oldest = ? where id = ?", (oldest, where.mailbox))


def enough(rows: Sequence[Removal]) -> Sequence[Removal]:
    """As many of ``rows`` as one call may delete, at least one."""
    total = 0
    for number, row in enumerate(rows):
        total += row.size
        if total > MOST_OCTETS and number:
            return rows[:number]
    return rows


async def remove(tx: Tx, rows: Sequence[Removal], *, pruned: int = -1) -> None:
    """Delete messages, and content that no message has any more with its chunks. Content that is kept up to ``pruned``
    (microseconds) or less is left to ``Database.prune``."""
    ids = [row.id for row in rows]
    await tx.execute(f"delete from message where id in ({marks(ids)})", ids)
    contents = {row.content: row.until for row in rows if row.until > pruned}
    if not contents:
        return
    # Two units that delete the last two messages of one content at the same time would each see the other's: writing
    # the content first makes one of them wait. Content of one message is already behind its mailbox's lock.
    # until leads to the one partition where it is.
    shared = {row.content: row.until for row in rows if row.shared and row.content in contents}
    if shared:
        await tx.execute(f"update content set stored_at = stored_at where {_these('id', shared)}", _params(shared))
    gone = await tx.rows(
        f"delete from content where {_these('id', contents)}"
        " and not exists (select 1 from message where message.content = content.id) returning id, until, chunks",
        _params(contents),
    )
    chunked = {id: until for id, until, chunks in gone if chunks}
    if chunked:
        await tx.execute(f"delete from content_chunk where {_these('content', chunked)}", _params(chunked))


def _these(column: str, contents: dict[str, int]) -> str:
    return f"{column} in ({marks(list(contents))}) and until in ({marks(list(set(contents.values())))})"


def _params(contents: dict[str, int]) -> list[str | int]:
    return [*contents, *set(contents.values())]


async def remove_some(tx: Tx, mailbox: str) -> bool:
    """Delete messages of a mailbox that is closed, with no events. Whether there may be more of them."""
    found = await tx.rows(
        f"select {TO_REMOVE} from message m where m.mailbox = ? order by m.seq limit ?", (mailbox, MOST)
    )
    rows = [Removal(*row) for row in found]
    some = enough(rows)
    if some:
        await remove(tx, some)
    return len(some) < len(rows) or len(rows) == MOST


def parted(items: Sequence[T]) -> list[Sequence[T]]:
    """``items`` in order, ``AT_ONCE`` together."""
    return [items[start : start + AT_ONCE] for start in range(0, len(items), AT_ONCE)]


def marks(values: Sequence[Any]) -> str:
    """As many question marks as values, for ``in (...)``. Never empty."""
    return ", ".join("?" * len(values)) or "null"
