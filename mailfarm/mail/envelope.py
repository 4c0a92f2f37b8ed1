"""The envelope: sender and recipients as SMTP said them (RFC 5321 §2.3.1), never the headers."""

from __future__ import annotations

from typing import Literal

from mailfarm.values import value

Body = Literal["7BIT", "8BITMIME", "BINARYMIME"]


@value
class Recipient:
    """One RCPT TO. ``notify`` and ``orcpt`` are RFC 3461 §4.1 and §4.2, ``orcpt`` still in xtext."""

    address: str
    notify: tuple[str, ...] = ()
    orcpt: str | None = None


@value
class Envelope:
    """One transaction's envelope.

    ``sender`` is empty for the null reverse-path (RFC 5321 §4.5.5).
    ``size`` is what MAIL declared (RFC 1870), in octets, ``None`` if it did not.
    ``ret`` (FULL or HDRS) and ``envid`` (in xtext) are RFC 3461 §4.3 and §4.4.
    """

    sender: str
    recipients: tuple[Recipient, ...] = ()
    body: Body = "7BIT"
    smtputf8: bool = False
    size: int | None = None
    ret: str | None = None
    envid: str | None = None
