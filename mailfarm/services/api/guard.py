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

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, TimeoutError
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from mailfarm.net.hosts import Hosts
from mailfarm.net.http_channel import PHRASES
from mailfarm.net.http_site import HttpSite
from mailfarm.net.problems import Problem

from .answering import write_problem
from .routes import MAX_BODY

WITHIN = 60.0
"""Seconds in which a request must be whole, and for which a kept connection may idle."""


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
        super().setResponseCode(code, message or PHRASES.get(code))

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


class GuardedSite(HttpSite):
    """A Site that knows its requests, so that it can let them finish. Metrics count them, and the log has the ones that
    failed."""

    def __init__(self, resource: Any, reactor: Any, most: int, registry: CollectorRegistry | None) -> None:
        super().__init__(
            resource, GuardedRequest, service="api", most=most, reactor=reactor, timeout=WITHIN, registry=registry
        )
        self._reactor = reactor
        self._draining = False
        self._idle: Deferred[None] | None = None
        self.requests = 0

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


def guarded_site(
    inner: Any,
    hosts: Hosts,
    stopping: Callable[[], bool],
    reactor: Any,
    *,
    most: int = 20_000,
    registry: CollectorRegistry | None = None,
) -> GuardedSite:
    """A Site behind the guard, of ``most`` connections."""
    return GuardedSite(Guard(inner, hosts, stopping), reactor, most, registry)
