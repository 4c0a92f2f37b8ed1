"""The SQL of the embedded queue. Each method runs in the engine's writer or reader thread, inside its transaction.

The life of an entry, by ``state`` and ``due_at``:

    put ──► waiting, 0 ──take──► leased, end of lease ──done──► (gone)
              ▲  ▲                 │   │
              │  └──── lease ended ┘   └─fail─► waiting, later   (or aside, when it has had its tries)
              └── due ──────────────────────────────┘

``take`` looks only at entries that wait with ``due_at`` 0, in the order of their numbers; whatever has become due is
first made such an entry. So a take costs the same with ten entries and with a hundred thousand.

A fence is ``number.nonce``: the number finds the row, the nonce says whose turn it is. It stays good after its lease
has ended for as long as nobody else has been given the entry.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson

from mailfarm.errors import LeaseLost, NotFound
from mailfarm.ports import Depth, Entry, State

from .queue_content import holder_of
from .spool_form import envelope_of
from .sqlite_database import insert_rows

LOST = "the worker went away"
"""The reason of an entry whose lease ended without a word."""

_ALONE_AFTER = 2  # tries that were lost, after which an entry is handed out alone
_DUE_AT_ONCE = 1000  # entries made due by one take


class Put(NamedTuple):
    """An entry to be. ``content`` is None when it stands in chunks under the key ``chunks``."""

    id: str
    put_at: int
    size: int
    spooled: bytes
    content: bytes | None
    chunks: str | None


class Taken(NamedTuple):
    """An entry that was handed out. ``content`` is None when it must be read piece by piece."""

    number: int
    id: str
    tries: int
    size: int
    chunks: str | None
    spooled: bytes
    content: bytes | None


class Ended(NamedTuple):
    """How much a job took out of the queue, and the chunks that nobody needs now."""

    entries: int = 0
    octets: int = 0
    chunks: tuple[str, ...] = ()


class Rows:
    """The rows of the queue ``name``."""

    def __init__(self, name: str, max_tries: int, take_octets: int) -> None:
        self._name = name
        self._max_tries = max_tries
        self._take_octets = take_octets

    def begin(self, db: sqlite3.Connection) -> tuple[int, int, tuple[str, ...]]:
        """End the leases of a process that is no more. Returns entries, octets, and chunks without an entry."""
        db.execute(
            "UPDATE queue_entry SET state = CASE WHEN tries >= ? THEN 'aside' ELSE 'waiting' END, due_at = 0,"
            " reason = ? WHERE queue = ? AND state = 'leased'",
            (self._max_tries, LOST, self._name),
        )
        entries, octets = db.execute(
            "SELECT count(*), coalesce(sum(size), 0) FROM queue_entry WHERE queue = ?", (self._name,)
        ).fetchone()
        orphans = db.execute(
            "SELECT DISTINCT chunks FROM queue_chunk WHERE queue = ?1 AND chunks NOT IN"
            " (SELECT chunks FROM queue_entry WHERE queue = ?1 AND chunks IS NOT NULL)",
            (self._name,),
        ).fetchall()
        return entries, octets, tuple([chunks for (chunks,) in orphans])

    def put(self, db: sqlite3.Connection, puts: Sequence[Put]) -> Sequence[bool]:
        """Store entries; for each, whether it is new."""
        variables = db.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER)
        (first,) = db.execute("SELECT coalesce(max(number), 0) + 1 FROM queue_entry").fetchone()
        inserted = insert_rows(
            db.execute,
            variables,
            "INSERT INTO queue_entry (number, queue, id, state, put_at, size, chunks)",
            " ON CONFLICT (queue, id) DO NOTHING",
            [(n, self._name, p.id, "waiting", p.put_at, p.size, p.chunks) for n, p in enumerate(puts, first)],
        )
        if inserted == len(puts):
            new = [True] * inserted
        else:
            there = db.execute("SELECT number FROM queue_entry WHERE number >= ?", (first,)).fetchall()
            numbers = {number for (number,) in there}
            new = [number in numbers for number, _ in enumerate(puts, first)]
        insert_rows(
            db.execute,
            variables,
            "INSERT INTO queue_spool (number, spooled, content)",
            "",
            [(n, p.spooled, p.content) for n, p in enumerate(puts, first) if new[n - first]],
        )
        return new

    def put_chunk(self, db: sqlite3.Connection, chunks: str, number: int, data: bytes) -> None:
        """Store a piece of content ahead of its entry."""
        db.execute(
            "INSERT INTO queue_chunk (queue, chunks, number, data) VALUES (?, ?, ?, ?)",
            (self._name, chunks, number, data),
        )

    def forget_chunks(self, db: sqlite3.Connection, chunks: str, limit: int) -> int:
        """Delete some pieces that no entry needs; how many."""
        return db.execute(
            "DELETE FROM queue_chunk WHERE rowid IN (SELECT rowid FROM queue_chunk WHERE queue = ?1 AND chunks = ?2"
            " AND NOT EXISTS (SELECT 1 FROM queue_entry WHERE queue = ?1 AND chunks = ?2) LIMIT ?3)",
            (self._name, chunks, limit),
        ).rowcount

    def take(self, db: sqlite3.Connection, limit: int, now: int, ends: int, nonce: str) -> list[Taken]:
        """Lease the oldest entries until ``ends``."""
        self._make_due(db, now)
        found = db.execute(
            "SELECT number, id, tries, size, chunks, reason FROM queue_entry"
            " WHERE queue = ? AND state = 'waiting' AND due_at = 0 ORDER BY number LIMIT ?",
            (self._name, limit),
        ).fetchall()
        # Whoever was in the same hands as an entry that kills its worker loses a try with it, so one that was lost
        # twice is handed out alone: only the guilty one goes on to be set aside.
        for at, (_, _, tries, _, _, reason) in enumerate(found):
            if tries >= _ALONE_AFTER and reason == LOST:
                found = found[: at or 1]
                break
        if not found:
            return []
        numbers = orjson.dumps([row[0] for row in found]).decode()
        db.execute(
            "UPDATE queue_entry SET state = 'leased', due_at = ?, tries = tries + 1, fence = number || '.' || ?"
            " WHERE number IN (SELECT value FROM json_each(?))",
            (ends, nonce, numbers),
        )
        small: list[int] = []
        octets = 0
        for number, _, _, size, chunks, _ in found:
            if chunks is None and octets + size <= self._take_octets:
                octets += size
                small.append(number)
        stored = db.execute(
            "SELECT number, spooled, CASE WHEN number IN (SELECT value FROM json_each(?)) THEN content END"
            " FROM queue_spool WHERE number IN (SELECT value FROM json_each(?))",
            (orjson.dumps(small).decode(), numbers),
        ).fetchall()
        spools = {number: (spooled, content) for number, spooled, content in stored}
        return [
            Taken(number, id, tries + 1, size, chunks, *spools[number]) for number, id, tries, size, chunks, _ in found
        ]

    def _make_due(self, db: sqlite3.Connection, now: int) -> None:
        due = db.execute(
            "SELECT number FROM (SELECT number FROM queue_entry WHERE queue = ?1 AND state = 'leased' AND due_at <= ?2"
            " LIMIT ?3) UNION ALL SELECT number FROM (SELECT number FROM queue_entry"
            " WHERE queue = ?1 AND state = 'waiting' AND due_at BETWEEN 1 AND ?2 LIMIT ?3)",
            (self._name, now, _DUE_AT_ONCE),
        ).fetchall()
        if due:
            db.execute(
                "UPDATE queue_entry SET due_at = 0, reason = CASE state WHEN 'leased' THEN ? ELSE reason END,"
                " state = CASE WHEN state = 'leased' AND tries >= ? THEN 'aside' ELSE 'waiting' END"
                " WHERE number IN (SELECT value FROM json_each(?))",
                (LOST, self._max_tries, orjson.dumps([number for (number,) in due]).decode()),
            )

    def next_due(self, db: sqlite3.Connection) -> int | None:
        """When the next entry comes by itself: a lease ends, a pause is over."""
        at: int | None
        (at,) = db.execute(
            "SELECT min(at) FROM (SELECT min(due_at) AS at FROM queue_entry WHERE queue = ?1 AND state = 'leased'"
            " UNION ALL SELECT min(due_at) FROM queue_entry WHERE queue = ?1 AND state = 'waiting' AND due_at > 0)",
            (self._name,),
        ).fetchone()
        return at

    def give_back(self, db: sqlite3.Connection, fences: Sequence[str], reason: str = "", due: int = 0) -> None:
        """Undo takes: they do not count as tries. An empty ``reason`` leaves what there is."""
        db.executemany(
            "UPDATE queue_entry SET state = 'waiting', due_at = ?, tries = tries - 1, fence = NULL,"
            " reason = coalesce(?, reason) WHERE number = ? AND fence = ? AND queue = ? AND state <> 'aside'",
            [(due, reason or None, number_of(fence), fence, self._name) for fence in fences],
        )

    def extend(self, db: sqlite3.Connection, fence: str, ends: int) -> None:
        changed = db.execute(
            "UPDATE queue_entry SET state = 'leased', due_at = ?"
            " WHERE number = ? AND fence = ? AND queue = ? AND state <> 'aside'",
            (ends, number_of(fence), fence, self._name),
        ).rowcount
        if not changed:
            raise LeaseLost(f"{fence} is no longer held")

    def fail(self, db: sqlite3.Connection, fence: str, reason: str, due: int) -> None:
        changed = db.execute(
            "UPDATE queue_entry SET state = CASE WHEN tries >= ? THEN 'aside' ELSE 'waiting' END,"
            " due_at = CASE WHEN tries >= ? THEN 0 ELSE ? END, fence = NULL, reason = ?"
            " WHERE number = ? AND fence = ? AND queue = ? AND state <> 'aside'",
            (self._max_tries, self._max_tries, due, reason, number_of(fence), fence, self._name),
        ).rowcount
        if not changed:
            raise LeaseLost(f"{fence} is no longer held")

    def done(self, db: sqlite3.Connection, calls: Sequence[Sequence[str]]) -> Sequence[Ended]:
        """End the entries of many calls; what that freed is told to the first of them."""
        fences = [fence for call in calls for fence in call]
        # +queue: by number, please. The planner would rather walk the whole queue by its index.
        ended = db.execute(
            "DELETE FROM queue_entry WHERE number IN (SELECT value FROM json_each(?))"
            " AND fence IN (SELECT value FROM json_each(?)) AND +queue = ? AND state <> 'aside'"
            " RETURNING number, size, chunks",
            (
                orjson.dumps([number_of(fence) for fence in fences]).decode(),
                orjson.dumps(fences).decode(),
                self._name,
            ),
        ).fetchall()
        return [self._ended(db, ended), *[Ended()] * (len(calls) - 1)]

    def _ended(self, db: sqlite3.Connection, rows: Sequence[tuple[int, int, str | None]]) -> Ended:
        db.execute(
            "DELETE FROM queue_spool WHERE number IN (SELECT value FROM json_each(?))",
            (orjson.dumps([row[0] for row in rows]).decode(),),
        )
        chunks = tuple([row[2] for row in rows if row[2] is not None])
        return Ended(len(rows), sum(row[1] for row in rows), chunks)

    def set_aside(self, db: sqlite3.Connection, number: int, fence: str, reason: str) -> None:
        db.execute(
            "UPDATE queue_entry SET state = 'aside', due_at = 0, fence = NULL, reason = ?"
            " WHERE number = ? AND fence = ?",
            (reason, number, fence),
        )

    def requeue(self, db: sqlite3.Connection, id: str) -> None:
        changed = db.execute(
            "UPDATE queue_entry SET state = 'waiting', due_at = 0, tries = 0, fence = NULL, reason = ''"
            " WHERE queue = ? AND id = ? AND state = 'aside'",
            (self._name, id),
        ).rowcount
        if not changed:
            raise NotFound(f"no entry {id} was set aside in the queue {self._name}")

    def drop(self, db: sqlite3.Connection, id: str) -> Ended:
        rows = db.execute(
            "DELETE FROM queue_entry WHERE queue = ? AND id = ? AND state = 'aside' RETURNING number, size, chunks",
            (self._name, id),
        ).fetchall()
        if not rows:
            raise NotFound(f"no entry {id} was set aside in the queue {self._name}")
        return self._ended(db, rows)

    # Reading

    def depth(self, db: sqlite3.Connection) -> Depth:
        counts = dict(
            db.execute("SELECT state, count(*) FROM queue_entry WHERE queue = ? GROUP BY state", (self._name,))
        )
        (oldest,) = db.execute(
            "SELECT min(put_at) FROM (SELECT put_at FROM (SELECT put_at FROM queue_entry"
            " WHERE queue = ?1 AND state = 'waiting' AND due_at = 0 ORDER BY number LIMIT 1)"
            " UNION ALL SELECT min(put_at) FROM queue_entry WHERE queue = ?1 AND state = 'waiting' AND due_at > 0)",
            (self._name,),
        ).fetchone()
        return Depth(counts.get("waiting", 0), counts.get("leased", 0), counts.get("aside", 0), oldest)

    def inspect(self, db: sqlite3.Connection, state: State, limit: int, account: str) -> list[Entry]:
        """The oldest entries in a state, of one account if it is given: then it reads forms until it has found enough,
        of which there are as many as the backlog may have."""
        rows = db.execute(
            f"SELECT {_SHOWN} FROM queue_entry JOIN queue_spool USING (number) WHERE queue = ? AND state = ?"
            " ORDER BY number",
            (self._name, state),
        )
        entries = (_entry(row) for row in rows)
        return list(islice((entry for entry in entries if account in ("", entry.account)), limit))

    def find(self, db: sqlite3.Connection, id: str) -> Entry:
        """Raises NotFound."""
        row = db.execute(
            f"SELECT {_SHOWN} FROM queue_entry JOIN queue_spool USING (number) WHERE queue = ? AND id = ?",
            (self._name, id),
        ).fetchone()
        if row is None:
            raise NotFound(f"the queue {self._name} has no entry {id}")
        return _entry(row)

    def read(self, db: sqlite3.Connection, id: str) -> Taken:
        """An entry, its content too when it stands in one row. Raises NotFound."""
        row = db.execute(
            "SELECT number, id, tries, size, chunks, spooled, content FROM queue_entry JOIN queue_spool USING (number)"
            " WHERE queue = ? AND id = ?",
            (self._name, id),
        ).fetchone()
        if row is None:
            raise NotFound(f"the queue {self._name} has no entry {id}")
        return Taken(*row)

    def chunk(self, db: sqlite3.Connection, id: str, chunks: str, number: int) -> bytes:
        """A piece of an entry's content. Raises NotFound when that is gone."""
        row = db.execute(
            "SELECT data FROM queue_chunk WHERE queue = ? AND chunks = ? AND number = ?", (self._name, chunks, number)
        ).fetchone()
        if row is None:
            raise NotFound(f"the content of entry {id} is no longer in the queue {self._name}")
        data: bytes = row[0]
        return data


_SHOWN = "id, state, put_at, tries, size, reason, due_at, fence, spooled"


def _entry(row: tuple[Any, ...]) -> Entry:
    id, state, put_at, tries, size, reason, due_at, fence, spooled = row
    holder = holder_of(fence or "") if state == "leased" else ""
    return Entry(id, state, put_at, tries, size, *envelope_of(spooled), reason, due_at or None, holder)


def number_of(fence: str) -> int:
    """The entry a fence is about; none has the number 0."""
    number = fence.partition(".")[0]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 19 else 0
