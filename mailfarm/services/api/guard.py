"""The door every request passes, whatever it asks for: API, static files, WebSocket, metrics.

A web page that the developer visits can make requests to 127.0.0.1. So: the Host must be ours (DNS rebinding), an
Origin must be our own, and a browser that says that another site asks (Fetch Metadata) is believed, unless it only
follows a link to a page. There are no CORS headers at all. Bodies have a cap before they are read.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from typing import Any
from weakref import WeakSet

import orjson
from twisted.internet.defer import Deferred, TimeoutError
from twisted.web.http import RESPONSES, HTTPChannel
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from mailfarm.net.hosts import Hosts
from mailfarm.net.problems import MEDIA_TYPE, Problem

from .answering import write_problem
from .routes import MAX_BODY

_PHRASES = {**RESPONSES, 421: b"Misdirected Request", 426: b"Upgrade Required", 429: b"Too Many Requests"}
"""Reason phrases (RFC 9110 §15), with those that twisted.web does not know."""
MAX_HEAD = 64 * 1024
"""Octets of a request's line and headers: four criteria of 1,000 characters, percent-encoded, fit in."""


class Overflow(BytesIO):
    """A request body that keeps at most ``MAX_BODY`` octets and knows that there were more."""

    too_large = False

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > MAX_BODY:
            self.too_large = True
            return len(data)
        return super().write(data)


class GuardedRequest(Request):
    """A request whose body has a cap, and which ends the connection of who sends far more."""

    defaultContentType = None
    _read = 0
    give_way: Callable[[], None] = staticmethod(lambda: None)
    """Lets the next request begin, where they stand in ``line``."""

    def setResponseCode(self, code: int, message: bytes | None = None) -> None:
        super().setResponseCode(code, message or _PHRASES.get(code))

    def gotLength(self, length: int | None) -> None:
        self.content = Overflow()  # type: ignore[assignment]  # to Twisted a file

    def _handleStar(self) -> None:
        # twisted.web would answer `OPTIONS *` by itself, whoever asks
        self.render(self.site.resource)  # type: ignore[union-attr]  # it has one

    def handleContentChunk(self, data: bytes) -> None:
        self._read += len(data)
        # read on a little, so that the client gets to see our 413; but not for ever
        if self._read > 16 * MAX_BODY:
            self.channel.forceAbortClient()
            return
        super().handleContentChunk(data)


class GuardedChannel(HTTPChannel):
    """A connection that says why it ends, where twisted.web's would just end, and that sends the head of an answer
    together with what follows: its transport sends at once (``net.fast_tcp``)."""

    transport: Any
    MAX_LENGTH = MAX_HEAD
    totalHeadersSize = MAX_HEAD
    _head = b""

    def connectionMade(self) -> None:
        """Let the site know of us, though nothing may ever be asked here: browsers connect ahead."""
        self.site.connections.add(self)  # type: ignore[attr-defined]  # it is a GuardedSite
        super().connectionMade()

    def writeHeaders(self, version: bytes, code: bytes, reason: bytes, headers: Any) -> None:
        """Keep the head until there is something behind it, or the answer is whole."""
        lines = [b"%b %b %b\r\n" % (version, code, reason)]
        lines += [b"%b: %b\r\n" % (name, value) for name, values in headers.getAllRawHeaders() for value in values]
        self._head += b"".join(lines) + b"\r\n"

    def write(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self.transport.write(head + data if head else data)

    def writeSequence(self, iovec: Any) -> None:
        self.write(b"".join(iovec))

    def requestDone(self, request: Any) -> None:
        if self._head:
            self.write(b"")
        super().requestDone(request)

    def loseConnection(self) -> Any:
        if self._head:
            self.write(b"")
        return super().loseConnection()

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
            self._end(Problem("uri-too-long", f"the head of a request may have {MAX_HEAD} octets", limit=MAX_HEAD))
        else:
            self._respondToBadRequestAndDisconnect()

    def _respondToBadRequestAndDisconnect(self) -> None:
        self._end(Problem("bad-request", "the head of the request is malformed or too large"))

    def _end(self, problem: Problem) -> None:
        body = orjson.dumps(problem.document())
        self.transport.write(
            b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\nX-Content-Type-Options: nosniff\r\n"
            b"Cache-Control: no-store\r\nConnection: close\r\n\r\n%b"
            % (problem.status, _PHRASES[problem.status], MEDIA_TYPE.encode(), len(body), body)
        )
        self.loseConnection()


@implementer(IResource)
class Guard(Resource):
    """Lets through to ``inner`` what may come in. ``stopping`` is asked for each request."""

    isLeaf = True

    def __init__(self, inner: Any, hosts: Hosts, stopping: Callable[[], bool]) -> None:
        super().__init__()
        self._inner = inner
        self._hosts = hosts
        self._stopping = stopping

    def render(self, request: Request) -> Any:
        """Check, then let ``inner`` answer."""
        request.site.begin(request)  # type: ignore[union-attr]  # it is a GuardedSite
        for name, value in _EVERYWHERE:
            request.setHeader(name, value)
        try:
            self._check(request)
        except Problem as problem:
            write_problem(request, problem)
            request.finish()
            return NOT_DONE_YET
        return self._inner.render(request)

    def _check(self, request: Request) -> None:
        hosts = request.requestHeaders.getRawHeaders("host") or [""]
        # proxies ask /healthz by address, and nobody learns anything from "ok"
        if request.path != b"/healthz" and (len(hosts) != 1 or not self._hosts.ours(hosts[0])):
            raise Problem("wrong-host", "the Host header names none of ours; see MAILFARM_API_HOSTS")
        origins = request.requestHeaders.getRawHeaders("origin") or []
        if len(origins) > 1 or (origins and not self._hosts.same_origin(origins[0], hosts[0])):
            raise Problem("foreign-origin", "the Origin header names another web site than ours")
        if request.getHeader("sec-fetch-site") in ("cross-site", "same-site") and not _harmless(request):
            raise Problem("foreign-origin", "the browser says that another web site asks for this")
        if request.method != request.method.upper():
            # case matters (RFC 9110 §9.1), and the routing would pass it over
            raise Problem("bad-request", "methods are written in capitals")
        if not request.uri.startswith(b"/"):
            raise Problem("bad-request", "the request target must be a path")
        try:
            b"/".join(request.postpath or ()).decode("utf-8")
        except UnicodeDecodeError:
            raise Problem("bad-request", "the path is not percent-encoded UTF-8") from None
        if getattr(request.content, "too_large", False):
            raise Problem("body-too-large", f"the body has more than {MAX_BODY} octets", limit=MAX_BODY)
        if self._stopping() and request.path not in (b"/healthz", b"/readyz", b"/metrics"):
            raise Problem("stopping", "the service is stopping", headers={"Retry-After": "1", "Connection": "close"})


_EVERYWHERE = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Server", "mailfarm"),
)


def _harmless(request: Request) -> bool:
    """What another site may make a browser do: go to a page of ours, whole, as a link does."""
    return (
        request.method in (b"GET", b"HEAD")
        and request.getHeader("sec-fetch-mode") == "navigate"
        and request.getHeader("sec-fetch-dest") == "document"
    )


class GuardedSite(Site):
    """A Site that knows its connections and requests, so that it can end them. It writes no access log."""

    protocol = GuardedChannel  # type: ignore[assignment]  # Twisted wraps its own
    displayTracebacks = False
    noisy = False

    def __init__(self, resource: Any, reactor: Any) -> None:
        # a kept connection may idle for a minute; no forms are parsed
        super().__init__(
            resource, requestFactory=GuardedRequest, timeout=60, reactor=reactor, parsePOSTFormSubmission=False
        )
        self._reactor = reactor
        self.connections: WeakSet[Any] = WeakSet()
        self._draining = False
        self._idle: Deferred[None] | None = None
        self.requests = 0

    def log(self, request: Request) -> None:  # type: ignore[override]  # what is asked is a Request
        """Nothing: metrics count requests, and the log has the ones that failed."""

    def begin(self, request: Request) -> None:
        """Count a request until it is answered or its client has gone. A WebSocket is `live`'s to count: for
        twisted.web its request never ends."""
        if request.path == b"/v1/events" and request.getHeader("upgrade") is not None:
            return
        self.requests += 1
        request.notifyFinish().addBoth(self._end, request.channel)

    def _end(self, _: object, channel: Any) -> None:
        self.requests -= 1
        if self._draining:
            _close_idle(channel)
        if not self.requests and self._idle is not None:
            idle, self._idle = self._idle, None
            idle.callback(None)

    async def drain(self, grace: float) -> None:
        """Close the connections on which nothing runs, wait up to ``grace`` seconds for the requests in progress, then
        close the rest. A WebSocket is not ours any more."""
        self._draining = True
        for channel in tuple(self.connections):
            _close_idle(channel)
        if self.requests:
            self._idle = Deferred()
            with suppress(TimeoutError):
                await self._idle.addTimeout(grace, self._reactor)
        for channel in tuple(self.connections):
            if channel.transport is not None:
                channel.loseConnection()


def _close_idle(channel: Any) -> None:
    if channel.transport is not None and not channel.requests:
        channel.loseConnection()


def guarded_site(inner: Any, hosts: Hosts, stopping: Callable[[], bool], reactor: Any) -> GuardedSite:
    """A Site behind the guard."""
    return GuardedSite(Guard(inner, hosts, stopping), reactor)
