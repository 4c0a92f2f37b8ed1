"""The client's half of an SMTP session under load, without I/O: what to send, and whether each reply is the right one.

The generator must never count what was not accepted, so every reply is held against the command it answers: its code
(RFC 5321 §4.3.2), that all lines of a reply say the same code, and, where the server gives enhanced status codes
(RFC 2034), that the subject and detail belong to this command: a 250 2.1.5 that answers MAIL, or a 354 that comes
before the answer to RCPT, is a reply out of order and an error, though the codes alone might agree. So is a reply that
nobody waits for. After an error the session is over.
"""

from __future__ import annotations

import base64
import itertools
import socket
import struct
from collections import deque
from dataclasses import dataclass
from typing import Final

EXPECTED: Final[dict[str, bytes]] = {
    "greeting": b"220",
    "ehlo": b"250",
    "starttls": b"220",
    "auth": b"235",
    "auth-user": b"334",
    "auth-password": b"334",
    "mail": b"250",
    "rcpt": b"250",
    "data": b"354",
    "end": b"250",
    "quit": b"221",
}
SUBJECTS: Final[dict[str, tuple[bytes, ...]]] = {
    "starttls": (b"2.0.",),
    "auth": (b"2.7.0",),
    "mail": (b"2.1.0",),
    "rcpt": (b"2.1.5",),
    "end": (b"2.0.", b"2.6."),
    "quit": (b"2.0.",),
}
_TURN = itertools.count()
"""Whose turn it is, for all sessions of this process."""


@dataclass(frozen=True, slots=True)
class Options:
    """How each session behaves. ``kept`` sends one message after another on a connection, otherwise each gets its own.

    ``security`` is "plain", "starttls" or "tls"; ``auth`` is "", "plain" or "login"; ``source`` is the client address a
    PROXY v2 header claims, empty for no header. ``recipients`` are those of every message; with ``one_each`` a message
    goes to one of them alone, the next message of all sessions to the next.
    """

    recipients: tuple[str, ...] = ("inbox@mailfarm.test",)
    sender: str = "load@shop.example"
    kept: bool = True
    pipelining: bool = False
    security: str = "plain"
    auth: str = ""
    user: str = ""
    secret: str = ""
    source: str = ""
    one_each: bool = False


def proxy_header(source: str, port: int, destination: tuple[str, int]) -> bytes:
    """A PROXY protocol version 2 header for a TCP connection over IPv4 (its §2.2)."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination[0]) + struct.pack("!HH", port, destination[1])
    return b"\r\n\r\n\x00\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


class Dialog:
    """One session. Feed it ``received``, send what ``output`` gives, and begin a transaction when it is ``ready``.

    ``fault`` says what was wrong, once something was. ``secure`` asks for TLS now; call ``secured`` when it stands.
    ``accepted`` turns True when the running transaction's content was answered 250, until ``begin``.
    """

    __slots__ = (
        "_awaited",
        "_buffer",
        "_commands",
        "_content",
        "_known",
        "_options",
        "_out",
        "_transaction",
        "accepted",
        "content_sent",
        "fault",
        "finished",
        "offered",
        "ready",
        "secure",
    )

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = b""
        self._out: list[bytes] = []
        self._awaited: deque[str] = deque(["greeting"])
        self._commands: deque[tuple[str, bytes]] = deque()
        self._known: dict[str, bytes] = {}
        self._content = b""
        lines = [("mail", b"MAIL FROM:<%b>\r\n" % options.sender.encode())]
        lines += [("rcpt", b"RCPT TO:<%b>\r\n" % to.encode()) for to in options.recipients]
        self._transaction = [*lines, ("data", b"DATA\r\n")]
        self.accepted = self.content_sent = self.ready = self.finished = self.secure = False
        self.offered: frozenset[str] = frozenset()
        self.fault = ""

    def begin(self, wire: bytes) -> None:
        """Start a transaction with content as it crosses the wire (see ``corpus.dot_stuffed``)."""
        self.ready = self.accepted = self.content_sent = False
        self._content = wire
        transaction = self._transaction
        if self._options.one_each:
            to = next(_TURN) % len(self._options.recipients)
            transaction = [transaction[0], transaction[1 + to], transaction[-1]]
        if self._options.pipelining:
            self._awaited.extend([kind for kind, _ in transaction])
            self._out.append(b"".join([line for _, line in transaction]))
        else:
            self._commands.extend(transaction)
            self._next()

    def quit(self) -> None:
        """Say goodbye; ``finished`` turns True with the answer."""
        self.ready = False
        self._send("quit", b"QUIT\r\n")

    def output(self) -> bytes:
        """Take what must be sent now."""
        out = self._out
        if not out:
            return b""
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        return data

    def secured(self) -> None:
        """TLS stands, after ``secure`` was asked for: the session starts over with EHLO (RFC 3207 §4.2)."""
        self.secure = False
        self.offered = frozenset()
        self._send("ehlo", b"EHLO load.shop.example\r\n")

    def received(self, data: bytes) -> None:
        """Take in what the server sent."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        start = 0
        while not self.fault:
            end = data.find(b"\n", start) + 1
            if not end:
                self._buffer = data[start:]
                if len(self._buffer) > 4096:
                    self.fault = "a reply line of more than 4,096 octets"
                return
            line = data[start:end]
            start = end
            if line[3:4] == b"-":
                self._part_of_reply(line)
            else:
                self._reply(line)

    def lost(self) -> None:
        """The connection is gone."""
        if not self.fault and not self.finished:
            waiting = self._awaited[0] if self._awaited else "nothing"
            self.fault = f"connection lost while waiting for the answer to {waiting}"

    def timed_out(self) -> None:
        """Nothing came for too long."""
        self.fault = f"no answer to {self._awaited[0] if self._awaited else 'nothing'} in time"

    # --- replies ----------------------------------------------------------------------------------------------------
    def _reply(self, line: bytes) -> None:
        if not self._awaited:
            self.fault = f"a reply nobody waits for: {line!r}"
            return
        kind = self._awaited.popleft()
        if self._known.get(kind) != line:  # most replies repeat the last one of their kind, octet for octet
            self._check(kind, line)
            if self.fault:
                return
        if kind == "rcpt" or kind == "mail":
            if self._commands:
                self._next()
        elif kind == "data":
            self._awaited.append("end")
            self._out.append(self._content)
            self.content_sent = True
        elif kind == "end":
            if self._out:
                self.fault = "the content was answered before it was sent"
                return
            self.accepted = True
            if self._options.kept:
                self.ready = True
            else:
                self.quit()
        else:
            if kind == "ehlo":
                self._offer(line)
            self._session(kind)

    def _check(self, kind: str, line: bytes) -> None:
        if line[:3] != EXPECTED[kind] or line[3:4] not in (b" ", b"\r", b"\n"):
            self.fault = f"wrong code in answer to {kind}: {line[:80]!r}"
        elif not line.endswith(b"\r\n"):
            self.fault = f"a reply line without CR LF in answer to {kind}: {line[:80]!r}"
        elif line[4:6] == b"2." and kind in SUBJECTS and not line[4:].startswith(SUBJECTS[kind]):
            self.fault = f"out of order, in answer to {kind}: {line[:80]!r}"
        else:
            self._known[kind] = line

    def _part_of_reply(self, line: bytes) -> None:
        if not self._awaited:
            self.fault = f"a reply nobody waits for: {line!r}"
            return
        kind = self._awaited[0]
        if line[:3] != EXPECTED[kind]:
            self.fault = f"wrong code in answer to {kind}: {line[:80]!r}"
        elif kind == "ehlo":
            self._offer(line)

    def _offer(self, line: bytes) -> None:
        self.offered |= {*line[4:].decode("ascii", "replace").upper().split()[:1]}

    # --- the start of a session -------------------------------------------------------------------------------------
    def _session(self, kind: str) -> None:
        options = self._options
        if kind == "greeting":
            self.secured()
        elif kind == "ehlo" and options.security == "starttls" and not self._known.get("starttls"):
            self._send("starttls", b"STARTTLS\r\n")
        elif kind == "ehlo":
            if options.pipelining and "PIPELINING" not in self.offered:
                self.fault = "PIPELINING is not offered"
            elif options.auth == "plain":
                token = base64.b64encode(f"\0{options.user}\0{options.secret}".encode())
                self._send("auth", b"AUTH PLAIN " + token + b"\r\n")
            elif options.auth == "login":
                self._send("auth-user", b"AUTH LOGIN\r\n")
            else:
                self.ready = True
        elif kind == "starttls":
            self.secure = True
        elif kind == "auth-user":
            self._send("auth-password", base64.b64encode(options.user.encode()) + b"\r\n")
        elif kind == "auth-password":
            self._send("auth", base64.b64encode(options.secret.encode()) + b"\r\n")
        elif kind == "auth":
            self.ready = True
        elif kind == "quit":
            self.finished = True

    def _next(self) -> None:
        self._send(*self._commands.popleft())

    def _send(self, kind: str, line: bytes) -> None:
        self._awaited.append(kind)
        self._out.append(line)
