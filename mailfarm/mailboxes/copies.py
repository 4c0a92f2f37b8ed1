"""Copies: mail that a mailbox has got before, byte for byte.

A client that lost its connection after the final dot does not know whether it was taken, and sends again (RFC 1047).
That is a second message: it is kept, listed and counted as any other, and bears the id of the first one in
``duplicate_of``. A copy is what has the same Message-ID, not an empty one, and the same content, in the same mailbox.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from mailfarm.ports import Tx

AT_ONCE = 500
"""Keys in one statement."""

Key = tuple[str, bytes]
"""A mailbox's id, and what ``copy_key`` gave."""


def copy_key(message_id: str, content: bytes) -> bytes | None:
    """What copies have in common; ``content`` is its SHA-256. None for what has no Message-ID: it has no copies."""
    return sha256(message_id.encode() + b"\0" + content).digest()[:16] if message_id else None


async def firsts(tx: Tx, keys: Iterable[Key]) -> dict[Key, str]:
    """The first message that each mailbox still has of a key. One statement for every ``AT_ONCE`` keys, each an index's
    first row."""
    wanted: Sequence[Key] = list(dict.fromkeys(keys))
    found: dict[Key, str] = {}
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        values = ", ".join(["(?, ?)"] * len(some))
        rows = await tx.rows(
            "select v.column1, v.column2, (select m.id from message m where m.mailbox = v.column1"
            f" and m.copy_key = v.column2 order by m.seq limit 1) from (values {values}) as v",
            [value for key in some for value in key],
        )
        found |= {(mailbox, bytes(key)): id for mailbox, key, id in rows if id is not None}
    return found
