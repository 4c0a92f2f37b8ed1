"""What parsing found in content, and a message as a reader's detail view shows it.

These values are JSON in the ``content`` table: its *detail*, stored packed (``packing.py``). Fields that a reader does
not know, because a newer mailfarm has written them, are passed over. Every text in them is free
of lone surrogates, and those that come from headers are free of control characters (``wire safety``: they may end in a
header, a log line or a terminal).
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal, TypeVar

import orjson

from mailfarm.errors import Damaged
from mailfarm.events import Person, Summary
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import Origin
from mailfarm.values import value

T = TypeVar("T")
Parser = Literal["fast", "plain", "none"]


@value
class Part:
    """One node of the MIME tree. ``n`` counts depth first from 1, the root; ``parent`` is None for the root.

    ``filename`` is safe to save under, its original is among the findings when it was not. ``size`` is in octets once
    decoded, None for a container and where the encoding is broken.
    """

    n: int
    parent: int | None
    content_type: str
    charset: str = ""
    filename: str = ""
    disposition: str = ""
    content_id: str = ""
    encoding: str = ""
    size: int | None = None
    attachment: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A link and the words it is shown under (the same as ``url`` where text has it bare)."""

    url: str
    text: str


@dataclass(frozen=True, slots=True)
class Found:
    """What a test or a person looks for in a message's texts: links, and one-time codes with the likeliest first."""

    links: tuple[Link, ...] = ()
    codes: tuple[str, ...] = ()


@value
class Head:
    """What the detail view shows besides summary, texts and parts.

    ``date`` is the Date header in microseconds, None if there is none that can be read. ``parser`` says which one read
    the parts, because part numbers are only stable under the same one. ``findings`` say what was
    wrong with the message.
    """

    reply_to: tuple[Person, ...] = ()
    date: int | None = None
    text_truncated: bool = False
    html_truncated: bool = False
    parser: Parser = "fast"
    findings: tuple[str, ...] = ()


@value
class Parsed:
    """Everything parsing gives. ``text`` and ``html`` are decoded and capped; ``visible`` is the HTML's visible text
    where the snippet is of that, or finding it is not easy, else empty: then it is found when it is looked for."""

    from_: Person | None = None
    to: tuple[Person, ...] = ()
    cc: tuple[Person, ...] = ()
    subject: str = ""
    snippet: str = ""
    message_id: str = ""
    attachments: int = 0
    text: str = ""
    html: str = ""
    visible: str = ""
    parts: tuple[Part, ...] = ()
    head: Head = field(default_factory=Head)


@dataclass(frozen=True, slots=True)
class ContentRef:
    """Where stored content is. ``until`` is the moment up to which it is kept for its messages' retention
    (microseconds; ``ports.NEVER``: until it is deleted), and says in which partition it stands. ``chunks`` counts the
    rows it stands in; 0: it stands behind its detail."""

    id: str
    until: int
    chunks: int


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message with everything but its content's bytes, which are read in chunks by ``content``."""

    account: str
    summary: Summary
    head: Head
    parts: tuple[Part, ...]
    text: str
    html: str
    envelope: Envelope
    origin: Origin
    trace: bytes
    content: ContentRef
    sha256: bytes
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Detail:
    """What is stored of a message besides its summary, trace and content."""

    envelope: Envelope
    origin: Origin
    head: Head
    parts: tuple[Part, ...]
    text: str
    html: str
    visible: str


def dump(value: Any) -> str:
    """The JSON of a value of this module, of an Envelope or of an Origin."""
    return orjson.dumps(value).decode()


def dump_detail(envelope: Envelope, origin: Origin, parsed: Parsed) -> bytes:
    """The JSON that ``load_detail`` reads. Raises TypeError when a value is none of ours."""
    return orjson.dumps(
        {
            "envelope": envelope,
            "origin": origin,
            "head": parsed.head,
            "parts": parsed.parts,
            "text": parsed.text,
            "html": parsed.html,
            "visible": parsed.visible,
        }
    )


def load_detail(data: bytes) -> Detail:
    """The inverse of ``dump_detail``. Raises Damaged."""
    try:
        raw = orjson.loads(data)
        return Detail(
            _envelope(raw["envelope"]),
            _made(Origin, raw["origin"]),
            _head(raw["head"]),
            _parts(raw["parts"]),
            raw["text"],
            raw["html"],
            raw["visible"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the stored detail of a message cannot be read: {error!r}") from None


def load_texts(data: bytes) -> tuple[str, str, str]:
    """Only ``text``, ``html`` and ``visible``. Raises Damaged."""
    try:
        raw = orjson.loads(data)
        return raw["text"], raw["html"], raw["visible"]
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"the stored detail of a message cannot be read: {error!r}") from None


def load_head(data: str) -> Head:
    """The inverse of ``dump`` for a Head."""
    return _head(orjson.loads(data))


def load_parts(data: str) -> tuple[Part, ...]:
    """The inverse of ``dump`` for parts."""
    return _parts(orjson.loads(data))


def _head(raw: dict[str, Any]) -> Head:
    people = tuple(_made(Person, person) for person in raw["reply_to"])
    return _made(Head, raw | {"reply_to": people, "findings": tuple(raw["findings"])})


def _parts(raw: list[dict[str, Any]]) -> tuple[Part, ...]:
    return tuple(_made(Part, part) for part in raw)


def _envelope(raw: dict[str, Any]) -> Envelope:
    recipients = tuple(Recipient(each["address"], tuple(each["notify"]), each["orcpt"]) for each in raw["recipients"])
    return _made(Envelope, raw | {"recipients": recipients})


def _made(cls: type[T], raw: dict[str, Any]) -> T:
    return cls(**{name: value for name, value in raw.items() if name in _FIELDS[cls]})


_FIELDS: dict[type, frozenset[str]] = {
    cls: frozenset(field.name for field in fields(cls)) for cls in (Origin, Envelope, Head, Part, Person)
}
