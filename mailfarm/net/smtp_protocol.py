"""One SMTP connection: the pump between its transport, ``smtp.server`` and its Session. See ``smtp_server``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener, IProtocol, IPushProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from mailfarm.mail.reply import Reply
from mailfarm.smtp.replies import FULL, NO_TLS, SHUTTING_DOWN, TLS_READY
from mailfarm.smtp.requests import DECISIONS, Chunk, Discarded, End, Question, Refused, Request, StartTls
from mailfarm.smtp.server import Server

from .ahead import MOST
from .content import SpillContent
from .incoming import Incoming
from .portions import AT_ONCE
from .smtp_decisions import TOO_SLOW, Decision, brief, closing, refusal_for
from .smtp_session import Session
from .tls import describe

if TYPE_CHECKING:
    from .smtp_server import SMTPFactory

READ_AHEAD: Final = 64 * 1024
"""Octets that may wait behind a decision before nothing more is read."""


@implementer(IProtocol, IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SMTPProtocol:
    """One connection. Slotted and without a base class, because there may be ten thousand idle ones."""

    __slots__ = (
        "__weakref__", "_core", "_decision", "_ended", "_incoming", "_leaving_since", "_lost", "_reading", "_session",
        "_shaking_since", "_tls", "_unread_since", "_welcome", "_working", "client", "factory", "port", "transport",
    )  # fmt: skip

    transport: Any

    def __init__(self, factory: SMTPFactory) -> None:
        self.factory = factory
        self.client = ""
        self.port = 0
        self._core: Server | None = None
        self._session: Session | None = None
        self._decision: Decision | None = None
        self._incoming: Incoming | None = None
        self._tls = ""
        self._reading = True
        self._working = False
        self._lost = False
        self._ended = False
        self._welcome: Reply | None = None
        self._leaving_since: float | None = None
        self._shaking_since: float | None = None
        self._unread_since: float | None = None

    # Connection: the facts for the session

    @property
    def tls(self) -> str:
        return self._tls

    @property
    def helo(self) -> str:
        return self._core.hello.domain if self._core and self._core.hello else ""

    @property
    def extended(self) -> bool:
        return self._core is not None and self._core.hello is not None and self._core.hello.verb == "EHLO"

    @property
    def transcript(self) -> tuple[str, ...]:
        return self._core.transcript if self._core else ()

    @property
    def quiet(self) -> bool:
        return self._core is not None and self._core.quiet

    def ahead(self) -> list[str]:
        return self._core.ahead(MOST) if self._core else []

    def awaits(self, question: Question) -> bool:
        return self._core is not None and self._core.question is question and not self._lost

    # IProtocol, IHandshakeListener

    def makeConnection(self, transport: Any) -> None:
        self.transport = transport
        peer = transport.getPeer()
        # an IPv6 socket that takes IPv4 too says ::ffff:192.0.2.1
        self.client = peer.host[7:] if peer.host.startswith("::ffff:") and "." in peer.host else peer.host
        self.port = peer.port
        room = self.factory.came(self)
        if self.factory.implicit_tls:
            if not room:  # a handshake to say no would cost more than it is worth
                self.factory.metrics.full += 1
                self.abort()
                return
            self._shaking_since = self.factory.seconds()
            self._knock()
        else:
            transport.registerProducer(self, True)
            self._begin(room)

    def _knock(self) -> None:
        """Ask whether to greet while the handshake is under way: who is not let in costs us no more of it."""
        self._session = self.factory.session(self)
        if (reply := self._ask(None)) is not None:
            self._answer_knock(reply)

    def _answer_knock(self, reply: Reply) -> None:
        if reply.positive:
            self._welcome = reply
        else:
            self.factory.metrics.turned_away += 1
            self._shaking_since = None
            self.abort()

    def handshakeCompleted(self) -> None:
        self._shaking_since = None
        self._tls = describe(self.transport.getHandle())
        self.factory.metrics.tls += 1
        if self._core is None and self._leaving_since is None:
            # Not earlier: what is written before the handshake is over makes the TLS layer pause its producer, and a
            # paused producer is a client that is not read, whose handshake never ends.
            self.transport.registerProducer(self, True)
            self._begin(True)

    def _begin(self, room: bool) -> None:
        factory = self.factory
        self._core = Server(factory.config, factory.seconds(), tls=factory.implicit_tls)
        if factory.draining:
            self._decision = None
            self._core.greet(SHUTTING_DOWN)
        elif not room:
            factory.metrics.full += 1
            self._core.greet(FULL)
        elif self._session is None:
            self._session = factory.session(self)
            if (reply := self._ask(None)) is not None:
                self._greet(reply)
        elif self._welcome is not None:
            self._greet(self._welcome)
        self._pump()

    def _greet(self, reply: Reply) -> None:
        if reply.positive:
            self.factory.metrics.begun += 1
        else:
            self.factory.metrics.turned_away += 1
        assert self._core is not None
        self._core.greet(SHUTTING_DOWN if self.factory.draining else reply)

    def dataReceived(self, data: bytes) -> None:
        core = self._core
        if core is None or self._leaving_since is not None:
            return
        core.receive(data, self.factory.seconds())
        if self._pump in self.factory.portions:
            self._read_or_not(core)
        else:
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
                "The TLS handshake with {client} did not succeed: {why}", client=self.client, why=brief(reason)
            )
        self._drop_content()
        session, self._session = self._session, None
        self.factory.went(self)
        if session is not None:
            session.lost()

    # the pump

    def _pump(self) -> None:
        """Let the core work until it needs more input or an answer; write what it says; read or stop reading."""
        core = self._core
        if self._working or core is None:
            return  # an answer came at once, inside the work
        self._working = True
        try:
            self._work(core)
        finally:
            self._working = False
        if self._lost or self._leaving_since is not None:
            return
        # Replies before a pending decision wait for it: the client has more of the batch to wait for anyway.
        if self._decision is None:
            out = core.output()
            if out:
                self.transport.write(out)
            if core.closing or (self._ended and self._unread_since is None and core.turns > 0):
                self._leave()
                return
            if core.turns <= 0:
                self.factory.portions.add(self._pump)
            elif self._reading and self._unread_since is None:
                return  # and goes on reading: nearly always
        self._read_or_not(core)

    def _work(self, core: Server) -> None:
        core.turns = AT_ONCE
        while self._decision is None and self._unread_since is None and not self._lost:
            request = core.next_request()
            if request is None:
                return
            kind = type(request)
            if kind in DECISIONS:
                # so much mypy does not see of a type
                reply = self._end(request) if kind is End else self._ask(request)  # type: ignore[arg-type]  # kind is its type
                if reply is not None:
                    core.answer(reply)
            else:
                self._other(request, core)

    def _other(self, request: Request, core: Server) -> None:
        """What is no question to the session."""
        if isinstance(request, Chunk):
            if self._incoming is None:
                self._incoming = Incoming(self.factory.room, self.client, self.factory.log)
            self._incoming.add(request.data)
        elif isinstance(request, StartTls):
            self._start_tls(core)
        elif isinstance(request, Discarded) and self._session is not None:
            self._drop_content()
            self.factory.asking.tell(self._session, request)
        elif isinstance(request, Refused) and self._session is not None:
            self.factory.asking.tell_refused(self._session, request)

    def _read_or_not(self, core: Server) -> None:
        """Stop reading when too much waits: input for its turn or a decision, or replies the client does not take."""
        waits = self._decision is not None or core.turns <= 0
        want = self._unread_since is None and not (waits and core.buffered > READ_AHEAD)
        if want != self._reading:
            self._reading = want
            if want:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    def pauseProducing(self) -> None:
        """The transport has too many replies that the client does not take."""
        if self._unread_since is None and not self._lost:
            self._unread_since = self.factory.seconds()
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

    def _ask(self, question: Question | None, content: SpillContent | None = None) -> Reply | None:
        """The session's answer, or None when it comes later."""
        assert self._session is not None
        answer = self.factory.asking.ask(self._session, question, content, self)
        if isinstance(answer, Reply):
            return answer
        self._decision = answer
        return None

    def _end(self, question: End) -> Reply | None:
        """The same, with the content that is complete."""
        factory = self.factory
        try:
            content = self._incoming.take() if self._incoming is not None else SpillContent(room=factory.room)
        except OSError as error:
            refusal = refusal_for(error)
            factory.metrics.message(refusal, 0)
            return refusal
        return self._ask(question, content)

    def late(self, decision: Decision) -> None:
        if self._decision is not decision:
            return  # given up: it comes too late
        self._decision = None
        assert decision.reply is not None
        if self._lost:
            return
        if self._core is None:  # still shaking hands
            self._answer_knock(decision.reply)
            return
        if decision.question is None:
            self._greet(decision.reply)
        else:
            self._core.answer(decision.reply, self.factory.seconds())
        self._pump()

    # content

    def _drop_content(self) -> None:
        incoming, self._incoming = self._incoming, None
        if incoming is not None:
            incoming.drop()

    # TLS

    def _start_tls(self, core: Server) -> None:
        """RFC 3207 §4: what was received in plain text is forgotten, by the core."""
        if self.factory.tls is None:
            core.answer(NO_TLS)
            return
        core.answer(TLS_READY)
        self.transport.write(core.output())
        self._shaking_since = self.factory.seconds()
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
            self.factory.metrics.timeouts += 1
            core.time_out(now)
            self._pump()

    def _give_up(self, decision: Decision) -> None:
        self.factory.log.error("A decision for {client} takes too long; it was answered 451", client=self.client)
        self._decision = None
        assert self._core is not None
        if decision.question is None:
            self._greet(closing(TOO_SLOW))
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

    def end_grace(self) -> None:
        """The grace is over: say so and close. What that does not end is ``abort``ed a little later."""
        if self._core is None or self._shaking_since is not None:
            self.abort()
        elif self._leaving_since is None:
            self._decision = None
            self._core.cut()
            self._pump()

    def _leave(self) -> None:
        """Close once everything is written; the sweep cuts a client that does not take it."""
        self._leaving_since = self.factory.seconds()
        self.transport.unregisterProducer()
        if not self._reading:
            self._reading = True
            self.transport.resumeProducing()  # a TLS layer waits for the client's good-bye
        self.transport.loseConnection()

    def _cut(self) -> None:
        self.factory.metrics.aborted += 1
        self.abort()

    def abort(self) -> None:
        """Close now, whatever is unwritten."""
        self._leaving_since = self.factory.seconds()
        self.transport.abortConnection()
