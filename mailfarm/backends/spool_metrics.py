"""What the local spool tells Prometheus: ``mailfarm_spool_…``.

Each process counts what is its own to drain; take the sum over processes.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge


class SpoolMetrics:
    """The functions give the figures of now: entries, octets, the age of the oldest in seconds, and how many of the
    entries others go past."""

    def __init__(
        self,
        registry: CollectorRegistry,
        entries: Callable[[], float],
        octets: Callable[[], float],
        oldest: Callable[[], float],
        passed: Callable[[], float],
    ) -> None:
        for name, text, figure in (
            ("mailfarm_spool_entries", "Mails that wait in the local spool", entries),
            ("mailfarm_spool_octets", "Octets they take of the disk", octets),
            ("mailfarm_spool_oldest_seconds", "Age of the oldest of them; 0 when there is none", oldest),
            ("mailfarm_spool_passed_over", "Those of them that are passed over: tried again later", passed),
        ):
            Gauge(name, text, registry=registry).set_function(figure)
        self.stored = Counter("mailfarm_spool_stored", "Mails kept in the local spool", registry=registry)
        self.drained = Counter("mailfarm_spool_drained", "Mails that went on into the queue", registry=registry)
        self.adopted = Counter(
            "mailfarm_spool_adopted", "Mails taken over from a process that has ended", registry=registry
        )
        self.damaged = Gauge(
            "mailfarm_spool_damaged", "Files on this machine that cannot be read and were put aside", registry=registry
        )
