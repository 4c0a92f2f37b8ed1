"""What happens, as values with one JSON form: the log line, the WebSocket frame, the webhook's body.

A change of a mailbox is an event with that mailbox's next change number (``seq``), without gaps.
Times are microseconds since 1970 in UTC; in JSON they are RFC 3339 with a ``Z``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final, Literal

import orjson

from mailfarm.values import value

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NAIVE_EPOCH: Final = datetime(1970, 1, 1)  # UTC, as all times here


@value
class Person:
    """A display name, empty if there is none, and an address, as a header gives them (RFC 5322 §3.4)."""

    name: str
    address: str


@value
class Summary:
    """What a list shows of a message. ``sender`` and ``recipients`` are the envelope's, the rest the headers'.

    ``received_at`` is when 250 was said; ``size`` is the content's, in octets, without our trace header.
    """

    id: str
    mailbox: str
    seq: int
    received_at: int
    sender: str
    recipients: tuple[str, ...]
    from_: Person | None
    to: tuple[Person, ...]
    cc: tuple[Person, ...]
    subject: str
    snippet: str
    message_id: str
    size: int
    attachments: int
    seen: bool = False
    duplicate_of: str | None = None


@value
class Filed:
    """A message was put into a mailbox.

    ``gone``: it has been deleted since. Then of ``message`` only the id, the mailbox and the number are true; there is
    nothing left to say the rest.
    """

    id: str
    account: str
    mailbox: str
    seq: int
    at: int
    message: Summary
    gone: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """Messages were marked seen, or not seen any more."""

    id: str
    account: str
    mailbox: str
    seq: int
    at: int
    messages: tuple[str, ...]
    seen: bool


@dataclass(frozen=True, slots=True)
class Deleted:
    """Messages were deleted by their reader."""

    id: str
    account: str
    mailbox: str
    seq: int
    at: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Expired:
    """Messages reached the end of their retention and were deleted."""

    id: str
    account: str
    mailbox: str
    seq: int
    at: int
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class MailboxOpened:
    """A mailbox was made. Not a change of a mailbox: it has no change number."""

    id: str
    account: str
    mailbox: str
    at: int
    address: str


@dataclass(frozen=True, slots=True)
class MailboxClosed:
    """A mailbox ended or was deleted, with everything in it. It has no change number either."""

    id: str
    account: str
    mailbox: str
    at: int
    address: str


@dataclass(frozen=True, slots=True)
class MailboxChanged:
    """How long a mailbox lives, or keeps its messages, was changed. Told to those who look mailboxes up, and no change
    of what is in it: it has no change number."""

    id: str
    account: str
    mailbox: str
    at: int
    address: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """A credential or a token was ended before its time. ``what`` is its id; a token's is also that of every browser
    session that was begun with it."""

    id: str
    account: str
    at: int
    kind: Literal["credential", "token"]
    what: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A recipient or a message was refused. Sampled, bounded, not durable.

    ``account`` is the account that may see it, empty if nobody's. ``mailbox`` is the id of the mailbox the mail would
    have gone to, empty if that is not known. ``address`` is the recipient as it was said, empty if MAIL was refused.
    ``lines`` are the last SMTP lines that led to it, the client's with ``C: `` and ours with ``S: `` in front, secrets
    left out.
    """

    id: str
    account: str
    at: int
    service: str
    client: str
    address: str
    sender: str
    code: int
    enhanced: str
    text: str
    lines: tuple[str, ...]
    mailbox: str = ""


Change = Filed | Seen | Deleted | Expired
Event = Change | MailboxOpened | MailboxClosed | MailboxChanged | Revoked | Refused

LOOKUP: Final = "lookup"
"""The topic of the bus for everything that ends what somebody may have looked up before: mailboxes opened, changed and
closed, credentials and tokens revoked, of every account."""

_TYPES: Final[dict[type, str]] = {
    Filed: "filed",
    Seen: "seen",
    Deleted: "deleted",
    Expired: "expired",
    MailboxOpened: "mailbox-opened",
    MailboxClosed: "mailbox-closed",
    MailboxChanged: "mailbox-changed",
    Revoked: "revoked",
    Refused: "refused",
}
_CLASSES: Final[dict[str, type]] = {name: cls for cls, name in _TYPES.items()}
_MEMBERS: Final[dict[type, frozenset[str]]] = {cls: frozenset(each.name for each in fields(cls)) for cls in _TYPES}


def rfc3339(microseconds: int) -> str:
    """``2026-01-31T12:00:00.000000Z``. An integer is exact, so is the text."""
    second, rest = divmod(microseconds, 1_000_000)
    return f"{_second(second)}.{rest:06}Z"


@lru_cache(64)  # what is told at once happened within few
def _second(second: int) -> str:
    return (_NAIVE_EPOCH + timedelta(seconds=second)).isoformat("T", "seconds")


def from_rfc3339(text: str) -> int:
    """The inverse of ``rfc3339``; any offset is accepted. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; write Z or an offset")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def type_of(event: Event) -> str:
    """The event's name in its JSON form."""
    return _TYPES[type(event)]


def person_form(person: Person) -> dict[str, str]:
    """The JSON form of a person."""
    return {"name": person.name, "address": person.address}


def summary_form(summary: Summary) -> dict[str, Any]:
    """The JSON form of a summary, as lists, events and frames show it."""
    return {
        "id": summary.id,
        "mailbox": summary.mailbox,
        "seq": summary.seq,
        "recipients": list(summary.recipients),
        "duplicate_of": summary.duplicate_of,
        **_shared_form(summary),
    }


def _shared_form(summary: Summary) -> dict[str, Any]:
    """Those members that the messages made of one mail have in common."""
    return {
        "received_at": rfc3339(summary.received_at),
        "sender": summary.sender,
        "from": None if summary.from_ is None else person_form(summary.from_),
        "to": [person_form(p) for p in summary.to],
        "cc": [person_form(p) for p in summary.cc],
        "subject": summary.subject,
        "snippet": summary.snippet,
        "message_id": summary.message_id,
        "size": summary.size,
        "attachments": summary.attachments,
        "seen": summary.seen,
    }


def summary_from_form(form: dict[str, Any]) -> Summary:
    """The inverse of ``summary_form``."""
    who = form["from"]
    return Summary(
        id=form["id"],
        mailbox=form["mailbox"],
        seq=form["seq"],
        received_at=from_rfc3339(form["received_at"]),
        sender=form["sender"],
        recipients=tuple(form["recipients"]),
        from_=None if who is None else Person(who["name"], who["address"]),
        to=tuple(Person(p["name"], p["address"]) for p in form["to"]),
        cc=tuple(Person(p["name"], p["address"]) for p in form["cc"]),
        subject=form["subject"],
        snippet=form["snippet"],
        message_id=form["message_id"],
        size=form["size"],
        attachments=form["attachments"],
        seen=form["seen"],
        duplicate_of=form["duplicate_of"],
    )


def form(event: Event) -> dict[str, Any]:
    """The JSON form of an event, as a dictionary."""
    out: dict[str, Any] = {"type": _TYPES[type(event)]}
    for name in event.__dataclass_fields__:
        value = getattr(event, name)
        if name == "gone" and not value:
            continue
        if name == "at":
            value = rfc3339(value)
        elif isinstance(value, Summary):
            value = summary_form(value)
        elif isinstance(value, tuple):
            value = list(value)
        out[name] = value
    return out


class FiledAlike:
    """The ``filed`` events of the messages made of one mail: what they have in common is written once.

    ``summary`` says that; its own id, mailbox, number, recipients and ``duplicate_of`` mean nothing. The JSON of event
    ``n`` is ``heads[n]`` and then ``end``. Ids have only letters and digits (``ids``).
    """

    __slots__ = ("_at_text", "_end", "_made", "_summary", "account", "at", "end", "heads", "mailboxes")

    def __init__(self, account: str, at: int, summary: Summary) -> None:
        self.account = account
        self.at = at
        self.mailboxes: list[str] = []
        self.heads: list[bytes] = []
        self._at_text = rfc3339(at)
        self._summary = summary
        self._made: list[tuple[str, str, int, tuple[str, ...], str | None]] = []
        self._end = f",{orjson.dumps(_shared_form(summary)).decode()[1:]}"
        self.end = f"{self._end}}}".encode()

    def add(
        self, event: str, id: str, mailbox: str, seq: int, recipients: tuple[str, ...], duplicate_of: str | None
    ) -> str:
        """One more: the event's id, and what is the message's own. The JSON form of the message's summary."""
        first = "null" if duplicate_of is None else f'"{duplicate_of}"'
        own = (
            f'{{"id":"{id}","mailbox":"{mailbox}","seq":{seq},"recipients":{orjson.dumps(recipients).decode()},'
            f'"duplicate_of":{first}'
        )
        self.mailboxes.append(mailbox)
        self._made.append((event, id, seq, recipients, duplicate_of))
        self.heads.append(
            f'{{"type":"filed","id":"{event}","account":"{self.account}","mailbox":"{mailbox}","seq":{seq},'
            f'"at":"{self._at_text}","message":{own}'.encode()
        )
        return own + self._end

    def __len__(self) -> int:
        return len(self.heads)

    def event(self, number: int) -> Filed:
        """Event ``number``, from 0."""
        event, id, seq, recipients, duplicate_of = self._made[number]
        mailbox = self.mailboxes[number]
        summary = replace(
            self._summary, id=id, mailbox=mailbox, seq=seq, recipients=recipients, duplicate_of=duplicate_of
        )
        return Filed(event, self.account, mailbox, seq, self.at, summary)


def to_json(event: Event) -> bytes:
    """The JSON form of an event, as bytes without a line end."""
    return orjson.dumps(form(event))


def from_json(data: bytes | str) -> Event:
    """The inverse of ``to_json``. Raises ValueError on anything else."""
    try:
        raw = orjson.loads(data)
        cls = _CLASSES[raw.pop("type")]
        raw["at"] = from_rfc3339(raw["at"])
        if cls is Filed:
            raw["message"] = summary_from_form(raw["message"])
        for name in ("messages", "lines"):
            if name in raw:
                raw[name] = tuple(raw[name])
        if not raw.keys() <= _MEMBERS[cls]:  # what a newer mailfarm has added is passed over
            raw = {name: value for name, value in raw.items() if name in _MEMBERS[cls]}
        event: Event = cls(**raw)
    except (KeyError, TypeError, AttributeError, orjson.JSONDecodeError) as error:
        raise ValueError(f"not an event: {error}") from None
    return event
