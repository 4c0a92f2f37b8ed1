"""SMTP on Twisted: pumps octets through ``smtp.server`` and asks a Session what that core cannot decide.

    transport -> core.receive -> core.next_request -> Session -> core.answer -> core.output -> transport

Nothing waits without bound, and nothing grows without bound:

===========================================  =======================================================================
a client says nothing, or dribbles           the core's deadlines, per phase and in total: 421 4.4.2
a TLS handshake does not end                 ``handshake`` seconds, then the connection is cut
a client sends while a decision is pending   above ``READ_AHEAD`` octets nothing more is read from it
a client does not read its replies           above 64 KiB of them nothing more is read; after ``unread`` seconds: cut
a decision takes for ever                    after ``decision`` seconds 451 4.3.0; it may still come true
a client does not go when told to            after ``leave`` seconds: cut
too many sessions                            421 4.3.2 above ``max_sessions``; far above it, closed without a word
the disk is full while content is coming     452 4.3.1 for that transaction; the session goes on
===========================================  =======================================================================

Deadlines are looked at by one sweep a second for all sessions of a factory: an idle connection owns no timer.
The replies to a pipelined batch leave in one write (RFC 2920 §3.2), also when decisions on the way take time.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from errno import EDQUOT, ENOSPC
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IProtocol, IPushProducer
from twisted.internet.protocol import ServerFactory
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailfarm.errors import QueueFull, Temporary
from mailfarm.mail.reply import Reply
from mailfarm.smtp.replies import SHUTTING_DOWN
from mailfarm.smtp.requests import Auth, Chunk, Data, Discarded, End, Hello, Mail, Question, Rcpt, StartTls
from mailfarm.smtp.server import Server, ServerConfig

from .content import SpillContent
from .smtp_metrics import SMTPMetrics
from .smtp_session import Answer, Connection, Session
from .tls import ServerTls, describe

READ_AHEAD: Final = 64 * 1024
_REFUSED_AT_ONCE: Final = 100  # connections above the cap that still get their 421

FULL: Final = Reply(421, "4.3.2", "Too many connections; try again later", close=True)
FAILED: Final = Reply(451, "4.3.0", "Something failed here; try again later")
NO_ROOM: Final = Reply(452, "4.3.1", "Not enough storage; try again later")
TOO_SLOW: Final = Reply(451, "4.3.0", "This takes too long; try again later")
TLS_READY: Final = Reply(220, "2.0.0", "Ready to start TLS")
NO_TLS: Final = Reply(454, "4.7.0", "TLS is not available now; try again later")  # RFC 3207 §4


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

    ``session`` makes the deciding half of each. ``folder`` takes content above 256 KiB while it comes in. ``tls`` is
    for STARTTLS (implicit TLS is a layer below: see ``smtp_listener``).
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
        folder: Path | None = None,
    ) -> None:
        self.config = config
        self.session = session
        self.reactor = reactor
        self.metrics = metrics
        self.log = log
        self.caps = caps
        self.tls = tls
        self.implicit_tls = implicit_tls
        self.folder = folder
        self.open: set[SMTPProtocol] = set()
        self.draining = False
        self._sweep = LoopingCall(self._look)
        self._sweep.clock = reactor
        self._empty: list[Deferred[None]] = []

    def buildProtocol(self, addr: Any) -> Any:
        if self.draining or len(self.open) >= self.caps.max_sessions + _REFUSED_AT_ONCE:
            self.metrics.full.inc()
            return None
        return SMTPProtocol(self)

    def drain(self, grace: float) -> Deferred[None]:
        """421 4.3.2 to idle sessions now, and to the others once their transaction is over; what is left after
        ``grace`` seconds is cut. Fires when the last session is gone. The port is the listener's to close, first."""
        self.draining = True
        if not self.open:
            return succeed(None)
        ended: Deferred[None] = Deferred()
        self._empty.append(ended)
        last = self.reactor.callLater(grace, self._cut)
        for protocol in tuple(self.open):
            protocol.shut_down()

        def done(result: None) -> None:
            if last.active():
                last.cancel()

        return ended.addCallback(done)

    def _cut(self) -> None:
        self.log.warn("{count} sessions did not end within the grace and are cut", count=len(self.open))
        for protocol in tuple(self.open):
            protocol.abort()

    def came(self, protocol: SMTPProtocol) -> bool:
        """Count a session in. Whether there is room for it."""
        self.open.add(protocol)
        self.metrics.open.inc()
        if not self._sweep.running:
            self._sweep.start(self.caps.sweep, now=False).addErrback(self._sweep_failed)
        return len(self.open) <= self.caps.max_sessions

    def went(self, protocol: SMTPProtocol) -> None:
        self.open.discard(protocol)
        self.metrics.open.dec()
        if not self.open:
            if self._sweep.running:
                self._sweep.stop()
            empty, self._empty = self._empty, []
            for each in empty:
                each.callback(None)

    def _look(self) -> None:
        now = self.reactor.seconds()
        for protocol in tuple(self.open):
            try:
                protocol.check_deadlines(now)
            except Exception:
                self.log.failure("A session's deadlines could not be checked; it is cut")
                protocol.abort()

    def _sweep_failed(self, failure: Failure) -> None:
        self.log.failure("The sweep of deadlines ended", failure)


class _Decision:
    """A question that waits for its answer."""

    __slots__ = ("began", "question", "reply", "waiting")

    def __init__(self, question: Question | None, began: float) -> None:
        self.question = question  # None: whether to greet
        self.began = began
        self.reply: Reply | None = None
        self.waiting = False


@implementer(IProtocol, IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SMTPProtocol:
    """One connection. Slotted and without a base class, because there may be ten thousand idle ones."""

    __slots__ = (
        "__weakref__",
        "_content",
        "_core",
        "_decision",
        "_ended",
        "_fault",
        "_leaving_since",
        "_lost",
        "_reading",
        "_session",
        "_shaking_since",
        "_tls",
        "_unread_since",
        "_working",
        "client",
        "factory",
        "port",
        "transport",
    )

    transport: Any

    def __init__(self, factory: SMTPFactory) -> None:
        self.factory = factory
        self.client = ""
        self.port = 0
        self._core: Server | None = None
        self._session: Session | None = None
        self._decision: _Decision | None = None
        self._content: SpillContent | None = None
        self._fault: Reply | None = None
        self._tls = ""
        self._reading = True
        self._working = False
        self._lost = False
        self._ended = False
        self._leaving_since: float | None = None
        self._shaking_since: float | None = None
        self._unread_since: float | None = None

    # Connection: the facts for the session

    @property
    def tls(self) -> str:
        return self._tls

    @property
    def helo(self) -> str:
        hello = self._core.hello if self._core else None
        return hello.domain if hello else ""

    @property
    def extended(self) -> bool:
        hello = self._core.hello if self._core else None
        return hello is not None and hello.verb == "EHLO"

    @property
    def transcript(self) -> tuple[str, ...]:
        return self._core.transcript if self._core else ()

    # IProtocol, IHandshakeListener

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.getPeer()
        # an IPv6 socket that takes IPv4 too says ::ffff:192.0.2.1
        self.client = peer.host[7:] if peer.host.startswith("::ffff:") and "." in peer.host else peer.host
        self.port = peer.port
        room = self.factory.came(self)
        with suppress(OSError):  # it may have gone already; we shall hear of it
            transport.setTcpNoDelay(True)
        if self.factory.implicit_tls:
            if not room:  # a handshake to say no would cost more than it is worth
                self.factory.metrics.full.inc()
                self.abort()
                return
            self._shaking_since = self.factory.reactor.seconds()
        else:
            transport.registerProducer(self, True)
            self._begin(room)

    def handshakeCompleted(self) -> None:
        self._shaking_since = None
        self._tls = describe(self.transport.getHandle())
        self.factory.metrics.tls.inc()
        if self._core is None and self._leaving_since is None:
            # Not earlier: what is written before the handshake is over makes the TLS layer pause its producer, and a
            # paused producer is a client that is not read, whose handshake never ends.
            self.transport.registerProducer(self, True)
            self._begin(True)

    def _begin(self, room: bool) -> None:
        factory = self.factory
        self._core = Server(factory.config, factory.reactor.seconds(), tls=factory.implicit_tls)
        if factory.draining:
            self._core.greet(SHUTTING_DOWN)
        elif not room:
            factory.metrics.full.inc()
            self._core.greet(FULL)
        else:
            self._session = factory.session(self)
            reply = self._decide(None, self._session.connected)
            if reply is not None:
                self._greet(reply)
        self._pump()

    def _greet(self, reply: Reply) -> None:
        (self.factory.metrics.begun if reply.positive else self.factory.metrics.turned_away).inc()
        assert self._core is not None
        self._core.greet(SHUTTING_DOWN if self.factory.draining else reply)

    def dataReceived(self, data: bytes) -> None:
        core = self._core
        if core is None or self._leaving_since is not None:
            return
        core.receive(data, self.factory.reactor.seconds())
        self._pump()

    def readConnectionLost(self) -> None:
        """The client will send no more, but may still read: what it sent is worked off and answered."""
        self._ended = True
        if self._core is None:
            self.abort()
        else:
            self._pump()

    def writeConnectionLost(self) -> None:
        """Never asked for here; ``connectionLost`` follows."""

    def connectionLost(self, reason: Failure) -> None:
        if self._lost:
            return
        self._lost = True
        if self._shaking_since is not None:
            self.factory.log.info(
                "The TLS handshake with {client} did not succeed: {why}", client=self.client, why=_brief(reason)
            )
        self._drop_content()
        session, self._session = self._session, None
        self.factory.went(self)
        if session is not None:
            session.lost()

    # the pump

    def _pump(self) -> None:
        """Let the core work until it needs more input or an answer; write what it says; read or stop reading."""
        if self._working:
            return  # an answer came at once, inside the loop below
        self._working = True
        try:
            self._work()
        finally:
            self._working = False
        core = self._core
        assert core is not None
        if self._lost or self._leaving_since is not None:
            return
        # Replies before a pending decision wait for it: the client has more of the batch to wait for anyway.
        if self._decision is None:
            self._flush(core)
            if core.closing or (self._ended and self._unread_since is None):
                self._leave()
                return
        self._read_or_not(core)

    def _work(self) -> None:
        core = self._core
        assert core is not None
        while self._decision is None and self._unread_since is None and not self._lost:
            request = core.next_request()
            if request is None:
                return
            if isinstance(request, Chunk):
                self._chunk(request.data)
            elif isinstance(request, Discarded):
                self._drop_content()
                self.factory.metrics.discarded.inc()
                self._tell_discarded(request)
            elif isinstance(request, StartTls):
                self._start_tls(core)
            else:
                reply = self._ask(request)
                if reply is not None:
                    core.answer(reply)

    def _flush(self, core: Server) -> None:
        out = core.output()
        if out:
            self.transport.write(out)

    def _read_or_not(self, core: Server) -> None:
        """Stop reading when too much waits: input behind a decision, or replies the client does not take."""
        want = self._unread_since is None and (self._decision is None or core.buffered <= READ_AHEAD)
        if want != self._reading:
            self._reading = want
            if want:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The transport has too many replies that the client does not take."""
        if self._unread_since is None and not self._lost:
            self._unread_since = self.factory.reactor.seconds()
            if self._core is not None and self._leaving_since is None:
                self._read_or_not(self._core)

    def resumeProducing(self) -> None:
        """The client took them."""
        self._unread_since = None
        if self._core is not None and not self._lost and self._leaving_since is None:
            self._pump()

    def stopProducing(self) -> None:
        """The connection is being lost; ``connectionLost`` follows."""

    # decisions

    def _ask(self, question: Question) -> Reply | None:
        """The session's answer, or None when it comes later."""
        session = self._session
        assert session is not None
        if isinstance(question, Rcpt):
            return self._decide(question, lambda: session.rcpt(question))
        if isinstance(question, Mail):
            return self._decide(question, lambda: session.mail(question))
        if isinstance(question, Hello):
            return self._decide(question, lambda: session.hello(question))
        if isinstance(question, Data):
            return self._decide(question, lambda: session.data(question.envelope))
        if isinstance(question, End):
            return self._end(session, question)
        assert isinstance(question, Auth)
        return self._decide(question, lambda: session.authenticate(question))

    def _end(self, session: Session, question: End) -> Reply | None:
        fault, self._fault = self._fault, None
        content, self._content = self._content, None
        if fault is not None:
            self.factory.metrics.message(fault, 0)
            return fault
        if content is None:  # empty content is content
            content = SpillContent(self.factory.folder)
        return self._decide(question, lambda: session.content(question.envelope, content), content)

    def _decide(
        self, question: Question | None, ask: Callable[[], Answer], content: SpillContent | None = None
    ) -> Reply | None:
        try:
            answer = ask()
            if isinstance(answer, Reply):
                return self._decided(question, answer, content)
            waiting: Deferred[Reply] = ensureDeferred(answer)  # type: ignore[arg-type]
        except Exception:
            return self._decided(question, self._failed(Failure(), question), content)
        decision = _Decision(question, self.factory.reactor.seconds())
        waiting.addErrback(self._failed, question).addCallback(self._arrived, decision, content)
        waiting.addErrback(lambda failure: self.factory.log.failure("A decision could not be answered", failure))
        if decision.reply is not None:
            return decision.reply
        decision.waiting = True
        self._decision = decision
        return None

    def _arrived(self, reply: Reply, decision: _Decision, content: SpillContent | None) -> None:
        reply = self._decided(decision.question, reply, content)
        decision.reply = reply
        if not decision.waiting or self._decision is not decision:
            return  # it answers the question at once, or too late
        self._decision = None
        if self._lost or self._core is None:
            return
        if decision.question is None:
            self._greet(reply)
        else:
            self._core.answer(reply, self.factory.reactor.seconds())
        self._pump()

    def _decided(self, question: Question | None, reply: Reply, content: SpillContent | None) -> Reply:
        if isinstance(question, Rcpt):
            self.factory.metrics.recipient(reply)
        elif isinstance(question, Auth):
            self.factory.metrics.login(reply)
        elif isinstance(question, End):
            assert content is not None
            self.factory.metrics.message(reply, content.size)
            content.close()
        return reply

    def _failed(self, failure: Failure, question: Question | None) -> Reply:
        """A decision failed: bland outside, full in the log. Unknown means temporary."""
        self.factory.metrics.errors.inc()
        error = failure.value
        asked = type(question).__name__ if question is not None else "the greeting"
        reply = NO_ROOM if isinstance(error, QueueFull) or _no_room(error) else FAILED
        if isinstance(error, Temporary) or _no_room(error):
            self.factory.log.warn(
                "{question} of {client} was answered {code}: {why}",
                question=asked,
                client=self.client,
                code=reply.code,
                why=str(error),
            )
        else:
            self.factory.log.failure(
                "{question} of {client} failed and was answered 451", failure, question=asked, client=self.client
            )
        return reply if question is not None else Reply(421, reply.enhanced, reply.text, close=True)

    def _tell_discarded(self, request: Discarded) -> None:
        assert self._session is not None
        try:
            self._session.discarded(request)
        except Exception:
            self.factory.log.failure("A discarded transaction could not be told")

    # content

    def _chunk(self, data: bytes) -> None:
        if self._fault is not None:
            return
        if self._content is None:
            self._content = SpillContent(self.factory.folder)
        try:
            self._content.write(data)
        except OSError as error:
            # The client goes on until its dot and hears of it there.
            self._drop_content()
            self._fault = NO_ROOM if _no_room(error) else FAILED
            self.factory.metrics.errors.inc()
            self.factory.log.error(
                "Content from {client} cannot be kept in {folder}: {why}. Make room there, or name another folder.",
                client=self.client,
                folder=str(self.factory.folder or "the temporary folder"),
                why=error.strerror or str(error),
            )

    def _drop_content(self) -> None:
        self._fault = None
        if self._content is not None:
            self._content.close()
            self._content = None

    # TLS

    def _start_tls(self, core: Server) -> None:
        """RFC 3207 §4: what was received in plain text is forgotten, by the core."""
        if self.factory.tls is None:
            core.answer(NO_TLS)
            return
        core.answer(TLS_READY)
        self._flush(core)
        self._shaking_since = self.factory.reactor.seconds()
        # STARTTLS is the last of its batch, so the decision is made in dataReceived: octets of the handshake that came
        # in the same segment were plain text to the core, and are gone with the rest.
        self.transport.startTLS(self.factory.tls)
        core.tls_started()

    # the end

    def check_deadlines(self, now: float) -> None:
        """What the sweep does with each session, once a second."""
        caps, core = self.factory.caps, self._core
        if self._leaving_since is not None:
            if now - self._leaving_since >= caps.leave:
                self._cut()
        elif self._shaking_since is not None:
            if now - self._shaking_since >= caps.handshake:
                self._cut()
        elif self._unread_since is not None and now - self._unread_since >= caps.unread:
            self._cut()
        elif self._decision is not None:
            if now - self._decision.began >= caps.decision:
                self._give_up(self._decision)
        elif core is not None and now >= core.deadline:
            self.factory.metrics.timeouts.inc()
            core.time_out(now)
            self._pump()

    def _give_up(self, decision: _Decision) -> None:
        self.factory.log.error("A decision for {client} takes too long; it was answered 451", client=self.client)
        self._decision = None
        assert self._core is not None
        if decision.question is None:
            self._greet(Reply(421, TOO_SLOW.enhanced, TOO_SLOW.text, close=True))
        else:
            self._core.answer(TOO_SLOW)
        self._pump()

    def shut_down(self) -> None:
        """The service is stopping."""
        if self._core is None or self._shaking_since is not None:
            self.abort()
            return
        self._core.shut_down()
        self._pump()

    def _leave(self) -> None:
        """Close once everything is written; the sweep cuts a client that does not take it."""
        self._leaving_since = self.factory.reactor.seconds()
        self.transport.unregisterProducer()
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()  # a TLS layer waits for the client's good-bye
        self.transport.loseConnection()

    def _cut(self) -> None:
        self.factory.metrics.aborted.inc()
        self.abort()

    def abort(self) -> None:
        """Close now, whatever is unwritten."""
        self._leaving_since = self.factory.reactor.seconds()
        self.transport.abortConnection()


def _no_room(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (ENOSPC, EDQUOT)


def _brief(failure: Failure) -> str:
    return " ".join(str(failure.value).split())[:200] or failure.type.__name__
