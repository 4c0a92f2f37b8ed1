"""What one listener's SMTP server may do, and what it says of it in its answer to EHLO."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

MECHANISMS: Final = ("PLAIN", "LOGIN")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds (RFC 5321 §4.5.3.2), per phase and in total.

    ``command``: for one whole command line, or one line of an AUTH exchange, however many octets of it have come.
    ``data_block``: for each block of content; a block is ``BLOCK`` octets, so that a dribble does not count as one.
    ``transaction``: from MAIL to the final dot, without the time the host takes to decide.
    ``session``: for everything; a transaction that is under way when it runs out may still finish.
    """

    command: float = 300.0
    data_block: float = 180.0
    transaction: float = 1800.0
    session: float = 14400.0


BLOCK: Final = 1000
"""Octets of content that earn a new ``data_block``: one text line of RFC 5321 §4.5.3.1.6."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Settings of the server core. Sizes are octets; lines are counted with their CR LF.

    ``max_transactions`` is MAILMAX (RFC 9422), 0 for no limit. ``auth`` are the mechanisms to offer, () for no AUTH;
    before TLS they are offered only with ``auth_without_tls``. ``normalize`` makes CR LF of a lone LF in content (for
    capture only). Raises ValueError for what makes no sense.
    """

    hostname: str
    max_size: int = 50 * 1024 * 1024
    max_recipients: int = 1000
    max_transactions: int = 0
    starttls: bool = False
    auth: tuple[str, ...] = ()
    auth_without_tls: bool = False
    max_command_line: int = 2048
    max_auth_line: int = 12288
    max_text_line: int = 1024 * 1024
    normalize: bool = False
    max_errors: int = 20
    chunking: bool = True
    smtputf8: bool = True
    dsn: bool = True
    deadlines: Deadlines = Deadlines()

    def __post_init__(self) -> None:
        if not self.hostname or not self.hostname.isprintable() or " " in self.hostname:
            raise ValueError("the host name is one printable word")
        if self.max_recipients < 100:
            raise ValueError("at least 100 recipients a transaction (RFC 5321 §4.5.3.1.8)")
        if self.max_command_line < 512 or self.max_auth_line < self.max_command_line or self.max_text_line < 1000:
            raise ValueError("lines: at least 512 octets for a command, as many for AUTH, 1000 for text")
        if self.max_size < 1 or self.max_transactions < 0 or self.max_errors < 1:
            raise ValueError("sizes and counts are positive")
        for mechanism in self.auth:
            if mechanism not in MECHANISMS:
                raise ValueError(f"no such mechanism: {mechanism!r}; there are {', '.join(MECHANISMS)}")


@lru_cache(maxsize=256)
def capabilities(config: ServerConfig, tls: bool, authenticated: bool) -> bytes:
    """The answer to EHLO (RFC 5321 §4.1.1.1): only what works here and now."""
    limits = f"LIMITS RCPTMAX={config.max_recipients}"  # RFC 9422 §4
    if config.max_transactions:
        limits += f" MAILMAX={config.max_transactions}"
    words = [config.hostname, "PIPELINING", f"SIZE {config.max_size}", "8BITMIME", "ENHANCEDSTATUSCODES"]
    if config.smtputf8:
        words.append("SMTPUTF8")
    if config.chunking:
        words.append("CHUNKING")
    if config.dsn:
        words.append("DSN")
    words.append(limits)
    if config.starttls and not tls and not authenticated:
        words.append("STARTTLS")
    if config.auth and not authenticated and (tls or config.auth_without_tls):
        words.append("AUTH " + " ".join(config.auth))
    last = len(words) - 1
    return "".join(f"250{' ' if n == last else '-'}{word}\r\n" for n, word in enumerate(words)).encode()
