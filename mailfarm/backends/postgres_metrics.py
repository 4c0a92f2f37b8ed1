"""What is counted of PostgreSQL: ``mailfarm_database_…``."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.internet.defer import CancelledError

from mailfarm.errors import DatabaseUnavailable

from .postgres_pool import Pool

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20)


class Metrics:
    """Counters in ``registry``; without one they are counted for nobody."""

    def __init__(self, registry: CollectorRegistry | None, pool: Pool) -> None:
        registry = CollectorRegistry() if registry is None else registry
        self._seconds = Histogram(
            "mailfarm_database_seconds",
            "Time of a unit or a read, with its waiting and its tries",
            ("kind",),
            buckets=_SECONDS,
            registry=registry,
        )
        self._units = Counter(
            "mailfarm_database_units", "Units and reads, by how they ended", ("kind", "outcome"), registry=registry
        )
        self._retries = Counter(
            "mailfarm_database_retries", "Runs of a unit that were not its last", ("why",), registry=registry
        )
        connections = Gauge("mailfarm_database_connections", "Connections open", ("state",), registry=registry)
        connections.labels("idle").set_function(lambda: pool.idle)
        connections.labels("busy").set_function(lambda: pool.busy)
        waiting = Gauge("mailfarm_database_waiting", "Units and reads that wait for a connection", registry=registry)
        waiting.set_function(lambda: pool.waiting)
        away = Gauge("mailfarm_database_away", "1 while PostgreSQL cannot be reached", registry=registry)
        away.set_function(lambda: 1.0 if pool.away else 0.0)
        self._by_kind = {kind: self._seconds.labels(kind) for kind in ("unit", "read")}
        self._done = {kind: self._units.labels(kind, "done") for kind in ("unit", "read")}
        for why in ("conflict", "deadlock", "lost"):
            self._retries.labels(why)

    def retried(self, why: str) -> None:
        """One more run is needed, or would have been."""
        self._retries.labels(why).inc()

    def timed(self, kind: str) -> Timed:
        """Times and counts what is done inside."""
        return Timed(self, kind)


class Timed:
    """One unit's or read's time."""

    __slots__ = ("_kind", "_metrics", "_since")

    def __init__(self, metrics: Metrics, kind: str) -> None:
        self._metrics = metrics
        self._kind = kind
        self._since = monotonic()

    def seconds(self) -> float:
        """Since the beginning."""
        return monotonic() - self._since

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        metrics, mine = self._metrics, self._kind
        metrics._by_kind[mine].observe(self.seconds())
        if kind is None:
            metrics._done[mine].inc()
        elif issubclass(kind, DatabaseUnavailable):
            metrics._units.labels(mine, "unavailable").inc()
        elif issubclass(kind, CancelledError):
            metrics._units.labels(mine, "cancelled").inc()
        else:
            metrics._units.labels(mine, "raised").inc()
