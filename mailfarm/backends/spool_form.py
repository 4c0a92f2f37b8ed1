"""The JSON form of spooled mail, all but its content: what a queue's backend stores.

One object, written and read here alone. A reader meets what an older mailfarm queued, and while a cluster is updated
what a newer one did. Fields that it does not know are passed over, so one may be added whenever older readers can do
without it. ``v`` changes when they cannot: then they leave the entry to a newer worker.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from dataclasses import fields

import orjson

from mailfarm.errors import Invalid
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import Content, Origin, Spooled

VERSION = 1

_ENVELOPE = tuple(field.name for field in fields(Envelope) if field.name != "recipients")
_ORIGIN = tuple(field.name for field in fields(Origin))


class NewerFormError(ValueError):
    """A newer mailfarm has written this, and only a newer one can read it."""


def to_form(spooled: Spooled) -> bytes:
    """The form as JSON in UTF-8. Raises Invalid for text that has none (a lone surrogate)."""
    envelope, origin = spooled.envelope, spooled.origin
    try:
        # written out: orjson takes three times as long over dataclasses
        return orjson.dumps(
            {
                "v": VERSION,
                "id": spooled.id,
                "account": spooled.account,
                "accepted_at": spooled.accepted_at,
                "envelope": {
                    "sender": envelope.sender,
                    "recipients": [
                        {"address": each.address, "notify": each.notify, "orcpt": each.orcpt}
                        for each in envelope.recipients
                    ],
                    "body": envelope.body,
                    "smtputf8": envelope.smtputf8,
                    "size": envelope.size,
                    "ret": envelope.ret,
                    "envid": envelope.envid,
                },
                "origin": {
                    "service": origin.service,
                    "client": origin.client,
                    "port": origin.port,
                    "helo": origin.helo,
                    "protocol": origin.protocol,
                    "tls": origin.tls,
                    "credential": origin.credential,
                },
                "mailboxes": spooled.mailboxes,
                "trace": b64encode(spooled.trace).decode("ascii"),
                "sha256": spooled.sha256.hex(),
            }
        )
    except orjson.JSONEncodeError as error:
        raise Invalid(f"spooled mail {spooled.id} cannot be stored: {error}") from None


def from_form(form: bytes | str, content: Content) -> Spooled:
    """The inverse. Raises NewerFormError; ValueError on anything ``to_form`` did not write."""
    try:
        raw = orjson.loads(form)
        if raw["v"] != VERSION:
            if isinstance(raw["v"], int) and raw["v"] > VERSION:
                raise NewerFormError(f"spooled mail of version {raw['v']}, this mailfarm reads {VERSION}: update it")
            raise ValueError(f"spooled mail of version {raw['v']}, this mailfarm reads {VERSION}")
        envelope, origin = raw["envelope"], raw["origin"]
        recipients = tuple([Recipient(r["address"], tuple(r["notify"]), r["orcpt"]) for r in envelope["recipients"]])
        return Spooled(
            id=raw["id"],
            account=raw["account"],
            accepted_at=raw["accepted_at"],
            envelope=Envelope(recipients=recipients, **{name: envelope[name] for name in _ENVELOPE}),
            origin=Origin(**{name: origin[name] for name in _ORIGIN}),
            mailboxes=tuple(raw["mailboxes"]),
            trace=b64decode(raw["trace"]),
            sha256=bytes.fromhex(raw["sha256"]),
            content=content,
        )
    except (KeyError, TypeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not spooled mail: {error!r}") from None


def envelope_of(form: bytes) -> tuple[str, str, tuple[str, ...]]:
    """Account, sender and recipients out of the stored form, whatever its version; empty where they cannot be read."""
    try:
        raw = orjson.loads(form)
        envelope = raw["envelope"]
        said = raw["account"], envelope["sender"], tuple(r["address"] for r in envelope["recipients"])
    except (KeyError, TypeError, orjson.JSONDecodeError):
        return "", "", ()
    return said if all(isinstance(each, str) for each in (*said[:2], *said[2])) else ("", "", ())
