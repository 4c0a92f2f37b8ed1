"""Going through a mailbox's messages with the one matcher, a page of rows at a time and never too far at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from mailfarm.errors import Damaged, Invalid
from mailfarm.ports import NEVER, Tx

from . import store
from .changes import marks, summary_from
from .content import load_texts
from .mailbox import Mailbox
from .match import Criteria, Matcher
from .packing import unpack_detail
from .sieve import Sieve
from .visible import easy, shown

ROWS = 500
"""Rows read at a time, but for the"""
FIRST = 64
"""first time, which often is enough, and while summaries are large on average."""
LARGE = 8 * 1024
"""Characters of a summary: a mail to a thousand people has some 100,000."""
MOST_FOUND = 4 * 1024 * 1024
"""Characters of summaries one scan gives back at most (it may go over by one message)."""
MOST = 10_000
"""Messages one scan considers at most."""
MOST_TEXT = 16 * 1024 * 1024
"""Characters of message text one scan reads at most, for ``contains`` (it may go over by one message)."""
AHEAD = 64
"""Messages whose text is read in one question at most; the first time it is one, as often that is the one."""
AHEAD_OCTETS = 1024 * 1024
"""Their content together, unless one alone is larger."""


T = TypeVar("T")
Rows = Sequence[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Scanned(Generic[T]):
    """What matched. ``at`` is the number of the last message considered, or ``after`` when there was none; ``more``
    says that there may be more behind it."""

    messages: tuple[T, ...]
    at: int
    more: bool


async def scan(
    tx: Tx,
    mailbox: str,
    criteria: Criteria,
    read: Callable[[str, bool], T],
    *,
    seen: bool | None = None,
    after: int = 0,
    upto: int,
    descending: bool = False,
    limit: int,
    eager: bool = False,
    first: Rows | None = None,
) -> Scanned[T]:
    """At most ``limit`` messages that meet the criteria, their numbers above ``after`` and not above ``upto``.

    ``read`` makes of a stored summary, and whether it was seen, what is given back (``changes.summary_from``).
    ``eager`` stops at the message that completes ``limit``, without looking whether there is another. ``first`` are the
    rows of the first question, where that was asked before.
    """
    judge, sieve = _Judge(criteria), Sieve(criteria)
    asked = _Question(mailbox, criteria, judge.reads, seen, descending)
    found: list[T] = []
    low, high, at, considered, octets, ahead = after, upto, after, 0, 0, 1
    given = 0
    wanted = judge.wanted(limit)
    while True:
        if considered >= MOST:
            return Scanned(tuple(found), at, True)
        if first is None:
            (first,) = await tx.several([asked.of(low, high, min(wanted, MOST - considered))])
        rows, first = first, None
        considered += len(rows)
        if judge.settled:
            taken = _light(rows[: limit - len(found)], MOST_FOUND - given)
            given += _size(taken)
            found += [read(row[-1], bool(row[_SEEN])) for row in taken]
            if taken:
                at = taken[-1][_SEQ]
            if (len(found) == limit and eager) or len(rows) > len(taken) or given > MOST_FOUND:
                return Scanned(tuple(found), at, True)
            left = _NONE
        else:
            left = deque([asked.row(row) for row in (rows if not sieve else sieve.passed(rows))])
        while left:
            some = _next(left, ahead) if judge.reads else [left.popleft()]
            ahead = min(2 * ahead, AHEAD)
            judged = [judge.of(row) for row in some]
            undecided = {row.content: row.until for row, is_it in zip(some, judged, strict=True) if is_it is None}
            words = await _words(tx, undecided)
            for row, is_it in zip(some, judged, strict=True):
                if octets >= MOST_TEXT:
                    return Scanned(tuple(found), at, True)
                if is_it is None:
                    said, looked_at = words.get(row.content, _NOTHING)
                    octets += looked_at
                    is_it = judge.said(said)
                if is_it:
                    if len(found) == limit:
                        return Scanned(tuple(found), at, True)
                    found.append(read(row.summary, bool(row.seen)))
                    given += len(row.summary)
                    if (eager and len(found) == limit) or given > MOST_FOUND:
                        return Scanned(tuple(found), row.seq, True)
                at = row.seq
        if rows:
            at = rows[-1][_SEQ]
        if len(rows) < wanted and considered < MOST:
            return Scanned(tuple(found), at, False)
        low, high = (low, at - 1) if descending else (at, high)
        wanted = FIRST if _size(rows) > LARGE * len(rows) else ROWS


async def scan_of(
    tx: Tx,
    account: str,
    mailbox_id: str,
    criteria: Criteria,
    read: Callable[[str, bool], T],
    *,
    seen: bool | None = None,
    after: int = 0,
    before: int = NEVER,
    descending: bool = False,
    limit: int,
    eager: bool = False,
) -> tuple[Mailbox, Scanned[T]]:
    """The account's mailbox, and ``scan`` in it of what has a number above ``after`` and below ``before``; where the
    first rows are enough, with one question. Raises NotFound, Invalid (a number never given out)."""
    judge = _Judge(criteria)
    asked = _Question(mailbox_id, criteria, judge.reads, seen, descending)
    upto = max(before - 1, 0)
    mailboxes, first = await tx.several(
        [store.finding(tx, account, mailbox_id), asked.of(after, upto, judge.wanted(limit))]
    )
    mailbox = store.found(mailbox_id, mailboxes)
    if after > mailbox.cursor:
        raise Invalid(f"after is {after}; the mailbox's last change number is {mailbox.cursor}")
    return mailbox, await scan(
        tx,
        mailbox_id,
        criteria,
        read,
        seen=seen,
        after=after,
        upto=min(mailbox.cursor, upto),
        descending=descending,
        limit=limit,
        eager=eager,
        first=first,
    )


class Row(NamedTuple):
    """What is read of a message; the first three only where its text may be."""

    content: str
    until: int
    size: int
    seen: int
    seq: int
    summary: str


def _size(rows: Rows) -> int:
    return sum(len(row[-1]) for row in rows)


def _light(rows: Rows, most: int) -> Rows:
    """The first of them, up to the one whose summary goes over ``most`` characters."""
    if _size(rows) <= most:
        return rows
    for number, row in enumerate(rows, 1):
        most -= len(row[-1])
        if most < 0:
            return rows[:number]
    return rows


_SEEN, _SEQ = -3, -2
_NONE: deque[Row] = deque()


class _Question:
    """The statement that reads messages in order."""

    def __init__(self, mailbox: str, criteria: Criteria, reads: bool, seen: bool | None, descending: bool) -> None:
        way = "desc" if descending else "asc"
        self._reads = reads
        self._fixed: list[list[Any]] = [[mailbox] if seen is None else [mailbox, int(seen)]]
        names = Row._fields if reads else Row._fields[_SEEN:]
        start = f"select {', '.join(f'm.{name}' for name in names)} from message m where m.mailbox = ?"
        start += "" if seen is None else " and m.seen = ?"
        end = f" and m.seq > ? and m.seq <= ? order by m.seq {way} limit ?"
        if not criteria.from_key:
            self._sql = start + end
            return
        # what the matcher would say, said by the database: both columns hold the compared form. Two questions, as each
        # is answered from an index in order, and `or` is not; what meets both is the first one's
        one, two = (f"{start} and {who}{end}" for who in ("m.from_key = ?", "m.sender = ? and m.sender <> m.from_key"))
        self._sql = f"select * from ({one}) as a union all select * from ({two}) as b order by seq {way} limit ?"
        self._fixed = [[*self._fixed[0], criteria.from_key]] * 2

    def row(self, row: tuple[Any, ...]) -> Row:
        """What an answer's row says."""
        return Row(*row) if self._reads else Row("", 0, 0, *row)

    def of(self, low: int, high: int, limit: int) -> tuple[str, Sequence[Any]]:
        """The question after at most ``limit`` of those above ``low`` and not above ``high``."""
        values = [value for fixed in self._fixed for value in (*fixed, low, high, limit)]
        if len(self._fixed) > 1:
            values.append(limit)
        return self._sql, values


class _Judge:
    """Whether messages meet the criteria: ``settled`` where the statement has said so, ``reads`` where that may take
    their text."""

    def __init__(self, criteria: Criteria) -> None:
        self._matcher = Matcher(criteria)
        self.settled = not criteria or (bool(criteria.from_key) and criteria == Criteria(criteria.from_))
        self.reads = bool(criteria.contains)

    def wanted(self, limit: int) -> int:
        """How many rows are asked for first, to find ``limit``."""
        return min(2 * FIRST, limit + 1 if self.settled else max(FIRST, 2 * limit))

    def of(self, row: Row) -> bool | None:
        """By its summary; None if that does not decide."""
        if self.settled:
            return True
        failed = self._matcher.failed(summary_from(row.summary, False))
        return None if failed == ("contains",) else not failed

    def said(self, text: str) -> bool:
        """By its text, if that alone decides."""
        return self._matcher.contained(text)


def _next(rows: deque[Row], most: int) -> list[Row]:
    """Take the next rows: at most ``most``, and no more content than may stand in memory together."""
    some = [rows.popleft()]
    octets = some[0].size
    while rows and len(some) < most and octets + rows[0].size <= AHEAD_OCTETS:
        octets += rows[0].size
        some.append(rows.popleft())
    return some


async def text(tx: Tx, id: str) -> str:
    """What ``contains`` looks in besides the subject; empty if the message is gone."""
    row = await tx.row("select content, until from message where id = ?", (id,))
    return "" if row is None else (await _words(tx, {row[0]: row[1]})).get(row[0], _NOTHING)[0]


_NOTHING = ("", 0)


async def _words(tx: Tx, contents: dict[str, int]) -> dict[str, tuple[str, int]]:
    """What is said in each content, and the characters that were looked at for it."""
    if not contents:
        return {}
    moments = sorted(set(contents.values()))
    rows = await tx.rows(
        f"select id, detail, data from content where id in ({marks(list(contents))}) and until in ({marks(moments)})",
        (*contents, *moments),
    )
    return {id: _said(detail, bytes(data)) for id, detail, data in rows}


def _said(detail: int, data: bytes) -> tuple[str, int]:
    try:
        text, html, visible = load_texts(unpack_detail(detail, data))
    except Damaged:
        return _NOTHING  # who reads it is told; who searches is not kept from all the others
    if visible or not html or not easy(html):
        return f"{text}\n{visible}", len(text) + len(visible)
    # most messages are never looked in: what their HTML shows is not stored where it is easy to find
    return f"{text}\n{shown(html)}", len(text) + len(html)
