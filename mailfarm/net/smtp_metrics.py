"""What a service that speaks SMTP counts: ``mailfarm_<service>_…``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mailfarm.mail.reply import Reply

_OUTCOMES: Final = {2: "accepted", 4: "deferred", 5: "refused"}


class SMTPMetrics(Collector):
    """One for a service, shared by its listeners. Plain numbers, which the reactor's thread adds to and a scrape reads:
    a count costs a twentieth of what it costs with prometheus_client's own counters, and a recipient has one."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        self._prefix = f"mailfarm_{service}_"
        self.open = 0
        self.begun = 0
        self.full = 0
        self.turned_away = 0
        self.discarded = 0
        self.octets = 0
        self.timeouts = 0
        self.aborted = 0
        self.tls = 0
        self.errors = 0
        # by the first digit of the answer; 3yz is as good as 2yz
        self.recipients = [0] * 6
        self.messages = [0] * 6
        self.logins = [0] * 6
        registry.register(self)

    def message(self, reply: Reply, octets: int) -> None:
        """The content of a transaction was complete, and answered."""
        self.messages[reply.code // 100] += 1
        if reply.positive:
            self.octets += octets

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        sessions = {"begun": self.begun, "full": self.full, "turned_away": self.turned_away}
        yield self._counter("sessions", "SMTP sessions begun, and refused at the door", sessions)
        yield GaugeMetricFamily(self._prefix + "sessions_open", "SMTP sessions open now", self.open)
        yield self._counter("recipients", "Recipients by answer", _by_outcome(self.recipients))
        messages = _by_outcome(self.messages) | {"discarded": self.discarded}
        yield self._counter("messages", "Transactions whose content was complete, by answer", messages)
        yield self._counter("logins", "AUTH exchanges by answer", _by_outcome(self.logins))
        yield self._counter("content_octets", "Octets of content that were accepted", self.octets)
        yield self._counter("timeouts", "Sessions ended because a deadline ran out", self.timeouts)
        yield self._counter("aborted", "Connections cut because the client did not read or did not go", self.aborted)
        yield self._counter("tls_handshakes", "TLS handshakes completed", self.tls)
        yield self._counter("decision_errors", "Decisions that failed and were answered 451 or 452", self.errors)

    def describe(self) -> Iterator[Metric]:
        """The same: the names, so that no two collectors of a registry have one."""
        return self.collect()

    def _counter(self, name: str, text: str, value: int | dict[str, int]) -> Metric:
        if isinstance(value, int):
            return CounterMetricFamily(self._prefix + name, text, value)
        family = CounterMetricFamily(self._prefix + name, text, labels=("outcome",))
        for outcome, count in value.items():
            family.add_metric((outcome,), count)
        return family


def _by_outcome(counts: list[int]) -> dict[str, int]:
    found = {word: counts[digit] for digit, word in _OUTCOMES.items()}
    found["accepted"] += counts[3]
    return found
