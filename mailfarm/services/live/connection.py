"""One WebSocket connection: the protocol that ``mailfarm help live`` tells of."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import partial
from typing import Any

from autobahn.twisted.websocket import WebSocketServerProtocol
from autobahn.websocket.types import ConnectionDeny, ConnectionRequest
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from mailfarm.accounts.bearer import Caller
from mailfarm.accounts.session import is_session
from mailfarm.errors import Conflict, CursorTooOld, Invalid, NotFound, Temporary
from mailfarm.events import MailboxClosed
from mailfarm.mailboxes.feed import Feed, Told
from mailfarm.net.cookies import over_https, session_of
from mailfarm.net.problems import Problem

from .asked import Asked, glimpse, read
from .denial import denial
from .frames import frame, ping_frame, problem_frame
from .gathered import Gathered
from .places import Places, host_of

SUBSCRIPTIONS = 100
AUTH_SECONDS = 10.0
WAITING, WAITING_OCTETS = 100, 128 * 1024
"""Messages read and not yet worked on, and their octets, above which we stop reading."""
EARLY = 128 * 1024
"""Octets, its request among them, that a client may send before it is answered that it is let in."""
ENDS_KEPT = 1000

SLOW, UNAUTHENTICATED, TOO_MUCH, STOPPING = 4008, 4401, 4429, 1001
_PONG = frame({"type": "pong"})
_PING = ping_frame()
_ENDS = frozenset({CursorTooOld, MailboxClosed})


@implementer(IPushProducer)
class Connection(WebSocketServerProtocol):
    """Its factory's ``live`` is the service: see `service.Live`."""

    log_ = Logger(namespace="mailfarm.live")
    factory: Any
    transport: Any

    def __init__(self) -> None:
        super().__init__()
        self.token = ""
        self.caller: Caller | None = None
        self.client = ""
        self._places: Places | None = None
        self._opened = False
        self._judging = False
        self._silent = False
        self._early = 0
        self._deadline: Any = None
        self._feeds: dict[str, Feed] = {}
        self._ended: dict[str, None] = {}
        self._watching = ""
        self._todo: deque[tuple[bytes, bool]] = deque()
        self._todo_octets = 0
        self._holding = False
        self._working = False
        self._full = False
        self._gathered = Gathered()
        self._slow: Any = None

    # The handshake

    def processHandshake(self) -> None:
        """Not a second time while the first is being judged."""
        if not self._judging:
            super().processHandshake()

    async def onConnect(self, request: ConnectionRequest) -> None:  # type: ignore[override]  # it may be one
        """Refuse who is not meant to be here. The guard of the API has looked too, where there is one."""
        self._judging = True
        live = self.factory.live
        host = request.headers.get("host", "")
        if not live.hosts.ours(host):
            raise ConnectionDeny(421, "the Host header names none of ours")
        origin = request.headers.get("origin")
        if origin is not None and not live.hosts.same_origin(origin, host):
            raise ConnectionDeny(403, "the Origin header names another web site than ours")
        if request.path != "/v1/events" or request.params:
            # a token in an address ends in logs
            raise ConnectionDeny(400, "connect to /v1/events, without a query")
        self.client = live.forwarded.client(host_of(self.peer), [request.headers.get("x-forwarded-for", "")])
        self._places = live.places()
        try:
            if not await self._places.for_client(self.client):
                raise ConnectionDeny(429, "too many WebSockets are open from your network")
            self.caller = live.everyone
            if self.caller is None:
                await self._admit(request)
        except Temporary:
            raise ConnectionDeny(503, "the database does not answer; try again") from None

    async def _admit(self, request: ConnectionRequest) -> None:
        """By bearer token, or by the session cookie of a browser, which always names its Origin (RFC 6455 §10.2).
        Without either, the client has ``AUTH_SECONDS`` to say who it is."""
        kind, _, secret = request.headers.get("authorization", "").partition(" ")
        origin = request.headers.get("origin")
        session = session_of(request.headers.get("cookie"), https=over_https(origin=origin))
        if secret:
            self.token = secret.strip()
            good = kind.lower() == "bearer" and not is_session(self.token)
        elif is_session(session) and origin is not None:
            self.token = session
            good = True
        else:
            return
        try:
            self.caller = await self.factory.live.holder(self.token, self.client) if good else None
        except Problem as problem:
            raise ConnectionDeny(problem.status, problem.detail) from None
        if self.caller is None:
            raise ConnectionDeny(401, "the token is unknown or has ended")
        if self._places is not None and not await self._places.for_caller(self.caller):
            raise ConnectionDeny(429, "too many WebSockets are open with this token")

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """A refusal as a problem."""
        self.log_.info("A WebSocket of {peer} was refused: {reason}", peer=self.client or self.peer, reason=reason)
        self.sendData(denial(code, reason))

    def onOpen(self) -> None:
        """Say hello, and begin to watch how full the transport is."""
        live = self.factory.live
        self._opened = True
        self._gathered.together = live.gathered
        live.opened(self)
        # twisted.web's channel was the transport's producer until now
        self.transport.unregisterProducer()
        self.transport.registerProducer(self, True)
        self.send(frame({"type": "hello", "heartbeat": live.heartbeat, "auth": self.caller is None}))
        if self.caller is None:
            self._deadline = live.reactor.callLater(
                AUTH_SECONDS, self.drop, UNAUTHENTICATED, "no token came", "unauthenticated"
            )

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Free everything."""
        for feed in self._feeds.values():
            feed.stop()
        self._feeds.clear()
        self._todo.clear()
        self._gathered.clear()
        for timer in (self._deadline, self._slow):
            if timer is not None and timer.active():
                timer.cancel()
        if self._places is not None:
            self._places.leave()
        if self._opened:
            self._opened = False
            self.factory.live.closed(self)

    # What the client says

    def dataReceived(self, data: bytes) -> None:
        """Whatever it says shows that it is there."""
        self._silent = False
        if not self._opened:
            self._early += len(data)
        if self._early > EARLY:
            self.transport.abortConnection()
        else:
            self._dataReceived(data)

    def ping(self) -> None:
        """Ask whether the client is there; drop it if it has said nothing since it was asked last."""
        if self.state != self.STATE_OPEN:
            return
        if self._silent:
            self.onAutoPingTimeout()
            return
        self._silent = True
        self.transport.write(_PING)

    def onPing(self, payload: bytes) -> None:
        """A pong, unless what we said before has not left: one for the last of several will do (RFC 6455 §5.5.3)."""
        if not self._full:
            self.sendPong(payload)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Put in line; one is worked on after the other."""
        self._todo.append((payload, isBinary))
        self._todo_octets += len(payload)
        if not self._holding and (len(self._todo) >= WAITING or self._todo_octets > WAITING_OCTETS):
            self._holding = True
            self.transport.pauseProducing()
        if not self._working:
            self._working = True
            self.factory.live.spawn(self._work())

    async def _work(self) -> None:
        try:
            while self._todo and self.state == self.STATE_OPEN:
                payload, binary = self._todo.popleft()
                self._todo_octets -= len(payload)
                if self._holding and len(self._todo) <= WAITING // 2 and self._todo_octets <= WAITING_OCTETS // 2:
                    self._holding = False
                    self.transport.resumeProducing()
                await self._answer(payload, binary)
        finally:
            self._working = False

    async def _answer(self, payload: bytes, binary: bool) -> None:
        asked = Asked("")
        try:
            asked = read(payload, binary)
            if self.caller is None and asked.op not in ("auth", "ping"):
                raise Problem("unauthenticated", 'say {"op": "auth", "token": ...} first')
            await getattr(self, f"_{asked.op}")(asked)
        except CursorTooOld as error:
            self.send(frame({"type": "resync", "mailbox": asked.mailbox, "oldest": error.oldest, "cursor": error.last}))
        except Problem as problem:
            self._refuse(problem, asked if asked.op else glimpse(payload))
        except (NotFound, Invalid, Conflict) as error:
            self._refuse(Problem("not-found" if isinstance(error, NotFound) else "invalid-value", str(error)), asked)
        except Temporary:
            self._refuse(Problem("unavailable", "the database does not answer; try again"), asked)
        except Exception:
            incident = self.factory.live.incident()
            self.log_.failure("Incident {incident}: {op} failed", incident=incident, op=asked.op)
            self._refuse(
                Problem(
                    "internal-error", "an error inside mailfarm; the log has it under this incident", incident=incident
                ),
                asked,
            )

    def _refuse(self, problem: Problem, asked: Asked) -> None:
        self.send(problem_frame(problem, asked.op, asked.mailbox))

    async def _ping(self, asked: Asked) -> None:
        self.send(_PONG)

    async def _auth(self, asked: Asked) -> None:
        live = self.factory.live
        if live.everyone is None:
            caller = None if is_session(asked.token) else await live.holder(asked.token, self.client)
            if caller is None:
                self.drop(UNAUTHENTICATED, "the token is unknown or has ended", "unauthenticated")
                return
            if self.caller is not None and caller.account != self.caller.account:
                # what is followed and watched here is the first account's
                raise Problem(
                    "invalid-value", "this connection is another account's; open one for this token", name="token"
                )
            # or what is followed here would go on, whatever becomes of the token that allowed it
            for scope, used in (("messages:read", self._feeds), ("mailboxes:read", self._watching)):
                if used and scope not in caller.scopes:
                    raise Problem("scope-missing", f"for what is followed here a token needs {scope}", scope=scope)
            if self._places is not None and not await self._places.for_caller(caller):
                self.drop(TOO_MUCH, "too many WebSockets are open with this token", "too-much")
                return
            self.caller = caller
            self.token = asked.token
            if self._deadline is not None and self._deadline.active():
                self._deadline.cancel()
        self.send(frame({"type": "authenticated"}))

    def _allowed(self, scope: str) -> str:
        """The caller's account. Raises Problem."""
        assert self.caller is not None
        if scope not in self.caller.scopes:
            raise Problem("scope-missing", f"the token lacks the scope {scope}", scope=scope)
        return self.caller.account

    async def _subscribe(self, asked: Asked) -> None:
        account = self._allowed("messages:read")
        if len(self._feeds) >= SUBSCRIPTIONS and asked.mailbox not in self._feeds:
            raise Problem("too-many-subscriptions", f"a connection has at most {SUBSCRIPTIONS} subscriptions")

        def begin(at: int) -> None:
            # only now, so that one that cannot be had leaves the one before as it was
            old = self._feeds.pop(asked.mailbox, None)
            if old is not None:
                old.stop()
            self._ended.pop(asked.mailbox, None)
            self.send(frame({"type": "subscribed", "mailbox": asked.mailbox, "cursor": at}))

        feed = await self.factory.live.feeds.follow(
            account,
            asked.mailbox,
            asked.after,
            partial(self._hear, asked.mailbox),
            criteria=asked.criteria,
            ready=begin,
        )
        if self.state != self.STATE_OPEN:  # closed meanwhile
            feed.stop()
        elif not feed.stopped:
            self._feeds[asked.mailbox] = feed
            if self._gathered.much:
                feed.pause()

    async def _unsubscribe(self, asked: Asked) -> None:
        feed = self._feeds.pop(asked.mailbox, None)
        if feed is not None:
            feed.stop()
        self.send(frame({"type": "unsubscribed", "mailbox": asked.mailbox}))

    async def _watch(self, asked: Asked) -> None:
        account = self._allowed("mailboxes:read")
        if not self._watching:
            await self.factory.live.watch(account, self._tell)
            self._watching = account
            if self.state != self.STATE_OPEN:
                self.factory.live.unwatch(account, self._tell)
                return
        self.send(frame({"type": "watching"}))

    # What we say

    def _hear(self, mailbox: str, told: Sequence[Told]) -> None:
        if type(told[-1]) not in _ENDS:
            self.send(self.factory.live.frames.together(told), len(told))
            return
        *before, last = told
        for each in before:
            self.send(self.factory.live.frames.of(each))
        self._feeds.pop(mailbox, None)
        if isinstance(last, CursorTooOld):
            self.send(frame({"type": "resync", "mailbox": mailbox, "oldest": last.oldest, "cursor": last.last}))
        else:
            self._tell(self.factory.live.frames.of(last), mailbox)

    def _tell(self, octets: bytes, closed: str, frames: int = 1) -> None:
        """Send frames; the end of a mailbox only once, though a subscription and the watch may both say it."""
        if closed:
            if closed in self._ended:
                return
            self._ended[closed] = None
            if len(self._ended) > ENDS_KEPT:
                del self._ended[next(iter(self._ended))]
        self.send(octets, frames)

    def send(self, octets: bytes, frames: int = 1) -> None:
        """Send a frame, or some, now, or gather them while the transport is full."""
        if self.state != self.STATE_OPEN:
            return
        self.factory.live.frames.sent += frames
        if not self._full:
            self.transport.write(octets)
            return
        self._gathered.add(octets)
        if self._gathered.too_much:
            self.drop(TOO_MUCH, "more was asked for than was taken; connect again and resume by cursor", "too-much")
        elif self._gathered.much:
            for feed in self._feeds.values():
                feed.pause()

    def pauseProducing(self) -> None:
        """The transport is full."""
        self._full = True
        if self._slow is None:
            live = self.factory.live
            self._slow = live.reactor.callLater(live.slow_after, self._too_slow)

    def resumeProducing(self) -> None:
        """The transport is empty again."""
        self._full = False
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        if self.state != self.STATE_OPEN:
            return
        # a piece at a time: each that leaves shows that the client takes something, and its time begins anew
        while self._gathered and not self._full:
            self.transport.write(self._gathered.piece())  # which may fill it again
        if not self._full:
            for feed in tuple(self._feeds.values()):
                feed.resume()

    def stopProducing(self) -> None:
        """The transport is gone; onClose follows."""

    def _too_slow(self) -> None:
        self._slow = None
        self.log_.warn("A slow consumer was dropped: {peer}", peer=self.peer)
        self.drop(SLOW, "too slow; connect again and go on after the last seq you had", "slow")

    def drop(self, code: int, reason: str, why: str) -> None:
        """End the connection; ``why`` is its label in the metrics."""
        if self.state != self.STATE_OPEN:
            return
        self.factory.live.counts.dropped.labels(why).inc()
        for feed in self._feeds.values():
            feed.stop()
        self._feeds.clear()
        self._gathered.clear()
        self.sendCloseFrame(code, reason.encode(), isReply=False)
