"""Filing: putting received mail into mailboxes, in one unit, once.

What is spooled may come here again: a worker that died after its unit came back, a lease that ran out. The ``filed``
row of a spool id, written in the same unit, says that it has been done; it outlives every redelivery, so that a message
which its reader has deleted never comes back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from mailfarm.events import Filed, FiledAlike, Summary
from mailfarm.ids import Ids
from mailfarm.ports import NEVER, NOW, Rows, Spooled, Tx
from mailfarm.values import value

from . import changes, copies
from .changes import EVENT, Growth, Place, filed_row, parted
from .content import Parsed, dump_detail
from .following import follow_addresses
from .mailbox import SECOND
from .match import address_key
from .packing import Packed, Packer

MOST_ITEMS = 100
"""Items one unit files at most."""
MOST_OCTETS = 8 * 1024 * 1024
"""Octets of content one unit files at most, unless it is one item that is larger."""
CHUNKS_AT_ONCE = 16
"""Pieces of content in one statement: an engine may copy all of them."""
MOST_MESSAGES = 2_000
"""Messages one unit makes at most, unless they are one item's."""
PRUNED = 400 * 86400 * SECOND
"""Content whose end is no farther away than this (microseconds) is left to ``Database.prune`` when its retention ends;
what is kept longer is deleted by name, so that there are never partitions for more days than these."""


@value
class ToFile:
    """Something spooled, its content read, parsed and packed."""

    spooled: Spooled
    parsed: Parsed
    packed: Packed = field(repr=False)
    copy_key: bytes | None = None


def to_file(packer: Packer, spooled: Spooled, parsed: Parsed, content: bytes) -> ToFile:
    """Make ready what a unit will file. Costs time by the size of the content."""
    packed = packer.pack(dump_detail(spooled.envelope, spooled.origin, parsed), content)
    return ToFile(spooled, parsed, packed, copies.copy_key(parsed.message_id, spooled.sha256))


@dataclass(frozen=True, slots=True)
class Dropped:
    """A mailbox that was gone or had ended when mail for it was to be filed, and who it was for."""

    spool: str
    mailbox: str
    recipients: tuple[str, ...]


@value
class Filing:
    """What a unit did: messages filed, by the mail they were made of; mail dropped; and the spool ids that had been
    filed before."""

    alike: tuple[FiledAlike, ...]
    dropped: tuple[Dropped, ...]
    known: tuple[str, ...]

    @property
    def filed(self) -> tuple[Filed, ...]:
        """An event for each message, in order. Costs more than filing it did: for those who need them all."""
        return tuple([mail.event(number) for mail in self.alike for number in range(len(mail))])

    def counts(self) -> tuple[tuple[str, int], ...]:
        """For the metrics."""
        return ("filed", sum(map(len, self.alike))), ("known", len(self.known)), ("dropped", len(self.dropped))


class MovedError(Exception):
    """Mail leads to mailboxes that are gone, and their addresses to others: file ``led`` the items instead, in a unit
    that locks those."""

    def __init__(self, moved: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(f"mailboxes were made again: {len(moved)} messages lead elsewhere")
        self._moved = moved

    def led(self, item: ToFile) -> ToFile:
        """The same with the mailboxes that are there now."""
        mailboxes = self._moved.get(item.spooled.id)
        return item if mailboxes is None else replace(item, spooled=replace(item.spooled, mailboxes=mailboxes))


async def file(tx: Tx, ids: Ids, items: Sequence[ToFile], *, follow: bool = False) -> Filing:
    """File ``items`` in order: one message for each content and mailbox, however many recipients lead there. Only what
    is newly filed is numbered. The number of statements does not grow with the number of mailboxes.

    With ``follow`` raises MovedError where a mailbox is gone whose address leads to another one of the account: it was
    deleted and made again, and the listener had not heard of it.
    """
    items = list({item.spooled.id: item for item in items}.values())
    wanted = sorted({mailbox for item in items for mailbox in item.spooled.mailboxes})
    await tx.lock("mailbox", wanted)  # in id order, so that two workers never wait for each other
    new, places, firsts = await _look(tx, items, wanted)
    if follow:
        moved = await follow_addresses(tx, [item.spooled for item in items if item.spooled.id in new], places)
        if moved:
            raise MovedError(moved)
    alike: list[FiledAlike] = []
    dropped: list[Dropped] = []
    contents: list[tuple[ToFile, int]] = []
    rows: list[tuple[Any, ...]] = []
    events: list[tuple[str, int, str]] = []
    last = {mailbox: where.seq for mailbox, (where, _) in places.items()}
    fresh = iter(ids.several(2 * sum(len(set(item.spooled.mailboxes)) for item in items)))
    now = tx.now
    for item in items:
        if item.spooled.id not in new:
            continue
        leads = _by_mailbox(item.spooled)
        here = [mailbox for mailbox in leads if mailbox in places]
        dropped += [Dropped(item.spooled.id, mailbox, leads[mailbox]) for mailbox in leads if mailbox not in places]
        if not here:
            continue
        until = _until(item, [places[mailbox][1] for mailbox in here], now)
        contents.append((item, until))
        summary = _summary(item)
        mail = FiledAlike(places[here[0]][0].account, now, summary)
        alike.append(mail)
        content, received_at, copy_key = item.spooled.id, summary.received_at, item.copy_key
        size, message_id, shared = summary.size, summary.message_id, int(len(here) > 1)
        sender = address_key(summary.sender)
        from_key = "" if summary.from_ is None else address_key(summary.from_.address)
        for mailbox in here:
            retention = places[mailbox][1]
            expires_at = None if retention is None else _expiry(item, retention, now)
            last[mailbox] = seq = last[mailbox] + 1
            id, event = next(fresh), next(fresh)
            first = id if copy_key is None else firsts.setdefault((mailbox, copy_key), id)
            duplicate_of = None if first == id else first
            form = mail.add(event, id, mailbox, seq, leads[mailbox], duplicate_of)
            # in the order of _MESSAGE
            rows.append((
                id, mailbox, content, until, size, shared, seq, received_at, expires_at, sender, from_key, form,
                message_id, duplicate_of, copy_key,
            ))  # fmt: skip
            events.append(filed_row(event, mailbox, seq, now, id))
    await _store(tx, contents, rows, events)
    await changes.grow(tx, [Growth(where, last[id] - where.seq) for id, (where, _) in places.items()])
    known = tuple([item.spooled.id for item in items if item.spooled.id not in new])
    return Filing(tuple(alike), tuple(dropped), known)


async def forget_filed(tx: Tx, before: int, limit: int = 5_000) -> int:
    """Forget at most ``limit`` spool ids filed before ``before`` (microseconds); how many."""
    return await tx.execute(
        "delete from filed where spool in (select spool from filed where filed_at < ? limit ?)", (before, limit)
    )


_CLAIM = (
    "insert into filed (spool, filed_at) select v.column1, ? from (values ?) as v where true on conflict do nothing"
    " returning spool"
)
_PLACES = (
    "select m.id, m.account, m.seq, m.oldest, m.retention, m.ends_at from (values ?) as v"
    " join mailbox m on m.id = v.column1"
)


async def _look(
    tx: Tx, items: Sequence[ToFile], wanted: Sequence[str]
) -> tuple[set[str], dict[str, tuple[Place, int | None]], dict[copies.Key, str]]:
    """All that must be known, asked at once: those spool ids that are not filed yet (they are now, if this unit is
    kept); the mailboxes that are there and have not ended, with their retention (whether one had begun was decided when
    the mail was accepted); and what they have of what is to be filed."""
    if not items:
        return set(), {}, {}
    spools = sorted(item.spooled.id for item in items)
    ids = [(_PLACES, [Rows([(id,) for id in some])]) for some in parted(wanted)]
    keys = dict.fromkeys(key for item in items for key in _copy_keys(item))
    known = [(copies.FIRSTS, copies.firsts(some)) for some in parted(list(keys))]
    claimed, *rest = await tx.several([(_CLAIM, [NOW, Rows([(spool,) for spool in spools])]), *ids, *known])
    rows = [row for some in rest[: len(ids)] for row in some]
    places = {row[0]: (Place(*row[:4]), row[4]) for row in rows if row[5] is None or row[5] > tx.now}
    firsts = {(mailbox, bytes(key)): id for some in rest[len(ids) :] for mailbox, key, id in some}
    return {row[0] for row in claimed}, places, firsts


def _copy_keys(item: ToFile) -> list[copies.Key]:
    return [] if item.copy_key is None else [(mailbox, item.copy_key) for mailbox in set(item.spooled.mailboxes)]


def _by_mailbox(spooled: Spooled) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for recipient, mailbox in zip(spooled.envelope.recipients, spooled.mailboxes, strict=True):
        found.setdefault(mailbox, []).append(recipient.address)
    return {mailbox: tuple(addresses) for mailbox, addresses in found.items()}


def _summary(item: ToFile) -> Summary:
    """What the messages made of it have in common."""
    spooled, parsed = item.spooled, item.parsed
    return Summary(
        "",
        "",
        0,
        spooled.accepted_at,
        spooled.envelope.sender,
        (),
        parsed.from_,
        parsed.to,
        parsed.cc,
        parsed.subject,
        parsed.snippet,
        parsed.message_id,
        item.packed.size,
        parsed.attachments,
    )


def _until(item: ToFile, retentions: Sequence[int | None], now: int) -> int:
    """Up to when content is kept for the messages made of it."""
    ends = [NEVER if each is None else _expiry(item, each, now) for each in retentions]
    return max(ends) if max(ends) <= now + PRUNED else NEVER


def _expiry(item: ToFile, retention: int, now: int) -> int:
    """From when it was received, or filed, whichever is later: ``accepted_at`` is the listener's clock, which may be
    behind, and mail that waited long in the queue was in nobody's mailbox meanwhile."""
    return max(item.spooled.accepted_at, now) + retention * SECOND


_MESSAGE = (
    "id", "mailbox", "content", "until", "size", "shared", "seq", "received_at", "expires_at", "sender", "from_key",
    "summary", "message_id", "duplicate_of", "copy_key",
)  # fmt: skip


_CONTENT = (
    "id", "until", "account", "size", "sha256", "stored_at", "trace", "chunks", "detail", "data",
)  # fmt: skip


def _content(item: ToFile, until: int, now: int) -> tuple[Any, ...]:
    spooled, packed = item.spooled, item.packed
    return (
        spooled.id,
        until,
        spooled.account,
        packed.size,
        spooled.sha256,
        now,
        spooled.trace,
        len(packed.pieces),
        packed.detail,
        packed.data,
    )


_CHUNK = ("content", "number", "until", "packed", "data")


def _chunks(contents: Sequence[tuple[ToFile, int]]) -> Iterator[tuple[Any, ...]]:
    for item, until in contents:
        for number, piece in enumerate(item.packed.pieces):
            yield item.spooled.id, number, until, int(piece.packed), piece.data


async def _store(
    tx: Tx, contents: Sequence[tuple[ToFile, int]], rows: Sequence[Any], events: Sequence[tuple[str, int, str]]
) -> None:
    if not contents:
        return
    await tx.insert("content", _CONTENT, [_content(item, until, tx.now) for item, until in contents])
    chunks = _chunks(contents)
    while some := list(islice(chunks, CHUNKS_AT_ONCE)):
        await tx.insert("content_chunk", _CHUNK, some)
    await tx.insert("message", _MESSAGE, rows)
    await tx.insert("event", EVENT, events)
