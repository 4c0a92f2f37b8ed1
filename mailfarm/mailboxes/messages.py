"""Messages in mailboxes: list, read, mark, delete. Every function runs inside a unit and awaits only its ``tx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from mailfarm.errors import Invalid, NotFound
from mailfarm.events import Change, Deleted, Expired, Seen, Summary
from mailfarm.ids import Ids
from mailfarm.mailboxes import content as stored
from mailfarm.ports import NEVER, Tx

from . import changes, scan
from .changes import MOST, TO_REMOVE, Removal, marks, summary_from
from .content import ContentRef, StoredMessage
from .match import ALL, Criteria
from .packing import unpack_behind, unpack_detail, unpack_piece

Order = Literal["asc", "desc"]
LONGEST_PAGE = 1000
MOST_IDS = 10_000
"""More ids than this are refused in one call."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some messages. ``cursor`` is the last change considered for this very answer. To follow the mailbox, go on after
    the cursor of the *first* page: what happened to its messages while the others were read has a number above that
    one, and perhaps below a later page's.
    ``next`` is where the next page begins, ``after`` it (asc) or ``before`` it (desc); None when there is no more."""

    messages: tuple[T, ...]
    cursor: int
    next: int | None


async def list_(tx: Tx, account: str, mailbox_id: str, criteria: Criteria = ALL, **asked: Any) -> Page[Summary]:
    """``list_as`` of summaries."""
    return await list_as(tx, summary_from, account, mailbox_id, criteria, **asked)


async def list_as(
    tx: Tx,
    read: Callable[[str, bool], T],
    account: str,
    mailbox_id: str,
    criteria: Criteria = ALL,
    *,
    seen: bool | None = None,
    after: int = 0,
    before: int | None = None,
    order: Order = "asc",
    limit: int = 50,
) -> Page[T]:
    """The messages that meet the criteria, by change number, from ``after`` to ``before`` (both excluded), each as
    ``read`` makes it of its stored summary: ``summary_from`` or ``summary_json``.

    A call looks at a bounded number of messages, and gives back a bounded number of characters (``scan.MOST``,
    ``scan.MOST_FOUND``); where that is reached the page is short, even empty, and ``next`` says where to go on. Raises
    NotFound, Invalid.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise Invalid(f"limit is {limit}; it must be from 1 to {LONGEST_PAGE}")
    until = NEVER if before is None else before
    mailbox, found = await scan.scan_of(
        tx,
        account,
        mailbox_id,
        criteria,
        read,
        seen=seen,
        after=after,
        before=until,
        descending=order == "desc",
        limit=limit,
    )
    last = min(mailbox.cursor, max(until - 1, 0))
    # asc: what lies behind a page that was cut short has not been considered; desc comes from the top
    cursor = found.at if found.more and order == "asc" else last
    return Page(found.messages, cursor, found.at if found.more else None)


_OPEN = "(b.ends_at is null or b.ends_at > ?)"
_MINE = f"m.id = ? and b.account = ? and {_OPEN}"


async def find(tx: Tx, account: str, id: str) -> StoredMessage:
    """The account's message of this id. Raises NotFound, Damaged."""
    row = await tx.row(
        "select m.seen, m.summary, m.expires_at, m.content, m.until from message m join mailbox b on b.id = m.mailbox"
        f" where {_MINE}",
        (id, account, tx.now),
    )
    # two questions, because only a moment that is known beforehand leads to one partition
    content = row and await tx.row(
        "select sha256, trace, chunks, detail, data from content where id = ? and until = ?", row[3:]
    )
    if row is None or content is None:
        raise NotFound(f"there is no message {id}")
    seen, summary, expires, content_id, until = row
    sha256, trace, chunks, size, data = content
    detail = stored.load_detail(unpack_detail(size, bytes(data)))
    return StoredMessage(
        account,
        summary_from(summary, bool(seen)),
        detail.head,
        detail.parts,
        detail.text,
        detail.html,
        detail.envelope,
        detail.origin,
        bytes(trace),
        ContentRef(content_id, until, chunks),
        bytes(sha256),
        expires,
    )


async def locate(tx: Tx, account: str, id: str) -> Summary:
    """The account's message of this id, no more than its summary. Raises NotFound."""
    row = await tx.row(
        f"select m.summary, m.seen from message m join mailbox b on b.id = m.mailbox where {_MINE}",
        (id, account, tx.now),
    )
    if row is None:
        raise NotFound(f"there is no message {id}")
    return summary_from(row[0], bool(row[1]))


async def text(tx: Tx, id: str) -> str:
    """What ``contains`` looks in besides the subject: text and visible HTML text; empty if the message is gone."""
    return await scan.text(tx, id)


async def read_chunk(tx: Tx, content: ContentRef, number: int) -> bytes | None:
    """The content's piece of this number, counted from 0; None behind the last. Pieces are ``ports.CHUNK`` octets, the
    last one what is left; content that is empty has none. Raises Damaged."""
    if content.chunks:
        row = await tx.row(
            "select packed, data from content_chunk where content = ? and number = ? and until = ?",
            (content.id, number, content.until),
        )
        return None if row is None else unpack_piece(bool(row[0]), bytes(row[1]))
    if number:
        return None
    row = await tx.row("select detail, data from content where id = ? and until = ?", (content.id, content.until))
    return None if row is None else unpack_behind(row[0], bytes(row[1])) or None


async def mark(
    tx: Tx, ids: Ids, account: str, mailbox_id: str, which: Sequence[str] | None, seen: bool
) -> tuple[Change, ...]:
    """Mark messages (None: all) seen or not seen, at most ``MOST`` of them. Those that are so already, or are gone, are
    passed over: call again until it returns none. Raises NotFound, Invalid."""
    where = await _place(tx, account, mailbox_id)
    rows = await _choose(tx, mailbox_id, which, "m.id", f"m.seen = {int(not seen)}")
    if not rows:
        return ()
    chosen = tuple(row[0] for row in rows)
    await tx.execute(f"update message set seen = ? where id in ({marks(chosen)})", (int(seen), *chosen))
    change = Seen(ids.new(), account, mailbox_id, where.seq + 1, tx.now, chosen, seen)
    await changes.record(tx, where, [change], 0, -len(chosen) if seen else len(chosen))
    return (change,)


async def delete(tx: Tx, ids: Ids, account: str, mailbox_id: str, which: Sequence[str] | None) -> tuple[Change, ...]:
    """Delete messages (None: all), at most ``MOST`` of them and at most ``changes.MOST_OCTETS`` of content. Those that
    are gone are passed over: call again until it returns none. Raises NotFound, Invalid."""
    where = await _place(tx, account, mailbox_id)
    rows = changes.enough(await _removals(tx, mailbox_id, which))
    if not rows:
        return ()
    change = Deleted(ids.new(), account, mailbox_id, where.seq + 1, tx.now, tuple(row.id for row in rows))
    await changes.remove(tx, rows)
    await _record(tx, where, change, rows)
    return (change,)


async def expire(tx: Tx, ids: Ids, limit: int) -> tuple[Expired, ...]:
    """Delete at most ``limit`` messages whose retention is over, with one event a mailbox. Call again until it returns
    none. Content whose last message this was is left to ``Database.prune``."""
    await tx.lock("mailbox", ())
    due = await tx.rows(
        f"select {TO_REMOVE}, m.mailbox from message m join mailbox b on b.id = m.mailbox"
        f" where m.expires_at <= ? and {_OPEN} order by m.expires_at limit ?",
        (tx.now, tx.now, min(limit, MOST)),
    )
    by_mailbox: dict[str, list[str]] = {}
    some = changes.enough([Removal(*row[:-1]) for row in due])
    for row, mailbox in zip(some, (each[-1] for each in due), strict=False):
        by_mailbox.setdefault(mailbox, []).append(row.id)
    made: list[Expired] = []
    gone: list[Removal] = []
    for where in await changes.places(tx, sorted(by_mailbox)):
        # read again under the lock: a reader may have deleted some, or marked them seen
        rows = await _removals(tx, where.mailbox, by_mailbox[where.mailbox])
        if rows:
            ids_ = tuple(row.id for row in rows)
            change = Expired(ids.new(), where.account, where.mailbox, where.seq + 1, tx.now, ids_)
            await _record(tx, where, change, rows)
            made.append(change)
            gone += rows
    if gone:
        await changes.remove(tx, gone, pruned=tx.now)
    return tuple(made)


async def _removals(tx: Tx, mailbox: str, which: Sequence[str] | None) -> Sequence[Removal]:
    return [Removal(*row) for row in await _choose(tx, mailbox, which, TO_REMOVE, "1 = 1")]


async def _record(tx: Tx, where: changes.Place, change: Change, rows: Sequence[Removal]) -> None:
    await changes.record(tx, where, [change], -len(rows), -sum(not row.seen for row in rows))


async def _place(tx: Tx, account: str, mailbox_id: str) -> changes.Place:
    where = await changes.place(tx, mailbox_id)
    if where is None or where.account != account:
        raise NotFound(f"there is no mailbox {mailbox_id}")
    return where


async def _choose(
    tx: Tx, mailbox: str, which: Sequence[str] | None, columns: str, condition: str
) -> Sequence[tuple[Any, ...]]:
    """At most ``MOST`` rows of the mailbox's messages, by change number."""
    sql = f"select {columns} from message m where m.mailbox = ? and {condition}"
    if which is None:
        return await tx.rows(f"{sql} order by m.seq limit ?", (mailbox, MOST))
    if len(which) > MOST_IDS:
        raise Invalid(f"{len(which)} ids are too many for one call; give at most {MOST_IDS}")
    rows: list[tuple[Any, ...]] = []
    unique = list(dict.fromkeys(which))
    for start in range(0, len(unique), MOST):
        some = unique[start : start + MOST]
        rows += await tx.rows(f"{sql} and m.id in ({marks(some)}) order by m.seq", (mailbox, *some))
        if len(rows) >= MOST:
            break
    return rows[:MOST]
