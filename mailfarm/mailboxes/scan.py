"""Going through a mailbox's messages with the one matcher, a page of rows at a time and never too far at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailfarm.events import Summary
from mailfarm.ports import Tx

from .changes import summary_from
from .content import load_words
from .match import Criteria, Matcher
from .packing import unpack_detail

ROWS = 500
"""Rows read at a time."""
MOST = 10_000
"""Messages one scan considers at most."""
MOST_TEXT = 16 * 1024 * 1024
"""Characters of message text one scan reads at most, for ``contains`` (it may go over by one message)."""


@dataclass(frozen=True, slots=True)
class Scanned:
    """What matched. ``at`` is the number of the last message considered, or ``after`` when there was none; ``more``
    says that there may be more behind it."""

    messages: tuple[Summary, ...]
    at: int
    more: bool


Miss = Callable[[Summary, tuple[str, ...]], None]


async def scan(
    tx: Tx,
    mailbox: str,
    criteria: Criteria,
    *,
    seen: bool | None = None,
    after: int = 0,
    upto: int,
    descending: bool = False,
    limit: int,
    miss: Miss | None = None,
    eager: bool = False,
) -> Scanned:
    """At most ``limit`` messages that meet the criteria, their numbers above ``after`` and not above ``upto``.

    ``miss`` hears of each message that does not meet them all, with the names of those it fails. ``eager`` stops at the
    message that completes ``limit``, without looking whether there is another.
    """
    matcher = Matcher(criteria)
    sql = "select m.content, m.until, m.seq, m.seen, m.summary from message m where m.mailbox = ?"
    fixed: list[Any] = [mailbox]
    if seen is not None:
        sql, fixed = f"{sql} and m.seen = ?", [*fixed, int(seen)]
    if criteria.from_key and miss is None:
        # what the matcher would say, said by the database: both columns hold the compared form
        sql, fixed = f"{sql} and (m.from_key = ? or m.sender = ?)", [*fixed, criteria.from_key, criteria.from_key]
    sql += f" and m.seq > ? and m.seq <= ? order by m.seq {'desc' if descending else 'asc'} limit ?"
    found: list[Summary] = []
    low, high, at, considered, read = after, upto, after, 0, 0
    while True:
        wanted = ROWS if criteria else min(ROWS, limit + 1)
        rows = await tx.rows(sql, (*fixed, low, high, wanted))
        for content, until, seq, was_seen, data in rows:
            if considered >= MOST or read >= MOST_TEXT:
                return Scanned(tuple(found), at, True)
            summary = summary_from(data, bool(was_seen))
            failed = matcher.failed(summary, "") if criteria else ()
            if "contains" in failed and (failed == ("contains",) or miss is not None):
                words = await _words(tx, content, until)
                read += len(words)
                failed = matcher.failed(summary, words)
            if not failed:
                if len(found) == limit:
                    return Scanned(tuple(found), at, True)
                found.append(summary)
                if eager and len(found) == limit:
                    return Scanned(tuple(found), seq, True)
            elif miss is not None:
                miss(summary, failed)
            considered += 1
            at = seq
        if len(rows) < wanted:
            return Scanned(tuple(found), at, False)
        low, high = (low, at - 1) if descending else (at, high)


async def text(tx: Tx, id: str) -> str:
    """What ``contains`` looks in besides the subject; empty if the message is gone. Raises Damaged."""
    row = await tx.row("select content, until from message where id = ?", (id,))
    return "" if row is None else await _words(tx, *row)


async def _words(tx: Tx, content: str, until: int) -> str:
    row = await tx.row("select detail, data from content where id = ? and until = ?", (content, until))
    return "" if row is None else load_words(unpack_detail(row[0], bytes(row[1])))
