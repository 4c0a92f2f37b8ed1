"""SMTP replies (RFC 5321 §4.2) with enhanced status codes (RFC 2034, RFC 3463)."""

from __future__ import annotations

from dataclasses import field

from mailfarm.values import value


@value
class Reply:
    """One SMTP reply.

    ``enhanced`` is empty where the RFCs give none: 220, 354, the answers to EHLO and HELO (RFC 2034 §4), 334.
    ``close`` asks the server to end the session once the reply is written.
    ``wire`` is empty until it was encoded once.
    """

    code: int
    enhanced: str
    text: str
    close: bool = False
    wire: bytes = field(default=b"", init=False, repr=False, compare=False)

    @property
    def positive(self) -> bool:
        """True for 2yz and 3yz (RFC 5321 §4.2.1)."""
        return self.code < 400

    @property
    def temporary(self) -> bool:
        """True for 4yz: the client should try again."""
        return 400 <= self.code < 500

    def encode(self) -> bytes:
        """The reply on the wire. Lines of ``text`` are parted by ``\\n``; other control characters become ``?``.

        Worked out once: a reply that is kept and said often costs nothing more.
        """
        wire = self.wire
        if not wire:
            wire = _encode(self.code, self.enhanced, self.text)
            object.__setattr__(self, "wire", wire)
        return wire

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced} {self.text}" if self.enhanced else f"{self.code} {self.text}"


def _encode(code: int, enhanced: str, text: str) -> bytes:
    prefix = f"{enhanced} " if enhanced else ""
    if text.isprintable():  # so it has no line end either
        return f"{code} {prefix}{text}\r\n".encode("utf-8", "replace")
    lines = text.split("\n")
    last = len(lines) - 1
    return "".join(
        f"{code}{' ' if number == last else '-'}{prefix}{_printable(line)}\r\n" for number, line in enumerate(lines)
    ).encode("utf-8", "replace")


def _printable(line: str) -> str:
    # wire safety: no CR, LF or NUL gets from an address or parameter into a reply
    return line if line.isprintable() else "".join(c if c.isprintable() else "?" for c in line)
