"""A connection of HTTP: one request after the other, each with its deadline, and little kept of it.

A request must be whole within the site's ``timeout`` from its first octet; an octet now and then gives it no more
time. The next one is begun when the answer before it has left: who asks without end and never reads is not read any
more. Some are answered in a row, then other connections have their turn. What is held of the requests and of the
answers of all connections has a cap: see `http_site`.
"""

from __future__ import annotations

from typing import Any, Final

import orjson
from twisted.protocols.basic import LineReceiver
from twisted.web.http import RESPONSES, HTTPChannel

from .fast_tcp import forget_unsent, unsent
from .problems import MEDIA_TYPE, Problem

PHRASES: Final = {**RESPONSES, 421: b"Misdirected Request", 426: b"Upgrade Required", 429: b"Too Many Requests"}
"""Reason phrases (RFC 9110 §15), with those that twisted.web does not know."""
MAX_HEAD: Final = 64 * 1024
"""Octets of a request's line and headers: four criteria of 1,000 characters, percent-encoded, fit in."""
MOST_KEPT: Final = 1 << 20
"""Octets that are kept of a request that is not whole; what is read beyond them is thrown away."""
IN_A_ROW: Final = 20
"""Requests that came together and are answered before others have their turn."""


class Channel(HTTPChannel):
    """A connection that says why it ends, where twisted.web's would just end, and that sends the head of an answer
    together with what follows: its transport sends at once (``net.fast_tcp``)."""

    transport: Any
    site: Any
    MAX_LENGTH = MAX_HEAD
    totalHeadersSize = MAX_HEAD
    _head = b""
    _begun = False
    _received = 0
    _written = 0
    _in_a_row = 0
    _held: Any = None

    def connectionMade(self) -> None:
        """Let the site know of us, though nothing may ever be asked here: browsers connect ahead."""
        self.site.came(self)
        # whatever the system does not take is said at once, and nothing is added to it
        self.transport.most_unsent = 0
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:  # type: ignore[override]  # it has a default there
        """Free everything."""
        self._held = None
        self._dataBuffer = []
        self.clearLineBuffer()
        self.site.went(self)
        forget_unsent(self.transport)
        super().connectionLost(reason)

    # What comes in

    def dataReceived(self, data: bytes) -> None:
        """Time runs from the first octet of a request on."""
        if not self._begun:
            self._begun = True
            self.resetTimeout()
        self._received += len(data)
        LineReceiver.dataReceived(self, data)  # HTTPChannel's gives each octet another minute
        if self.transport is not None:
            waiting = sum(map(len, self._dataBuffer)) if self._handlingRequest else min(self._received, MOST_KEPT)
            self.site.asked.hold(self, waiting)
            if self._handlingRequest and waiting > self._optimisticEagerReadSize:
                self._networkProducer.pauseProducing()  # also while an answer waits to be read, unlike HTTPChannel's

    def lineReceived(self, line: bytes) -> Any:
        """A line of the head. One that goes on with the line before is refused (RFC 9112 §5.2): a proxy might read it
        as a field of its own."""
        if line[:1] in (b" ", b"\t"):
            self._respondToBadRequestAndDisconnect()
            return None
        return super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        """A line of the head is too long."""
        if not self.requests:
            self.end(Problem("uri-too-long", f"the head of a request may have {MAX_HEAD} octets", limit=MAX_HEAD))
        else:
            self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.end(Problem("bad-request", "the head of the request is malformed or too large"))

    def timeoutConnection(self) -> None:
        """Nothing was asked for a while; or not all of it."""
        if self._begun:
            self.site.counts.late += 1
            self.end(Problem("request-timeout", f"the request was not whole within {self.site.timeOut:g} seconds"))
        else:
            self.loseConnection()

    def end(self, problem: Problem) -> None:
        """Say a problem, and close."""
        self.transport.write(problem_answer(problem))
        self.loseConnection()

    # What goes out

    @property
    def taken(self) -> int:
        """Octets of answers that the system has taken from us, since the connection began."""
        return self._written - unsent(self.transport)

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Keep the head until there is something behind it, or the answer is whole."""
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        lines += [b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self._head += b"".join(lines) + b"\r\n"

    def write(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self._written += len(head) + len(data)
        self.transport.write(head + data if head else data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def pauseProducing(self) -> None:
        """The client has not taken all that was written."""
        super().pauseProducing()
        self.site.unread(self)

    def resumeProducing(self) -> None:
        """It has: on with the answer, or with the next one."""
        self.site.read(self)
        super().resumeProducing()
        self._go_on()

    def requestDone(self, request: Any) -> None:
        """The answer is whole. The next one waits until this one has left, or for its turn."""
        if self._head:
            self.write(b"")
        self._in_a_row += 1
        if self.persistent and self._waitingForTransport:
            self._held = request
        elif self.persistent and not self._in_a_row % IN_A_ROW:
            self._held = request
            self.callLater(0, self._go_on)
        else:
            self._done(request)

    def _go_on(self) -> None:
        if self._held is not None and not self._waitingForTransport:
            held, self._held = self._held, None
            self._done(held)

    def _done(self, request: Any) -> None:
        self._begun = False
        self._received = 0
        self.site.asked.hold(self, 0)
        super().requestDone(request)

    def loseConnection(self) -> Any:
        """Close when what was written has left; who does not take it is watched until then."""
        if self._head:
            self.write(b"")
        lost = super().loseConnection()
        if unsent(self.transport):
            self.site.unread(self)
        return lost


def problem_answer(problem: Problem) -> bytes:
    """A whole answer that says a problem and that the connection ends."""
    body = orjson.dumps(problem.document())
    head = [
        f"HTTP/1.1 {problem.status} {PHRASES[problem.status].decode()}",
        f"Content-Type: {MEDIA_TYPE}",
        f"Content-Length: {len(body)}",
        *(f"{name}: {value}" for name, value in problem.headers.items()),
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
