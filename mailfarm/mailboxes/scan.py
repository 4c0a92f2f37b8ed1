"""Going through a mailbox's messages with the one matcher, a page of rows at a time and never too far at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mailfarm.errors import Damaged
from mailfarm.events import Summary
from mailfarm.ports import Tx

from .changes import marks, summary_from
from .content import load_words
from .match import Criteria, Matcher
from .packing import unpack_detail

ROWS = 500
"""Rows read at a time."""
MOST = 10_000
"""Messages one scan considers at most."""
MOST_TEXT = 16 * 1024 * 1024
"""Characters of message text one scan reads at most, for ``contains`` (it may go over by one message)."""
AHEAD = 64
"""Messages whose text is read in one question at most; the first time it is one, as often that is the one."""
AHEAD_OCTETS = 2 * 1024 * 1024
"""Their content together, unless one alone is larger."""


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
    sql = "select m.content, m.until, m.size, m.seq, m.seen, m.summary from message m where m.mailbox = ?"
    fixed: list[Any] = [mailbox]
    if seen is not None:
        sql, fixed = f"{sql} and m.seen = ?", [*fixed, int(seen)]
    if criteria.from_key and miss is None:
        # what the matcher would say, said by the database: both columns hold the compared form
        sql, fixed = f"{sql} and (m.from_key = ? or m.sender = ?)", [*fixed, criteria.from_key, criteria.from_key]
    sql += f" and m.seq > ? and m.seq <= ? order by m.seq {'desc' if descending else 'asc'} limit ?"
    found: list[Summary] = []
    low, high, at, considered, read, ahead = after, upto, after, 0, 0, 1
    while True:
        wanted = ROWS if criteria else min(ROWS, limit + 1)
        rows = await tx.rows(sql, (*fixed, low, high, wanted))
        left = deque(rows)
        while left:
            some = _next(left, ahead)
            ahead = min(2 * ahead, AHEAD)
            judged = [_judge(matcher, row, bool(criteria), miss is not None) for row in some]
            words = await _words(tx, {each.content: each.until for each in judged if each.undecided})
            for each in judged:
                if considered >= MOST or read >= MOST_TEXT:
                    return Scanned(tuple(found), at, True)
                failed = each.failed
                if each.undecided:
                    said = words.get(each.content, "")
                    read += len(said)
                    failed = matcher.failed(each.summary, said)
                if not failed:
                    if len(found) == limit:
                        return Scanned(tuple(found), at, True)
                    found.append(each.summary)
                    if eager and len(found) == limit:
                        return Scanned(tuple(found), each.summary.seq, True)
                elif miss is not None:
                    miss(each.summary, failed)
                considered += 1
                at = each.summary.seq
        if len(rows) < wanted:
            return Scanned(tuple(found), at, False)
        low, high = (low, at - 1) if descending else (at, high)


@dataclass(frozen=True, slots=True)
class _Judged:
    """``undecided``: what it says decides."""

    content: str
    until: int
    summary: Summary
    failed: tuple[str, ...]
    undecided: bool


def _judge(matcher: Matcher, row: tuple[Any, ...], any_criteria: bool, all_failures: bool) -> _Judged:
    content, until, _, _, was_seen, data = row
    summary = summary_from(data, bool(was_seen))
    failed = matcher.failed(summary, "") if any_criteria else ()
    undecided = "contains" in failed and (failed == ("contains",) or all_failures)
    return _Judged(content, until, summary, failed, undecided)


def _next(rows: deque[tuple[Any, ...]], most: int) -> list[tuple[Any, ...]]:
    """Take the next rows: at most ``most``, and no more content than may stand in memory together."""
    some = [rows.popleft()]
    octets = some[0][2]
    while rows and len(some) < most and octets + rows[0][2] <= AHEAD_OCTETS:
        octets += rows[0][2]
        some.append(rows.popleft())
    return some


async def text(tx: Tx, id: str) -> str:
    """What ``contains`` looks in besides the subject; empty if the message is gone."""
    row = await tx.row("select content, until from message where id = ?", (id,))
    return "" if row is None else (await _words(tx, {row[0]: row[1]})).get(row[0], "")


async def _words(tx: Tx, contents: dict[str, int]) -> dict[str, str]:
    """What is said in each content."""
    if not contents:
        return {}
    moments = sorted(set(contents.values()))
    rows = await tx.rows(
        f"select id, detail, data from content where id in ({marks(list(contents))}) and until in ({marks(moments)})",
        (*contents, *moments),
    )
    return {id: _said(detail, bytes(data)) for id, detail, data in rows}


def _said(detail: int, data: bytes) -> str:
    try:
        return load_words(unpack_detail(detail, data))
    except Damaged:
        return ""  # who reads it is told; who searches is not kept from all the others
