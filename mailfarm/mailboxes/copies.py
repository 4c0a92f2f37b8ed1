"""Copies: mail that a mailbox has got before, byte for byte.

A client that lost its connection after the final dot does not know whether it was taken, and sends again (RFC 1047).
That is a second message: it is kept, listed and counted as any other, and bears the id of the first one in
``duplicate_of``. A copy is what has the same Message-ID, not an empty one, and the same content, in the same mailbox.
"""

from __future__ import annotations

from hashlib import sha256

Key = tuple[str, bytes]
"""A mailbox's id, and what ``copy_key`` gave."""


def copy_key(message_id: str, content: bytes) -> bytes | None:
    """What copies have in common; ``content`` is its SHA-256. None for what has no Message-ID: it has no copies."""
    return sha256(message_id.encode() + b"\0" + content).digest()[:16] if message_id else None


FIRSTS = (
    "select * from (select v.column1, v.column2, (select m.id from message m where m.mailbox = v.column1"
    " and m.copy_key = v.column2 order by m.seq limit 1) as first from (values ?) as v) as found"
    " where first is not null"
)
"""Asks for the first message that each mailbox still has of each ``Key``: mailbox, key, message; an index's first row
each."""
