"""The service: who is connected, what they share, where it listens and how it stops."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import orjson
from autobahn.twisted.resource import WebSocketResource
from autobahn.twisted.websocket import WebSocketServerFactory
from prometheus_client import CollectorRegistry, Counter, Gauge, Metric
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.web.resource import IResource, Resource
from zope.interface import implementer

from mailfarm.accounts.allowance import SetOf, again
from mailfarm.accounts.bearer import Caller, everyone, holders
from mailfarm.accounts.guesses import Guesses
from mailfarm.accounts.limit_sets import WITHOUT_A_FILE, LimitSets
from mailfarm.accounts.secret import digest
from mailfarm.events import LOOKUP, Event, Revoked
from mailfarm.mailboxes.crowd import AT_ONCE
from mailfarm.mailboxes.feed import Feeds, Spawn
from mailfarm.net.clients import limited_as
from mailfarm.net.forwarded import Forwarded
from mailfarm.net.hosts import Hosts
from mailfarm.net.lookups import Lookups, lookup_counter
from mailfarm.net.plain_site import PlainSite
from mailfarm.net.problems import MEDIA_TYPE, Problem
from mailfarm.ports import Bus, Database, Limiter, Subscription

from .connection import STOPPING, UNAUTHENTICATED, Connection
from .frames import EventFrames
from .gathered import Together
from .places import Places
from .watch import Tell, Watch

MAX_MESSAGE = 64 * 1024
CLOSING = 2.0
"""Seconds a peer has to answer our close frame: it says nothing that the peer could not also learn from the cut."""
BEATS = 10.0
"""So many times in a heartbeat we look whose ping is due, but not more often than each"""
BEAT = 0.05
"""seconds."""
RECHECK = 5.0
"""Seconds between two looks whether the tokens of open connections still hold, should the bus have lost that."""


class Counts(Collector):
    """``mailfarm_live_*``."""

    def __init__(self, registry: CollectorRegistry, frames: EventFrames) -> None:
        self._frames = frames
        registry.register(self)
        self.connections = Gauge("mailfarm_live_connections", "Open WebSockets", registry=registry)
        self.dropped = Counter("mailfarm_live_dropped", "Connections we ended", ("why",), registry=registry)
        self.subscriptions = Gauge("mailfarm_live_subscriptions", "Mailboxes followed, by waits too", registry=registry)

    def collect(self) -> Iterator[Metric]:
        """Frames are counted where they are made: a metric's own lock for each of thousands takes longer than all
        else we do for one."""
        yield CounterMetricFamily("mailfarm_live_frames", "Frames sent", value=self._frames.sent)


class Live:
    """The WebSocket. ``resource`` can be mounted at ``/v1/events`` of another Site; ``site`` is one of its own.

    ``account`` is whose everything is where nobody signs in; None asks for a token. ``incident`` makes an id for the
    log. ``heartbeat`` and ``slow_after`` are seconds. Calling ``feeds.look`` is others' job.
    """

    log = Logger()

    def __init__(
        self,
        *,
        endpoints: Sequence[Any] = (),
        database: Database,
        bus: Bus,
        feeds: Feeds,
        spawn: Spawn,
        reactor: Any,
        account: str | None,
        incident: Callable[[], str],
        hosts: Sequence[str] = (),
        max_connections: int = 20_000,
        heartbeat: float = 30.0,
        slow_after: float = 15.0,
        registry: CollectorRegistry | None = None,
        status: Resource | None = None,
        limiter: Limiter | None = None,
        limits: LimitSets = WITHOUT_A_FILE,
        forwarded_from: Iterable[IPv4Network | IPv6Network] = (),
    ) -> None:
        self.listening: list[Any] = []
        self.feeds = feeds
        self.spawn = spawn
        self.reactor = reactor
        self.incident = incident
        self.heartbeat = heartbeat
        self.slow_after = slow_after
        self.hosts = Hosts(hosts)
        self.everyone = None if account is None else everyone(account)
        self.frames = EventFrames()
        self.gathered = Together()
        registry = registry or CollectorRegistry()
        self.counts = Counts(registry, self.frames)
        self.forwarded = Forwarded(forwarded_from)
        set_of = SetOf(limits, database)
        self.places = lambda: Places(limiter, limits.client.websockets, set_of)
        # counted together with the API's
        self._guesses = None if limiter is None else Guesses("api", limiter, limits.client.failed_tokens, None)
        self.tokens: Lookups[bytes, Caller | None] = Lookups(
            "token",
            lambda digests: holders(database, digests),
            reactor=reactor,
            counter=lookup_counter(registry, "live"),
        )
        self._hearing: Subscription | None = None
        self.counts.subscriptions.set_function(lambda: len(feeds))
        self.connections: OrderedDict[Connection, float] = OrderedDict()
        """When each is pinged next, the first one first."""
        self._database = database
        self._bus = bus
        self._endpoints = endpoints
        self._ports: list[Any] = []
        self._watches: dict[str, Watch] = {}
        self._empty: Deferred[None] | None = None
        self._recheck = LoopingCall(self._go_on, self._look_at_tokens)
        self._recheck.clock = reactor
        self._beats = LoopingCall(self._go_on, self._ping_who_is_due)
        self._beats.clock = reactor
        self.factory = _factory(self, max_connections)
        self.resource = WebSocketResource(self.factory)
        root: Any = _Root(self.resource, status)
        self.site = PlainSite(
            root,
            self.hosts,
            service="live",
            most=max_connections,
            reactor=reactor,
            timeout=10,  # as long as a handshake may take
            registry=registry,
            besides=lambda: len(self.connections),
        )

    async def start(self) -> None:
        """Listen. Raises twisted's CannotListenError."""
        if self.everyone is None:
            self._hearing = await self._bus.subscribe(LOOKUP, self._hear, self.tokens.doubt)
        for endpoint in self._endpoints:
            port = await endpoint.listen(self.site)
            self._ports.append(port)
            self.listening.append(port.getHost())
        if self.everyone is None:
            self._recheck.start(RECHECK, now=False)
        self._beats.start(max(BEAT, self.heartbeat / BEATS), now=False)

    async def stop(self) -> None:
        """Listen no more, tell everyone to go, and cut off who has not after ``CLOSING`` seconds."""
        for port in self._ports:
            await port.stopListening()
        self._ports.clear()
        if self._hearing is not None:
            self._hearing.stop()
        for each in (self._recheck, self._beats):
            if each.running:
                each.stop()
        self.factory.setProtocolOptions(maxConnections=1)
        if self.connections:
            self._empty = Deferred()
            for connection in tuple(self.connections):
                connection.drop(STOPPING, "the service stops; connect again", "stopping")
            await self._empty  # closeHandshakeTimeout bounds it
        for watch in self._watches.values():
            watch.stop()
        self._watches.clear()

    async def holder(self, token: str, client: str) -> Caller | None:
        """Who holds this token, that ``client`` shows. Raises DatabaseUnavailable; Problem: too-many-requests."""
        key, secret = limited_as(client), digest(token)
        if self._guesses is not None and not self.tokens.has(secret):
            refused = await self._guesses.too_many(key, "")
            if refused is not None:
                why = "too many tokens from your network were unknown or had ended"
                raise Problem("too-many-requests", f"{why}; {again(refused.wait)}")
        found = await self.tokens.get(secret)
        if found is None and self._guesses is not None:
            await self._guesses.count(key, "")
        return found

    def _hear(self, event: Event) -> None:
        if not isinstance(event, Revoked):
            return
        self.tokens.forget(event.what)

        def ended(connection: Connection) -> bool:
            caller = connection.caller
            return caller is not None and event.what in (caller.token, caller.session)

        self.spawn(self._end([each for each in self.connections if ended(each)], ended))

    async def _end(self, connections: Sequence[Connection], ended: Callable[[Connection], bool]) -> None:
        """Drop those whose token has ended, some, then others have their turn; and not who shows another one since."""
        for number, connection in enumerate(connections):
            if number and not number % AT_ONCE:
                await self.feeds.turn()
            if ended(connection):
                connection.drop(UNAUTHENTICATED, "the token has ended", "unauthenticated")

    def opened(self, connection: Connection) -> None:
        """A connection has begun."""
        self.connections[connection] = self.reactor.seconds() + self.heartbeat
        self.counts.connections.inc()

    def closed(self, connection: Connection) -> None:
        """A connection has ended."""
        self.connections.pop(connection, None)
        self.counts.connections.dec()
        if connection.caller is not None:
            self.unwatch(connection.caller.account, connection._tell)
        if not self.connections and self._empty is not None:
            empty, self._empty = self._empty, None
            empty.callback(None)

    async def watch(self, account: str, tell: Tell) -> None:
        """Tell of the account's mailboxes from now on."""
        watch = self._watches.get(account)
        if watch is None:
            turn = self.feeds.turn
            watch = Watch(account, self._database, self._bus, self.spawn, turn, self.reactor, self.frames)
            self._watches[account] = watch
        watch.telling[tell] = None
        try:
            await watch.start()
        except BaseException:
            self.unwatch(account, tell)
            raise

    def unwatch(self, account: str, tell: Tell) -> None:
        """Tell no more."""
        watch = self._watches.get(account)
        if watch is not None:
            watch.telling.pop(tell, None)
            if not watch.telling:
                del self._watches[account]
                watch.stop()

    async def _go_on(self, look: Callable[[], Awaitable[None]]) -> None:
        """A look that fails is not the last one."""
        try:
            await look()
        except Exception:
            self.log.failure("A look at the open connections failed; the next one goes on")

    async def _ping_who_is_due(self) -> None:
        """Ping, some at once, then others have their turn: thousands that came together are due together."""
        pinged = 0
        while self.connections:
            connection, due = next(iter(self.connections.items()))
            now = self.reactor.seconds()
            if due > now:
                return
            self.connections[connection] = now + self.heartbeat
            self.connections.move_to_end(connection)
            connection.ping()
            pinged += 1
            if not pinged % AT_ONCE:
                await self.feeds.turn()

    async def _look_at_tokens(self) -> None:
        """A token that was revoked or has expired ends its connections."""
        by_token: dict[str, list[Connection]] = {}
        for connection in self.connections:
            if connection.token:
                by_token.setdefault(connection.token, []).append(connection)
        tokens = tuple(by_token)
        for start in range(0, len(tokens), AT_ONCE):
            if start:
                await self.feeds.turn()
            some = tokens[start : start + AT_ONCE]
            answers = await DeferredList([self.tokens.ask(digest(token)) for token in some], consumeErrors=True)
            for token, (answered, caller) in zip(some, answers, strict=True):
                if answered and caller is None:
                    await self._end(by_token[token], partial(_shows, token))


def _shows(token: str, connection: Connection) -> bool:
    return connection.token == token


def _factory(live: Live, max_connections: int) -> Any:
    factory: Any = WebSocketServerFactory(reactor=live.reactor)
    factory.protocol = Connection
    factory.live = live
    factory.noisy = False
    factory.setProtocolOptions(
        webStatus=False,
        maxConnections=max_connections,
        maxMessagePayloadSize=MAX_MESSAGE,
        maxFramePayloadSize=MAX_MESSAGE,
        openHandshakeTimeout=10,
        closeHandshakeTimeout=CLOSING,
        failByDrop=False,  # say why (1009 and so on), then close
        allowNullOrigin=True,  # not allowed: Connection.onConnect says 403, Autobahn would say 400
        tcpNoDelay=True,
        # permessage-deflate stays off: 140 KB a connection
    )
    return factory


@implementer(IResource)
class _Root(Resource):
    """The WebSocket and the pages about the process; nothing else."""

    isLeaf = True

    def __init__(self, websocket: Any, status: Resource | None) -> None:
        super().__init__()
        self._pages: dict[bytes, Any] = {b"/v1/events": websocket}
        if status is not None:
            self._pages |= {b"/" + name: page for name, page in status.children.items()}

    def render(self, request: Any) -> Any:
        page = self._pages.get(request.path)
        if page is not None:
            answer = page.render(request)
            request.site.handed_over(request)
            return answer
        problem = Problem("no-such-route", "there is nothing at this path")
        request.setResponseCode(problem.status)
        request.setHeader("Content-Type", MEDIA_TYPE)
        request.setHeader("X-Content-Type-Options", "nosniff")
        return orjson.dumps(problem.document())
