"""Copies: mail that a mailbox has got before, byte for byte.

A client that lost its connection after the final dot does not know whether it was taken, and sends again (RFC 1047).
That is a second message: it is kept, listed and counted as any other, and bears the id of the first one in
``duplicate_of``. A copy is what has the same Message-ID, not an empty one, and the same content, in the same mailbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

from mailfarm.ports import Rows

Key = tuple[str, bytes]
"""A mailbox's id, and what ``copy_key`` gave."""


def copy_key(message_id: str, content: bytes) -> bytes | None:
    """What copies have in common; ``content`` is its SHA-256. None for what has no Message-ID: it has no copies."""
    return sha256(message_id.encode() + b"\0" + content).digest()[:16] if message_id else None


FIRSTS = (
    "with known as materialized (select k.column1 as copy_key from (values ?) as k where exists"
    " (select 1 from message o where o.copy_key = k.column1))"
    " select * from (select v.column1, v.column2, (select m.id from message m where m.mailbox = v.column1"
    " and m.copy_key = v.column2 order by m.seq limit 1) as first from known join (values ?) as v"
    " on v.column2 = known.copy_key) as found where first is not null"
)
"""Asks for the first message that each mailbox still has of each ``Key``: mailbox, key, message; an index's first row
each. Its parameters are ``firsts``'. Of mail for many mailboxes that is the first anywhere it is one look."""


def firsts(keys: Sequence[Key]) -> list[Rows]:
    """The parameters of ``FIRSTS``."""
    return [Rows([(key,) for key in dict.fromkeys(key for _, key in keys)]), Rows(keys)]
