"""What the API counts: ``mailfarm_api_*``."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.web.server import Request


class Counts:
    """The metrics of one service. ``route`` is the path as it is declared, so that there are few of them."""

    def __init__(self, registry: CollectorRegistry, timer: Callable[[], float] = perf_counter) -> None:
        self._timer = timer
        self.requests = Counter(
            "mailfarm_api_requests", "HTTP requests answered", ("route", "method", "status"), registry=registry
        )
        self.seconds = Histogram(
            "mailfarm_api_request_seconds", "Time from request to answer, waits included", ("route",), registry=registry
        )
        self.waits = Gauge("mailfarm_api_open_waits", "Waits open now", registry=registry)
        self.streams = Gauge("mailfarm_api_open_streams", "Event streams (SSE) open now", registry=registry)

    def watch(self, request: Request, route: str) -> None:
        """Count this request once it is answered or its client has gone (status 499)."""
        began = self._timer()
        method = request.method.decode("ascii", "replace")

        def done(result: object) -> None:
            status = str(request.code) if result is None else "499"
            self.requests.labels(route, method, status).inc()
            self.seconds.labels(route).observe(self._timer() - began)

        request.notifyFinish().addBoth(done)
