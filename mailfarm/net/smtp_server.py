"""SMTP on Twisted: pumps octets through ``smtp.server`` and asks a Session what that core cannot decide.

    transport -> core.receive -> core.next_request -> Session -> core.answer -> core.output -> transport

Nothing waits without bound, and nothing grows without bound:

===========================================  =======================================================================
a client says nothing, or dribbles           the core's deadlines, per phase and in total: 421 4.4.2
a TLS handshake does not end                 ``handshake`` seconds, then the connection is cut
a client sends while a decision is pending   above ``READ_AHEAD`` octets nothing more is read from it
a client sends commands without end          a few hundred lines, then it is others' turn (``portions``)
a client does not read its replies           above 64 KiB of them nothing more is read; after ``unread`` seconds: cut
a decision takes for ever                    after ``decision`` seconds 451 4.3.0; it may still come true
a client does not go when told to            after ``leave`` seconds: cut
a client is not let in, with implicit TLS    its connection is cut while it shakes hands
all clients together send much content       above ``IN_MEMORY`` octets in memory what comes goes to files
too many sessions                            421 4.3.2 above ``max_sessions``; far above it, closed without a word
the disk is full while content is coming     452 4.3.1 for that transaction; the session goes on
===========================================  =======================================================================

Deadlines are looked at by one sweep a second for all sessions of a factory, a tenth of them at a time, so that ten
thousand idle ones hold nobody up: an idle connection owns no timer.
The replies to a pipelined batch leave in one write (RFC 2920 §3.2), also when decisions on the way take time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.smtp.server import ServerConfig

from .incoming_room import IncomingRoom
from .portions import Portions
from .smtp_decisions import Asking
from .smtp_metrics import SMTPMetrics
from .smtp_protocol import READ_AHEAD, SMTPProtocol
from .smtp_session import Connection, Session
from .tls import ServerTls

__all__ = ["READ_AHEAD", "Caps", "SMTPFactory", "SMTPProtocol"]

FAREWELL: Final = 1.0
"""Seconds between the 421 at the end of the grace and the reset."""
_REFUSED_AT_ONCE: Final = 100  # connections above the cap that still get their 421
_PARTS: Final = 10  # of a sweep


@dataclass(frozen=True, slots=True)
class Caps:
    """``max_sessions`` of a listener; the rest in seconds. ``sweep`` is how often deadlines are looked at."""

    max_sessions: int = 10_000
    sweep: float = 1.0
    handshake: float = 30.0
    unread: float = 180.0
    decision: float = 240.0
    leave: float = 10.0

    def with_sessions(self, most: int) -> Caps:
        """The same with another cap on sessions."""
        return replace(self, max_sessions=most)


class SMTPFactory(ServerFactory):
    """The sessions of one listener.

    ``session`` makes the deciding half of each. ``room`` says where content is while it comes in; listeners may share
    it. ``tls`` is for STARTTLS (implicit TLS is a layer below: see ``smtp_listener``).
    """

    noisy = False

    def __init__(
        self,
        config: ServerConfig,
        session: Callable[[Connection], Session],
        reactor: Any,
        metrics: SMTPMetrics,
        *,
        log: Logger = Logger(),  # noqa: B008 - it has no state
        caps: Caps = Caps(),
        tls: ServerTls | None = None,
        implicit_tls: bool = False,
        room: IncomingRoom | None = None,
    ) -> None:
        self.config = config
        self.session = session
        self.reactor = reactor
        self.metrics = metrics
        self.log = log
        self.seconds: Callable[[], float] = reactor.seconds
        self.asking = Asking(metrics, log, self.seconds)
        self.portions = Portions(reactor)
        self.caps = caps
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.room = room or IncomingRoom()
        self.open: set[SMTPProtocol] = set()
        self.draining = False
        self._round: list[SMTPProtocol] = []  # whose deadlines are still to be looked at in this sweep
        self._part = 0
        self._share = 0
        self._sweep = LoopingCall(self._look)
        self._sweep.clock = reactor
        self._empty: list[Deferred[None]] = []

    def buildProtocol(self, addr: Any) -> Any:
        if self.draining or len(self.open) >= self.caps.max_sessions + _REFUSED_AT_ONCE:
            self.metrics.full += 1
            return None
        return SMTPProtocol(self)

    def drain(self, grace: float) -> Deferred[None]:
        """421 4.3.2 to idle sessions now, and to the others once their transaction is over. What is left after
        ``grace`` seconds hears it in the midst of its transaction, and is reset ``FAREWELL`` seconds later. Fires when
        the last session is gone. The port is the listener's to close, first."""
        self.draining = True
        if not self.open:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._empty.append(ended)
        last = [self.reactor.callLater(grace, self._end_grace), self.reactor.callLater(grace + FAREWELL, self._abort)]
        for protocol in tuple(self.open):
            protocol.shut_down()

        def done(result: None) -> None:
            for call in last:
                if call.active():
                    call.cancel()

        return ended.addCallback(done)

    def _end_grace(self) -> None:
        self.log.warn("{count} sessions did not end within the grace and are cut", count=len(self.open))
        for protocol in tuple(self.open):
            protocol.end_grace()

    def _abort(self) -> None:
        for protocol in tuple(self.open):
            protocol.abort()

    def came(self, protocol: SMTPProtocol) -> bool:
        """Count a session in. Whether there is room for it."""
        self.open.add(protocol)
        self.metrics.open += 1
        if not self._sweep.running:
            self._sweep.start(self.caps.sweep / _PARTS, now=False).addErrback(self._sweep_failed)
        return len(self.open) <= self.caps.max_sessions

    def went(self, protocol: SMTPProtocol) -> None:
        self.open.discard(protocol)
        self.metrics.open -= 1
        if not self.open:
            if self._sweep.running:
                self._sweep.stop()
            self._round.clear()
            self._part = 0
            empty, self._empty = self._empty, []
            for each in empty:
                each.callback(None)

    def _look(self) -> None:
        if self._part == 0:
            self._round = list(self.open)
            self._share = -(-len(self._round) // _PARTS)
        self._part = (self._part + 1) % _PARTS
        now = self.seconds()
        for _ in range(min(self._share, len(self._round))):
            protocol = self._round.pop()
            if protocol not in self.open:
                continue
            try:
                protocol.check_deadlines(now)
            except Exception:
                self.log.failure("A session's deadlines could not be checked; it is cut")
                protocol.abort()

    def _sweep_failed(self, failure: Failure) -> None:
        self.log.failure("The sweep of deadlines ended", failure)
