"""The JSON form of spooled mail, all but its content: what a queue's backend stores.

One object, written and read here alone. ``v`` is the form's version: a reader meets what an older mailfarm queued.
"""

from __future__ import annotations

from base64 import b64decode, b64encode

import orjson

from mailfarm.errors import Invalid
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import Content, Origin, Spooled

VERSION = 1


def to_form(spooled: Spooled) -> bytes:
    """The form as JSON in UTF-8. Raises Invalid for text that has none (a lone surrogate)."""
    try:
        return orjson.dumps(
            {
                "v": VERSION,
                "id": spooled.id,
                "account": spooled.account,
                "accepted_at": spooled.accepted_at,
                "envelope": spooled.envelope,
                "origin": spooled.origin,
                "mailboxes": spooled.mailboxes,
                "trace": b64encode(spooled.trace).decode("ascii"),
                "sha256": spooled.sha256.hex(),
            }
        )
    except orjson.JSONEncodeError as error:
        raise Invalid(f"spooled mail {spooled.id} cannot be stored: {error}") from None


def from_form(form: bytes | str, content: Content) -> Spooled:
    """The inverse. Raises ValueError on anything ``to_form`` did not write."""
    try:
        raw = orjson.loads(form)
        if raw["v"] != VERSION:
            raise ValueError(f"spooled mail of version {raw['v']}, this mailfarm reads {VERSION}")
        envelope = raw["envelope"]
        envelope["recipients"] = tuple(
            [Recipient(r["address"], tuple(r["notify"]), r["orcpt"]) for r in envelope["recipients"]]
        )
        return Spooled(
            id=raw["id"],
            account=raw["account"],
            accepted_at=raw["accepted_at"],
            envelope=Envelope(**envelope),
            origin=Origin(**raw["origin"]),
            mailboxes=tuple(raw["mailboxes"]),
            trace=b64decode(raw["trace"]),
            sha256=bytes.fromhex(raw["sha256"]),
            content=content,
        )
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not spooled mail: {error!r}") from None


def envelope_of(form: bytes) -> tuple[str, tuple[str, ...]]:
    """Sender and recipients out of the stored form, whatever its version."""
    try:
        envelope = orjson.loads(form)["envelope"]
        return envelope["sender"], tuple(r["address"] for r in envelope["recipients"])
    except (KeyError, TypeError, orjson.JSONDecodeError):
        return "", ()
