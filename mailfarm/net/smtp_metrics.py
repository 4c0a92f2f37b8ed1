"""What a service that speaks SMTP counts: ``mailfarm_<service>_…``."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailfarm.mail.reply import Reply


class SMTPMetrics:
    """One for a service, shared by its listeners. A count costs about a microsecond."""

    def __init__(self, registry: CollectorRegistry, service: str) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mailfarm_{service}_{name}", text, labels, registry=registry)

        sessions = counter("sessions", "SMTP sessions begun, and refused at the door", "outcome")
        self.begun = sessions.labels("begun")
        self.full = sessions.labels("full")
        self.turned_away = sessions.labels("turned_away")
        self.open = Gauge(f"mailfarm_{service}_sessions_open", "SMTP sessions open now", registry=registry)
        recipients = counter("recipients", "Recipients by answer", "outcome")
        self._recipients = {n: recipients.labels(word) for n, word in _OUTCOMES.items()}
        messages = counter("messages", "Transactions whose content was complete, by answer", "outcome")
        self._messages = {n: messages.labels(word) for n, word in _OUTCOMES.items()}
        self.discarded = messages.labels("discarded")
        logins = counter("logins", "AUTH exchanges by answer", "outcome")
        self._logins = {n: logins.labels(word) for n, word in _OUTCOMES.items()}
        self.octets = counter("content_octets", "Octets of content that were accepted")
        self.timeouts = counter("timeouts", "Sessions ended because a deadline ran out")
        self.aborted = counter("aborted", "Connections cut because the client did not read or did not go")
        self.tls = counter("tls_handshakes", "TLS handshakes completed")
        self.errors = counter("decision_errors", "Decisions that failed and were answered 451 or 452")

    def recipient(self, reply: Reply) -> None:
        self._recipients[reply.code // 100].inc()

    def message(self, reply: Reply, octets: int) -> None:
        self._messages[reply.code // 100].inc()
        if reply.positive:
            self.octets.inc(octets)

    def login(self, reply: Reply) -> None:
        self._logins[reply.code // 100].inc()


_OUTCOMES = {2: "accepted", 3: "accepted", 4: "deferred", 5: "refused"}
