"""A Site of HTTP for what takes no body: pages about the process, the WebSocket's own port.

A body is read and thrown away; past ``MOST`` octets of it the connection ends: twisted.web by itself would write all of
it to a file. Where ``hosts`` are given the Host header must name one of them (``/healthz`` may be asked for by any
name), so that no web page reads what is meant for this machine (DNS rebinding).
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry
from twisted.web.server import Request

from .hosts import Hosts
from .http_site import HttpSite
from .problems import MEDIA_TYPE, Problem

MOST: Final = 1 << 20
"""Octets of a body after which who sends it is cut off."""


class PlainRequest(Request):
    """A request without a body."""

    defaultContentType = None
    _octets = 0

    def gotLength(self, length: int | None) -> None:
        """Nothing is kept, however long it is said to be."""
        self.content = BytesIO()  # type: ignore[assignment]  # to Twisted a file

    def handleContentChunk(self, data: bytes) -> None:
        self._octets += len(data)
        if self._octets > MOST:
            self.channel.forceAbortClient()

    def _handleStar(self) -> None:
        # twisted.web would answer `OPTIONS *` by itself, whoever asks
        self.render(None)

    def render(self, resrc: Any) -> None:
        """Answer, if it is one of our names that is asked for."""
        self.setHeader(b"server", b"mailfarm")
        named = self.requestHeaders.getRawHeaders("host") or [""]
        hosts: Hosts | None = self.site.hosts  # type: ignore[union-attr]  # it is ours
        if resrc is None:
            self._refuse(Problem("bad-request", "the request target must be a path"))
        elif hosts is not None and self.path != b"/healthz" and (len(named) != 1 or not hosts.ours(named[0])):
            self._refuse(Problem("wrong-host", "the Host header names none of ours"))
        else:
            super().render(resrc)

    def _refuse(self, problem: Problem) -> None:
        body = orjson.dumps(problem.document())
        self.setResponseCode(problem.status, b"Misdirected Request" if problem.status == 421 else None)
        self.setHeader(b"content-type", MEDIA_TYPE.encode())
        self.setHeader(b"content-length", b"%d" % len(body))
        self.setHeader(b"x-content-type-options", b"nosniff")
        self.write(body)
        self.finish()


class PlainSite(HttpSite):
    """A Site of such requests. Who says nothing for ``timeout`` seconds, or does not end its request, is closed;
    ``most``, ``besides`` and ``registry`` are those of an `HttpSite`."""

    def __init__(
        self,
        resource: Any,
        hosts: Hosts | None,
        *,
        service: str,
        most: int,
        reactor: Any = None,
        timeout: float = 30,
        registry: CollectorRegistry | None = None,
        besides: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(
            resource,
            PlainRequest,
            service=service,
            most=most,
            reactor=reactor,
            timeout=timeout,
            registry=registry,
            besides=besides,
        )
        self.hosts = hosts
