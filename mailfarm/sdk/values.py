"""What the server says, as values. Nothing here does I/O.

Times are ``datetime`` in UTC. Every class is made by its ``of`` from the JSON the API documents; members a newer
server may add are passed over, optional members an older one may lack have a default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from .plain import line, quoted

M = TypeVar("M")
Json = Mapping[str, Any]


def moment(text: str) -> datetime:
    """RFC 3339 text as a ``datetime`` with its time zone."""
    return datetime.fromisoformat(text)


def moment_or_none(text: str | None) -> datetime | None:
    """The same where there may be none, or one a stranger wrote wrongly."""
    try:
        return None if not text else moment(text)
    except ValueError:
        return None


def form_of(value: Any) -> Any:
    """A value of this module as the JSON it came from: the inverse of each ``of``."""
    if isinstance(value, Link):
        return {"url": value.url, "text": value.text}
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name.rstrip("_"): form_of(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [form_of(each) for each in value]
    return value


@dataclass(frozen=True, slots=True)
class Person:
    """A display name, empty if there is none, and an address, as a header gives them.

    >>> str(Person("App", "app@example.org"))
    'App <app@example.org>'
    """

    name: str
    address: str

    @classmethod
    def of(cls, form: Json) -> Person:
        return cls(form["name"], form["address"])

    def __str__(self) -> str:
        return f"{self.name} <{self.address}>" if self.name else self.address


@dataclass(frozen=True, slots=True)
class Summary:
    """What a list shows of a message. ``sender`` and ``recipients`` are the envelope's, the rest the headers'.

    ``seq`` is the number of the change of its mailbox that filed it: the cursor for ``after=``. ``size`` is in octets.
    """

    id: str
    mailbox: str
    seq: int
    received_at: datetime
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
    seen: bool
    duplicate_of: str | None

    @classmethod
    def of(cls, form: Json) -> Summary:
        return cls(
            id=form["id"],
            mailbox=form["mailbox"],
            seq=form["seq"],
            received_at=moment(form["received_at"]),
            sender=form["sender"],
            recipients=tuple(form["recipients"]),
            from_=None if form["from"] is None else Person.of(form["from"]),
            to=tuple(Person.of(p) for p in form["to"]),
            cc=tuple(Person.of(p) for p in form["cc"]),
            subject=form["subject"],
            snippet=form["snippet"],
            message_id=form["message_id"],
            size=form["size"],
            attachments=form["attachments"],
            seen=form.get("seen", False),
            duplicate_of=form.get("duplicate_of"),
        )

    def __str__(self) -> str:
        return f"{quoted(self.subject, 60)} from {line(str(self.from_ or self.sender or '<>'), 60)}"


class Link(str):
    """The URL of a link in a message; ``text`` is what was clickable. It is a ``str``, so any HTTP client takes it."""

    __slots__ = ("text",)
    text: str

    def __new__(cls, url: str, text: str = "") -> Link:
        link = super().__new__(cls, url)
        link.text = text
        return link

    @property
    def url(self) -> str:
        """The URL as a bare ``str``."""
        return str.__str__(self)

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]  # so that copies and pickles keep the text
        return self.url, self.text


class Headers(Mapping[str, str]):
    """Header fields in their order. Names are compared without case; ``headers["To"]`` is the first field so named.

    >>> headers = Headers([("X-Tag", "a"), ("x-tag", "b")])
    >>> headers["X-TAG"], headers.all("x-tag")
    ('a', ('a', 'b'))
    """

    __slots__ = ("fields",)

    def __init__(self, fields: Sequence[tuple[str, str]]) -> None:
        self.fields = tuple(fields)

    def __getitem__(self, name: str) -> str:
        values = self.all(name)
        if not values:
            names = ", ".join(dict.fromkeys(field for field, _ in self.fields))
            raise KeyError(f"no header field {name!r}; there are: {line(names, 500)}")
        return values[0]

    def get(self, name: str, default: Any = None) -> Any:
        """The first field so named, or ``default``."""
        values = self.all(name)
        return values[0] if values else default

    def all(self, name: str) -> tuple[str, ...]:
        """Every field so named, the topmost first."""
        name = name.lower()
        return tuple(value for field, value in self.fields if field.lower() == name)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self.all(name))

    def __iter__(self) -> Iterator[str]:
        return iter({field.lower(): field for field, _ in reversed(self.fields)}.values())

    def __len__(self) -> int:
        return len({field.lower() for field, _ in self.fields})

    def __repr__(self) -> str:
        return f"Headers({list(self.fields)!r})"


@dataclass(frozen=True, slots=True)
class Part:
    """A node of a message's MIME tree; ``parent`` is the number of the node it is in. ``size`` is decoded octets."""

    n: int
    parent: int | None
    content_type: str
    charset: str | None
    filename: str | None
    disposition: str | None
    content_id: str | None
    size: int | None
    attachment: bool
    encoding: str | None = None

    @classmethod
    def of(cls, form: Json) -> Part:
        return cls(
            form["n"],
            form.get("parent"),
            form["content_type"],
            form.get("charset"),
            form.get("filename"),
            form.get("disposition"),
            form.get("content_id"),
            form.get("size"),
            bool(form.get("attachment")),
            form.get("encoding"),
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """Sender and recipients as SMTP said them, with their parameters; ``recipients`` as the API gives them."""

    sender: str
    recipients: tuple[str, ...]
    body: str
    smtputf8: bool
    ret: str | None
    envid: str | None

    @classmethod
    def of(cls, form: Json) -> Envelope:
        return cls(
            form["sender"],
            tuple(r["address"] for r in form["recipients"]),
            form.get("body", "7BIT"),
            bool(form.get("smtputf8")),
            form.get("ret"),
            form.get("envid"),
        )


@dataclass(frozen=True, slots=True)
class Detail:
    """What a message is besides its summary. ``origin`` says where its transaction came from, as the API gives it."""

    reply_to: tuple[Person, ...]
    date: datetime | None
    text: str
    html: str
    text_truncated: bool
    html_truncated: bool
    links: tuple[Link, ...]
    codes: tuple[str, ...]
    parts: tuple[Part, ...]
    envelope: Envelope
    origin: Json
    findings: tuple[str, ...]

    @classmethod
    def of(cls, form: Json) -> Detail:
        return cls(
            tuple(Person.of(p) for p in form.get("reply_to", ())),
            moment_or_none(form.get("date")),
            form["text"],
            form["html"],
            bool(form.get("text_truncated")),
            bool(form.get("html_truncated")),
            tuple(Link(link["url"], link.get("text", "")) for link in form["links"]),
            tuple(form["codes"]),
            tuple(Part.of(p) for p in form["parts"]),
            Envelope.of(form["envelope"]),
            form.get("origin", {}),
            tuple(form.get("findings", ())),
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """A recipient or a message the server refused. ``lines`` are the last SMTP lines that led to it, secrets left out;
    ``mailbox`` is the id of the mailbox it would have gone to, empty if that is not known."""

    at: datetime
    service: str
    client: str
    address: str
    sender: str
    code: int
    enhanced: str
    text: str
    lines: tuple[str, ...]
    mailbox: str = ""

    @classmethod
    def of(cls, form: Json) -> Refusal:
        return cls(
            moment(form["at"]),
            form["service"],
            form["client"],
            form["address"],
            form["sender"],
            form["code"],
            form["enhanced"],
            form["text"],
            tuple(form["lines"]),
            form.get("mailbox", ""),
        )

    def __str__(self) -> str:
        reply = " ".join(filter(None, (str(self.code), self.enhanced, self.text)))
        to = f"to {self.address} " if self.address else ""
        return line(f"{reply} ({to}from {self.sender or '<>'}, client {self.client})", 300)


@dataclass(frozen=True, slots=True)
class NearMiss:
    """A message that met some of the criteria; ``failed`` names those it did not meet."""

    message: Summary
    failed: tuple[str, ...]

    @classmethod
    def of(cls, form: Json) -> NearMiss:
        return cls(Summary.of(form["message"]), tuple(form["failed"]))


@dataclass(frozen=True, slots=True)
class MailboxState:
    """A mailbox as it was when the server was asked. ``cursor`` is its last change number, ``retention`` seconds."""

    id: str
    address: str
    kind: str
    cursor: int
    messages: int
    unseen: int
    created_at: datetime
    starts_at: datetime
    ends_at: datetime | None
    retention: int | None

    @classmethod
    def of(cls, form: Json) -> MailboxState:
        return cls(
            form["id"],
            form["address"],
            form["kind"],
            form["cursor"],
            form["messages"],
            form["unseen"],
            moment(form["created_at"]),
            moment(form["starts_at"]),
            moment_or_none(form.get("ends_at")),
            form.get("retention"),
        )


@dataclass(frozen=True, slots=True)
class Smtp:
    """Where and as whom to send so that mail lands in this mailbox.

    ``port`` needs no credential: the open capture port, or 25 of a farm behind HTTPS. ``starttls_port`` and
    ``tls_port`` (None where the server says nothing of them) ask for ``user`` and ``password``. Those two are only
    known to the one who made the mailbox; they are None for a mailbox that was looked up.
    """

    host: str
    port: int
    user: str | None = None
    password: str | None = None
    starttls_port: int | None = None
    tls_port: int | None = None

    def __repr__(self) -> str:
        return f"Smtp({self.host}:{self.port}, user={self.user!r})"  # never the password


@dataclass(frozen=True, slots=True)
class Event(Generic[M]):
    """A change of a mailbox.

    ``type`` is ``filed`` (then ``message`` is there), ``seen``, ``deleted`` or ``expired`` (then ``ids`` are), with
    the change's number ``seq``. ``resync`` says that changes before ``seq`` are no longer kept: list the mailbox, and
    go on listening. ``mailbox-closed`` is the last one: the mailbox is gone.
    """

    type: str
    mailbox: str
    seq: int
    at: datetime | None = None
    message: M | None = None
    ids: tuple[str, ...] = ()
    seen: bool | None = None
