"""Entries of one Redis as an operator sees them. One call an entry: a script that read them all would hold everyone up
while it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from mailfarm.errors import NotFound
from mailfarm.ports import Content, Entry, State

from .queue_content import Stored, Whole, holder_of
from .redis_queue_calls import Calls, Found, Taken
from .spool_form import envelope_of

LOOKED_AT = 10_000
"""Entries that are looked at for those of one account."""
_AT_ONCE = 100


def content_of(calls: Calls, entry: Taken | Found) -> Content:
    """An entry's content: what stands in it, or the pieces it names, which are loaded when they are asked for."""
    if not entry.pieces:
        return Whole(entry.content)
    key = entry.pieces

    async def load(number: int) -> bytes:
        data = await calls.load(key, number)
        if data is None:
            raise NotFound(f"the content of entry {entry.id} is no longer in the queue {calls.name}")
        return data

    return Stored(entry.size, load)


async def inspect(calls: Calls, state: State, limit: int, account: str) -> Sequence[Entry]:
    """The oldest entries in a state; with an ``account`` its own among the ``LOOKED_AT`` oldest. Raises
    QueueUnavailable."""
    numbers = await calls.list(state, LOOKED_AT if account else limit)
    entries: list[Entry] = []
    for start in range(0, len(numbers), _AT_ONCE):
        reading = [
            Deferred.fromCoroutine(calls.read("", number, content=False))
            for number in numbers[start : start + _AT_ONCE]
        ]
        outcomes: list[tuple[bool, Any]] = list(await DeferredList(reading, consumeErrors=True))
        for good, found in outcomes:
            if not good:
                found.raiseException()
            if found is None or found.state != state:
                continue  # it has gone on meanwhile
            entry = _entry(calls, found)
            if account in ("", entry.account):
                entries.append(entry)
        if len(entries) >= limit:
            break
    return entries[:limit]


async def find(calls: Calls, id: str) -> Entry:
    """Raises NotFound, QueueUnavailable."""
    found = await calls.read(id, content=False) if id else None
    if found is None:
        raise NotFound(f"the queue {calls.name} has no entry {id}")
    return _entry(calls, found)


def _entry(calls: Calls, found: Found) -> Entry:
    who = envelope_of(found.form)
    return Entry(
        found.id,
        found.state,
        found.put_at,
        found.tries,
        found.size,
        *who,
        found.reason,
        found.until,
        holder_of(found.fence),
        str(calls.link),
    )
