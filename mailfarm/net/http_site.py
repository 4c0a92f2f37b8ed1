"""A port of HTTP: how many connections it takes, and what all of them together may hold in memory.

too many connections          503 ``too-many-connections`` with Retry-After at the first octet, nothing of it parsed;
                              with ``CLOSING`` such connections open, closed without a word
octets of requests            ``ASKED`` together: of those that are not whole yet, or wait behind one under way
octets of answers             ``UNREAD`` together: those that the system has not taken, as their reader does not
a reader that does not read   cut when it took less than ``STEP`` octets of what waits for it in ``PATIENCE`` seconds

Past the two caps who has made no progress for the longest is cut, so that a port costs no more than both and some KiB a
connection, whatever its clients do. What is asked and what is answered has bounds of its own elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.web.server import Request, Site

from .fast_tcp import held
from .http_channel import Channel, problem_answer
from .http_room import Room
from .problems import RETRY_AFTER, Problem

CLOSING: Final = 100
"""Connections above the cap that are told so at once."""
CLOSING_SECONDS: Final = 5.0
"""From their beginning to their end, whatever they do."""
ASKED: Final = 64 << 20
UNREAD: Final = 64 << 20
STEP: Final = 64 << 10
PATIENCE: Final = 60.0
LOOKS: Final = 5.0
"""Seconds between two looks at those that do not read."""
SAYS: Final = 60.0
"""Seconds between two lines in the log that there are too many connections."""


class HttpCounts(Collector):
    """``mailfarm_<service>_http_*``; plain numbers, read at a scrape. ``open_now`` is asked then."""

    def __init__(self, service: str, open_now: Callable[[], int]) -> None:
        self._prefix = f"mailfarm_{service}"
        self._open_now = open_now
        self.refused = self.late = self.unread = self.memory = 0

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        yield GaugeMetricFamily(
            f"{self._prefix}_http_connections", "Open connections of HTTP, WebSockets aside", value=self._open_now()
        )
        yield CounterMetricFamily(
            f"{self._prefix}_http_refused", "Connections above the cap, told 503 or closed", value=self.refused
        )
        cut = CounterMetricFamily(
            f"{self._prefix}_http_cut", "Connections cut: a late request, an unread answer, memory", labels=("why",)
        )
        for why in ("late", "unread", "memory"):
            cut.add_metric((why,), getattr(self, why))
        yield cut

    def describe(self) -> Iterator[Metric]:
        """The same: the names, so that no two collectors of a registry have them."""
        return self.collect()


class HttpSite(Site):
    """Takes at most ``most`` connections, ``besides`` those that others count; a request must be whole in ``timeout``
    seconds, and a kept connection may idle for as long. ``service`` names its metrics, if it is in a ``registry``. It
    writes no access log, which metrics stand for, and shows no traceback."""

    protocol = Channel  # type: ignore[assignment]  # a factory there
    displayTracebacks = False
    noisy = False
    log_ = Logger(namespace="mailfarm.http")

    def __init__(
        self,
        resource: Any,
        factory: Any,
        *,
        service: str,
        most: int,
        reactor: Any,
        timeout: float,
        registry: CollectorRegistry | None = None,
        besides: Callable[[], int] = lambda: 0,
    ) -> None:
        super().__init__(
            resource, requestFactory=factory, timeout=timeout, reactor=reactor, parsePOSTFormSubmission=False
        )
        self._service = service
        self._most = most
        self._besides = besides
        self._clock: Any = self.reactor
        self.connections: set[Channel] = set()
        self.refusing: set[_Refusal] = set()
        self.counts = HttpCounts(service, lambda: len(self.connections))
        if registry is not None:
            registry.register(self.counts)
        self.asked: Room[Channel] = Room(ASKED, lambda channel: None, self._no_room)
        """What is held of requests."""
        self._unread: Room[Channel] = Room(UNREAD, self._progress, self._no_room)
        self._seen: dict[Channel, tuple[int, float]] = {}
        """Of each that does not read: what it had taken, and when."""
        self._look: Any = None
        self._said = -SAYS

    def log(self, request: Request) -> None:  # type: ignore[override]  # what is asked is a Request
        """Nothing."""

    def buildProtocol(self, addr: Any) -> Any:
        """A connection, or what tells it that there are too many."""
        if len(self.connections) + self._besides() < self._most:
            return super().buildProtocol(addr)
        self.counts.refused += 1
        now = self._clock.seconds()
        if now - self._said >= SAYS:
            self._said = now
            self.log_.warn(
                "{service} has {most} connections of HTTP open: those above it hear 503",
                service=self._service,
                most=self._most,
            )
        return _Refusal(self) if len(self.refusing) < CLOSING else None

    # What the connections say of themselves

    def came(self, channel: Channel) -> None:
        """A connection has begun."""
        self.connections.add(channel)

    def went(self, channel: Channel) -> None:
        """It has ended, or is a WebSocket from here on."""
        self.connections.discard(channel)
        self.asked.hold(channel, 0)
        self.read(channel)

    def unread(self, channel: Channel) -> None:
        """Its client has not taken what was written."""
        if channel.transport is None:  # about to be a WebSocket
            return
        if channel not in self._seen:
            self._seen[channel] = (channel.taken, self._clock.seconds())
            if self._look is None:
                self._look = self._clock.callLater(LOOKS, self._look_at_all)
        self._unread.hold(channel, held(channel.transport))

    def read(self, channel: Channel) -> None:
        """It has."""
        self._seen.pop(channel, None)
        self._unread.hold(channel, 0)
        if not self._seen and self._look is not None:
            self._look.cancel()
            self._look = None

    def handed_over(self, request: Request) -> None:
        """Called when a resource may have taken the connection for a WebSocket."""
        channel: Any = request.channel
        if channel is not None and channel.transport is None:
            self.went(channel)

    def _look_at_all(self) -> None:
        self._look = None
        now = self._clock.seconds()
        for channel in tuple(self._seen):
            octets = self._progress(channel)
            if octets is not None:
                self._unread.renew(channel, octets)
            elif now - self._seen[channel][1] >= PATIENCE:
                self.counts.unread += 1
                self._cut(channel, "it does not read its answers")
        if self._seen:
            self._look = self._clock.callLater(LOOKS, self._look_at_all)

    def _progress(self, channel: Channel) -> int | None:
        """What waits for its client, if that took something worth while since the last look."""
        taken = channel.taken
        if taken - self._seen[channel][0] < STEP:
            return None
        self._seen[channel] = (taken, self._clock.seconds())
        return held(channel.transport)

    def _no_room(self, channel: Channel) -> None:
        self.counts.memory += 1
        self._cut(channel, "there is no room for what it asks or does not read")

    def _cut(self, channel: Channel, why: str) -> None:
        self.log_.info(
            "A connection of HTTP was cut: {why}: {peer}", why=why, peer=getattr(channel.getPeer(), "host", "")
        )
        self._seen.pop(channel, None)
        self._unread.hold(channel, 0)
        self.asked.hold(channel, 0)
        channel.transport.abortConnection()


class _Refusal(Protocol):
    """A connection above the cap. What it asks for is not looked at: it is answered when its first octets are there,
    as clients do not look for an answer before."""

    transport: Any

    def __init__(self, site: HttpSite) -> None:
        self._site = site
        self._said = False
        self._ends: Any = None

    def connectionMade(self) -> None:
        self._site.refusing.add(self)
        self._ends = self._site._clock.callLater(CLOSING_SECONDS, self.transport.abortConnection)

    def dataReceived(self, data: bytes) -> None:
        if self._said:
            return  # read and thrown away: to close with something unread would take our answer with it
        self._said = True
        self.transport.write(_TOO_MANY)
        self.transport.loseWriteConnection()

    def connectionLost(self, reason: Any = None) -> None:
        self._site.refusing.discard(self)
        if self._ends.active():
            self._ends.cancel()


_TOO_MANY: Final = problem_answer(
    Problem(
        "too-many-connections",
        "as many connections are open as may be; try again, or somewhere else",
        headers={"Retry-After": RETRY_AFTER},
    )
)
