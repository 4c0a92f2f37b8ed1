"""What the SMTP server core asks of its host: one frozen value a question.

``Hello``, ``Auth``, ``StartTls``, ``Mail``, ``Rcpt``, ``Data`` and ``End`` wait for an answer, a ``Reply``.
``Chunk``, ``Discarded`` and ``Refused`` only tell.
"""

from __future__ import annotations

from dataclasses import field
from typing import Final, Literal

from mailfarm.mail.envelope import Body, Envelope, Recipient
from mailfarm.mail.reply import Reply
from mailfarm.values import value


@value
class Hello:
    """EHLO or HELO (RFC 5321 §4.1.1.1). A positive answer means yes: the core writes the capabilities itself."""

    verb: Literal["EHLO", "HELO"]
    domain: str


@value
class Auth:
    """A complete AUTH exchange (RFC 4954). Answer 235 to let the user in, 535 or 454 not to."""

    mechanism: str
    user: str
    secret: str = field(repr=False)


@value
class StartTls:
    """STARTTLS (RFC 3207). Answer 220, write ``output()``, begin TLS, call ``tls_started()``; or answer 454."""


@value
class Mail:
    """MAIL FROM (RFC 5321 §4.1.1.2). ``sender`` is empty for ``<>``; the other fields are those of ``Envelope``."""

    sender: str
    size: int | None = None
    body: Body = "7BIT"
    smtputf8: bool = False
    ret: str | None = None
    envid: str | None = None


@value
class Rcpt:
    """RCPT TO (RFC 5321 §4.1.1.3).

    ``recipient.address`` is without the source route, which RFC 5321 §3.3 wants ignored; ``route`` is that route as it
    was said (``@a,@b``), or empty. ``postmaster`` may come without a domain (§4.5.1).
    """

    recipient: Recipient
    route: str = ""


@value
class Data:
    """Before any content, once a transaction: DATA, or the first BDAT. A positive answer (354 or 250) lets it in.

    After a negative one the transaction is over; no ``Discarded`` follows.
    """

    envelope: Envelope


@value
class Chunk:
    """Octets of the content, in order, dots removed; never empty. When the whole content is at hand it is one."""

    data: bytes


@value
class End:
    """The content is complete and keeps every rule; ``size`` is its octets. The answer is 250, 4yz or 5yz.

    Whatever it is, the transaction is over; no ``Discarded`` follows.
    """

    envelope: Envelope
    size: int


@value
class Discarded:
    """A transaction that the host had let in ended without its content: free what was kept for it.

    ``reply`` is what the core itself answered (552 5.3.4 too big, 550 5.6.0 bare CR, LF or NUL, 500 5.5.2 line too
    long), or None for RSET, EHLO, QUIT, a time-out and the like.
    """

    reply: Reply | None
    envelope: Envelope


@value
class Refused:
    """The core itself refused a MAIL or RCPT, with ``reply``: malformed, too big by its SIZE, a recipient too many.

    ``sender`` and ``recipient`` are as they were said, cut short; they may be no addresses. ``recipient`` is empty for
    MAIL. A refused RCPT leaves the transaction as it was; a refused MAIL began none.
    """

    reply: Reply
    sender: str
    recipient: str = ""


Question = Hello | Auth | StartTls | Mail | Rcpt | Data | End
DECISIONS: Final = frozenset((Hello, Auth, Mail, Rcpt, Data, End))
"""The questions that a session decides; how to begin TLS is its host's own business."""
News = Chunk | Discarded | Refused
Request = Question | News
