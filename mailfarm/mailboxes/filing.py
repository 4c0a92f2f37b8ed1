"""Filing: putting received mail into mailboxes, in one unit, once.

What is spooled may come here again: a worker that died after its unit came back, a lease that ran out. The ``filed``
row of a spool id, written in the same unit, says that it has been done; it outlives every redelivery, so that a message
which its reader has deleted never comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from mailfarm.events import Filed, Summary
from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Spooled, Tx

from . import changes
from .changes import Place, event_row, marks, summary_text
from .content import Parsed, dump
from .mailbox import SECOND
from .match import address_key

MOST_ITEMS = 100
"""Items one unit files at most."""
MOST_OCTETS = 8 * 1024 * 1024
CHUNKS_AT_ONCE = 16
"""Pieces of content in one statement: an engine may copy all of them."""
"""Octets of content one unit files at most, unless it is one item that is larger."""
MOST_MESSAGES = 2_000
"""Messages one unit makes at most, unless they are one item's."""


@dataclass(frozen=True, slots=True)
class ToFile:
    """Something spooled, its content read and parsed."""

    spooled: Spooled
    parsed: Parsed
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A mailbox that was gone or had ended when mail for it was to be filed, and who it was for."""

    spool: str
    mailbox: str
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Filing:
    """What a unit did: messages filed, mail dropped, and the spool ids that had been filed before."""

    filed: tuple[Filed, ...]
    dropped: tuple[Dropped, ...]
    known: tuple[str, ...]


async def file(tx: Tx, ids: Ids, items: Sequence[ToFile]) -> Filing:
    """File ``items`` in order: one message for each content and mailbox, however many recipients lead there. Only what
    is newly filed is numbered."""
    items = list({item.spooled.id: item for item in items}.values())
    wanted = sorted({mailbox for item in items for mailbox in item.spooled.mailboxes})
    await tx.lock("mailbox", wanted)  # in id order, so that two workers never wait for each other
    new = await _claim(tx, [item.spooled.id for item in items])
    places = await _places(tx, wanted)
    filed: list[Filed] = []
    dropped: list[Dropped] = []
    contents: list[ToFile] = []
    rows: list[tuple[Any, ...]] = []
    last = {mailbox: where.seq for mailbox, (where, _) in places.items()}
    for item in items:
        if item.spooled.id not in new:
            continue
        any_filed = False
        for mailbox, recipients in _by_mailbox(item.spooled).items():
            if mailbox not in places:
                dropped.append(Dropped(item.spooled.id, mailbox, recipients))
                continue
            where, retention = places[mailbox]
            last[mailbox] += 1
            summary = _summary(item, ids.new(), mailbox, last[mailbox], recipients)
            filed.append(Filed(ids.new(), where.account, mailbox, last[mailbox], tx.now, summary))
            rows.append(_message(item, summary, retention))
            any_filed = True
        if any_filed:
            contents.append(item)
    await _store(tx, contents, rows, filed)
    for mailbox, (where, _) in places.items():
        count = last[mailbox] - where.seq
        if count:
            await changes.advance(tx, where, last[mailbox], count, count)
    return Filing(tuple(filed), tuple(dropped), tuple(item.spooled.id for item in items if item.spooled.id not in new))


async def forget_filed(tx: Tx, before: int, limit: int = 5_000) -> int:
    """Forget at most ``limit`` spool ids filed before ``before`` (microseconds); how many."""
    return await tx.execute(
        "delete from filed where spool in (select spool from filed where filed_at < ? limit ?)", (before, limit)
    )


async def _claim(tx: Tx, spools: Sequence[str]) -> set[str]:
    """Those spool ids that are not filed yet: they are now, if this unit is kept."""
    if not spools:
        return set()
    values = ", ".join(["(?, ?)"] * len(spools))
    params = [value for spool in sorted(spools) for value in (spool, tx.now)]
    sql = f"insert into filed (spool, filed_at) values {values} on conflict do nothing returning spool"
    return {row[0] for row in await tx.rows(sql, params)}


async def _places(tx: Tx, wanted: Sequence[str]) -> dict[str, tuple[Place, int | None]]:
    """The mailboxes that are there and have not ended, with their retention. Whether one had begun was decided when
    the mail was accepted."""
    found: dict[str, tuple[Place, int | None]] = {}
    for start in range(0, len(wanted), 1000):
        some = wanted[start : start + 1000]
        rows = await tx.rows(
            f"select id, account, seq, oldest, retention from mailbox where id in ({marks(some)})"
            " and (ends_at is null or ends_at > ?)",
            (*some, tx.now),
        )
        found |= {row[0]: (Place(*row[:4]), row[4]) for row in rows}
    return found


def _by_mailbox(spooled: Spooled) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for recipient, mailbox in zip(spooled.envelope.recipients, spooled.mailboxes, strict=True):
        found[mailbox] = (*found.get(mailbox, ()), recipient.address)
    return found


def _summary(item: ToFile, id: str, mailbox: str, seq: int, recipients: tuple[str, ...]) -> Summary:
    spooled, parsed = item.spooled, item.parsed
    return Summary(
        id,
        mailbox,
        seq,
        spooled.accepted_at,
        spooled.envelope.sender,
        recipients,
        parsed.from_,
        parsed.to,
        parsed.cc,
        parsed.subject,
        parsed.snippet,
        parsed.message_id,
        len(item.content),
        parsed.attachments,
    )


_MESSAGE = (
    "id", "mailbox", "content", "seq", "received_at", "expires_at", "sender", "from_key", "summary", "message_id",
)  # fmt: skip


def _message(item: ToFile, summary: Summary, retention: int | None) -> tuple[Any, ...]:
    received = summary.received_at
    return (
        summary.id,
        summary.mailbox,
        item.spooled.id,
        summary.seq,
        received,
        None if retention is None else received + retention * SECOND,
        address_key(summary.sender),
        "" if summary.from_ is None else address_key(summary.from_.address),
        summary_text(summary),
        summary.message_id,
    )


_CONTENT = (
    "id", "account", "size", "sha256", "trace", "envelope", "origin", "head", "parts", "body", "html", "visible",
    "stored_at",
)  # fmt: skip


def _content(item: ToFile, now: int) -> tuple[Any, ...]:
    spooled, parsed = item.spooled, item.parsed
    return (
        spooled.id,
        spooled.account,
        len(item.content),
        spooled.sha256,
        spooled.trace,
        dump(spooled.envelope),
        dump(spooled.origin),
        dump(parsed.head),
        dump(parsed.parts),
        parsed.text,
        parsed.html,
        parsed.visible,
        now,
    )


def _chunks(item: ToFile) -> Iterator[tuple[str, int, memoryview]]:
    # views, not copies: 50 MB would be there twice
    view = memoryview(item.content)
    for number, start in enumerate(range(0, len(view), CHUNK)):
        yield item.spooled.id, number, view[start : start + CHUNK]


async def _store(tx: Tx, contents: Sequence[ToFile], rows: Sequence[Any], filed: Sequence[Filed]) -> None:
    if not contents:
        return
    await tx.insert("content", _CONTENT, [_content(item, tx.now) for item in contents])
    chunks = (chunk for item in contents for chunk in _chunks(item))
    while some := list(islice(chunks, CHUNKS_AT_ONCE)):
        await tx.insert("content_chunk", ("content", "number", "data"), some)
    await tx.insert("message", _MESSAGE, rows)
    await tx.insert("event", ("mailbox", "seq", "data"), [event_row(each) for each in filed])
