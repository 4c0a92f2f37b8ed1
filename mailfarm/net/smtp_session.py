"""What a service decides in an SMTP session, and what it is told of the connection.

A decision is a ``Reply``, or an awaitable of one when it takes a look into a store. One decision is asked for at a
time, so replies stay in order however long one takes. What a decision raises becomes a temporary refusal: unknown means
temporary.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Protocol

from mailfarm.mail.envelope import Envelope
from mailfarm.mail.received import protocol_name
from mailfarm.mail.reply import Reply
from mailfarm.ports import Origin
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Question, Rcpt, Refused

from .content import SpillContent

Answer = Reply | Awaitable[Reply]


class Connection(Protocol):
    """The facts of a connection."""

    client: str
    """The real client's IP address, behind whatever proxies."""
    port: int
    """The real client's port."""

    @property
    def tls(self) -> str:
        """Empty, or "TLSv1.3 TLS_AES_256_GCM_SHA384"."""

    @property
    def helo(self) -> str:
        """The domain of the last EHLO or HELO, or empty."""

    @property
    def extended(self) -> bool:
        """Whether that was EHLO."""

    @property
    def transcript(self) -> tuple[str, ...]:
        """The last lines of this transaction, "C: " and "S: " in front, secrets left out."""

    @property
    def quiet(self) -> bool:
        """Whether not one octet has come behind the content that was complete last, and that was not refused."""

    def ahead(self) -> Sequence[str]:
        """The recipients of the RCPT commands that have come and wait for their turn (RFC 2920), in order."""

    def awaits(self, question: Question) -> bool:
        """Whether ``question`` still waits for its answer. When it does not a decision comes too late, and must leave
        no trace: the client was told otherwise, or has gone."""


class Session(Protocol):
    """One SMTP connection's conversation, as the service sees it."""

    def connected(self) -> Answer:
        """220 to go on; 421 or 554 with ``close`` not to."""

    def hello(self, request: Hello) -> Answer:
        """250 to go on."""

    def authenticate(self, request: Auth) -> Answer:
        """235 lets the user in; 535 and 454 do not."""

    def mail(self, request: Mail) -> Answer:
        """250 begins a transaction, and forgets the one before."""

    def rcpt(self, request: Rcpt) -> Answer:
        """250 takes the recipient."""

    def data(self, envelope: Envelope) -> Answer:
        """354 lets the content in."""

    def content(self, envelope: Envelope, content: SpillContent) -> Answer:
        """The content is complete; 250 takes responsibility for it (RFC 5321 §6.1). Close ``content`` when it is not
        needed any more; it is closed anyway once this has answered."""

    def discarded(self, request: Discarded) -> None:
        """The transaction ended without its content."""

    def refused(self, request: Refused) -> None:
        """MAIL or RCPT was refused before there was anything to decide."""

    def lost(self) -> None:
        """The connection is gone. A decision under way still ends, its answer goes nowhere."""


def origin_of(connection: Connection, service: str, *, credential: str = "", smtputf8: bool = False) -> Origin:
    """Where this transaction comes from. ``credential`` is the id of the one that AUTH proved, or empty."""
    tls = connection.tls
    protocol = protocol_name(
        esmtp=connection.extended, tls=bool(tls), authenticated=bool(credential), smtputf8=smtputf8
    )
    return Origin(service, connection.client, connection.port, connection.helo, protocol, tls, credential)
