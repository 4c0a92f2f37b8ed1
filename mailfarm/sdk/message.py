"""A message as all three clients show it; how the parts that are fetched later come in is each client's own.

``summary`` is always there. ``detail`` (texts, links, codes, parts) and ``headers`` are fetched on demand by the
blocking client, and before a wait returns by the other two. ``raw`` and attachments' content are only ever fetched
when asked for: they may be large.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Generic, TypeVar

from . import checks
from .errors import NotInMessage, NotLoaded
from .plain import line, quoted
from .values import Detail, Envelope, Headers, Link, Part, Person, Summary

A = TypeVar("A", bound="AttachmentBase")
START = 200
NUMBERS = 10
NUMBER = re.compile(r"(?<![\w.,/#=&?%+-])[0-9]{4,10}(?![\w/=&%+]|[.,-]\d)")
"""Digits that stand alone: no part of a word, a URL, a date or a price."""


class AttachmentBase:
    """A part that is an attachment. ``size`` is decoded octets, None where the server does not say."""

    def __init__(self, message: str, part: Part) -> None:
        self.message = message
        self.part = part
        self._content: bytes | None = None

    @property
    def n(self) -> int:
        """The part's number in its message."""
        return self.part.n

    @property
    def filename(self) -> str | None:
        """The name its sender gave it. A stranger chose it: do not use it as a path."""
        return self.part.filename

    @property
    def content_type(self) -> str:
        """The media type its sender gave it, ``application/pdf`` for example."""
        return self.part.content_type

    @property
    def content_id(self) -> str | None:
        """The Content-ID, by which HTML refers to it (``cid:``)."""
        return self.part.content_id

    @property
    def size(self) -> int | None:
        """Octets, once decoded."""
        return self.part.size

    @property
    def content(self) -> bytes:
        """The decoded octets. Fetched when first asked for; with asyncio and Twisted ``read()`` comes first."""
        if self._content is None:
            raise NotLoaded(f"attachment {self.filename!r} has not been fetched: await attachment.read() first")
        return self._content

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.filename!r} {self.content_type} {self.size} octets>"


class MessageBase(ABC, Generic[A]):
    """A message in a mailbox."""

    def __init__(self, summary: Summary, detail: Detail | None = None, headers: Headers | None = None) -> None:
        self.summary = summary
        self._detail = detail
        self._headers = headers
        self._raw: bytes | None = None
        self._attachments: tuple[A, ...] | None = None

    # The summary

    @property
    def id(self) -> str:
        """Its id."""
        return self.summary.id

    @property
    def mailbox(self) -> str:
        """The id of its mailbox."""
        return self.summary.mailbox

    @property
    def seq(self) -> int:
        """The change number at which it was filed: ``wait_for(after=mail.seq)`` waits for what comes later."""
        return self.summary.seq

    @property
    def received_at(self) -> datetime:
        """When the server said 250."""
        return self.summary.received_at

    @property
    def sender(self) -> str:
        """The envelope's sender, empty for a bounce. See ``from_`` for the header."""
        return self.summary.sender

    @property
    def recipients(self) -> tuple[str, ...]:
        """The envelope's recipients, blind copies included. See ``to`` for the header."""
        return self.summary.recipients

    @property
    def from_(self) -> Person | None:
        """The From header."""
        return self.summary.from_

    @property
    def to(self) -> tuple[Person, ...]:
        """The To header."""
        return self.summary.to

    @property
    def cc(self) -> tuple[Person, ...]:
        """The Cc header."""
        return self.summary.cc

    @property
    def subject(self) -> str:
        """The Subject header, decoded."""
        return self.summary.subject

    @property
    def snippet(self) -> str:
        """How the text begins."""
        return self.summary.snippet

    @property
    def message_id(self) -> str:
        """The Message-ID header."""
        return self.summary.message_id

    @property
    def size(self) -> int:
        """Octets of the content as it was sent."""
        return self.summary.size

    @property
    def seen(self) -> bool:
        """Whether it was marked seen, when it was last fetched."""
        return self.summary.seen

    @property
    def duplicate_of(self) -> str | None:
        """The id of the message in the same mailbox that this one repeats, if it does."""
        return self.summary.duplicate_of

    # The detail

    @property
    def detail(self) -> Detail:
        """Everything else the server says of it, as one value."""
        if self._detail is None:
            raise NotLoaded(f"message {self.id} has not been fetched: await message.load() first")
        return self._detail

    @property
    def text(self) -> str:
        """The text part, decoded; empty where there is none."""
        return self.detail.text

    @property
    def html(self) -> str:
        """The HTML part, decoded, as its sender wrote it; empty where there is none."""
        return self.detail.html

    @property
    def truncated(self) -> bool:
        """Whether ``text`` or ``html`` is only the beginning of a very long one; ``raw`` has all."""
        return self.detail.text_truncated or self.detail.html_truncated

    @property
    def date(self) -> datetime | None:
        """The Date header."""
        return self.detail.date

    @property
    def reply_to(self) -> tuple[Person, ...]:
        """The Reply-To header."""
        return self.detail.reply_to

    @property
    def envelope(self) -> Envelope:
        """The envelope with its parameters."""
        return self.detail.envelope

    @property
    def parts(self) -> tuple[Part, ...]:
        """The MIME tree, flat, in its order."""
        return self.detail.parts

    @property
    def links(self) -> tuple[Link, ...]:
        """The links of text and HTML, in their order."""
        return self.detail.links

    @property
    def codes(self) -> tuple[str, ...]:
        """What looks like a one-time code, the likeliest first."""
        return self.detail.codes

    @property
    def attachments(self) -> Sequence[A]:
        """The attachments, in their order."""
        if self._attachments is None:
            self._attachments = tuple(self._attachment(part) for part in self.detail.parts if part.attachment)
        return self._attachments

    @property
    def headers(self) -> Headers:
        """All header fields: ``mail.headers["Reply-To"]``, ``mail.headers.all("Received")``."""
        if self._headers is None:
            raise NotLoaded(f"the headers of message {self.id} have not been fetched: await message.load() first")
        return self._headers

    @property
    def raw(self) -> bytes:
        """The bytes as they were sent, with the server's Received header on top. Fetched when first asked for; with
        asyncio and Twisted ``read_raw()`` comes first."""
        if self._raw is None:
            raise NotLoaded(f"message {self.id} has not been fetched raw: await message.read_raw() first")
        return self._raw

    def link(self, word: str = "") -> Link:
        """The one link whose URL or text contains ``word``, in whatever case; without a word, the only link.

        A link that stands both in the text and in the HTML is one. Raises NotInMessage when none contains it, or when
        several different ones do: the text lists them.

        >>> mail.link("reset")                                  # doctest: +SKIP
        'https://app.example/reset?token=481516'
        """
        __tracebackhide__ = True
        checks.text("the word of a link", word)
        wanted = word.lower()
        found = {link.url: link for link in self.links if wanted in link.lower() or wanted in link.text.lower()}
        if len(found) == 1:
            return next(iter(found.values()))
        about = f" with {word!r}" if word else ""
        shown = found.values() or self.links
        listed = "".join(
            f"\n  {line(link, 300)}" + (f"  ({quoted(link.text, 60)})" if link.text else "") for link in shown
        )
        if found:
            raise NotInMessage(f"{len(found)} different links{about} in {self}; name one more closely:{listed}")
        rest = f"; the links there are:{listed}" if listed else ", and no other link either"
        raise NotInMessage(f"no link{about} in {self}{rest}")

    def code(self) -> str:
        """The likeliest one-time code, as text, so that leading zeros stay. Raises NotInMessage when there is none."""
        __tracebackhide__ = True
        if self.codes:
            return self.codes[0]
        start = self.text or self.html
        cut = line(start[: START * 4], START)
        passed = list(dict.fromkeys(NUMBER.findall(self.text)))
        said = f"no code in {self}; "
        if passed:
            more = f" and {len(passed) - NUMBERS} more" if len(passed) > NUMBERS else ""
            said += f"numbers that nothing calls a code: {', '.join(passed[:NUMBERS])}{more}; "
        raise NotInMessage(said + (f"its text begins:\n  {cut}" if cut else "it has no text"))

    @abstractmethod
    def _attachment(self, part: Part) -> A: ...

    def __str__(self) -> str:
        return str(self.summary)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.summary}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MessageBase) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)
