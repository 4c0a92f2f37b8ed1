"""The Bus port on Redis: a channel a topic, ``mailfarm:bus:<topic>``, and an event's JSON form on it.

Everybody hears through Redis, also in the process that publishes. A process subscribes to a channel while somebody in
it listens to the topic (``redis_topics``). What one reactor pass publishes goes in one call, the next call when that
one is answered, so that order is kept. Events that are alike go as what they have in common, once, and what each has of
its own; Redis puts together only what somebody listens to (``bus_publish.lua``).

While Redis is away ``publish`` keeps the newest ``KEPT`` events, ``subscribe`` returns at once, and what is wanted is
subscribed when Redis is back. Events may have been missed then: who asked for it is told (``missed``). An event whose
call was not answered is published again: it may be heard twice. A kind of event that this version does not know, from
a newer one, is passed over.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mailfarm import events
from mailfarm.events import Event, FiledAlike
from mailfarm.ports import Subscription

from .memory import MemoryBus
from .redis_connection import Argument
from .redis_link import RedisAway, RedisLink, Script
from .redis_topics import Topics

_log = Logger()

KEPT: Final = 50_000
"""Events that wait to be published, and"""
KEPT_OCTETS: Final = 64 * 1024 * 1024
"""the room they have: two batches of mail with a hundred recipients each. Past either the oldest go."""
AT_ONCE: Final = 500
"""Events in one call, and"""
AT_ONCE_OCTETS: Final = 1024 * 1024
"""about as many octets as are published: Redis does nothing else meanwhile, and cuts off whom 32 MB wait for."""
CONFIRM: Final = 1.0
"""Seconds a subscriber waits for Redis to confirm; then it goes on, and hears as soon as Redis has."""
RETRY: Final = 0.25
"""Seconds between two tries to publish while Redis is away."""
MISSED_AT_ONCE: Final = 100
"""How many are told in one go that events may be missing, and"""
MISSED_EVERY: Final = 0.05
"""the seconds between: what they look up then should not come all at once."""

_PREFIX: Final = b"mailfarm:bus:"


class _Told(NamedTuple):
    """Events, at most ``AT_ONCE``: the JSON of one is its head and ``end``. It is told on its channel in ``channels``
    and on ``also``, unless that is empty."""

    channels: Sequence[bytes]
    also: bytes
    heads: Sequence[bytes]
    end: bytes
    octets: int
    """the room it has here, and"""
    published: int
    """that of its events."""


class _Subscription:
    __slots__ = ("_bus", "_inner", "_topic", "missed")

    def __init__(self, bus: RedisBus, topic: str, inner: Subscription, missed: Callable[[], None] | None) -> None:
        self._bus: RedisBus | None = bus
        self._topic = topic
        self._inner = inner
        self.missed = missed

    def stop(self) -> None:
        """Hear nothing more. Idempotent."""
        bus, self._bus = self._bus, None
        if bus is not None:
            self._inner.stop()
            bus._forget(self._topic, self)

    @property
    def stopped(self) -> bool:
        return self._bus is None


class RedisBus:
    """``link`` is for publishing; the bus opens a connection of its own to hear on. Start it, and stop it, while the
    link is."""

    def __init__(self, link: RedisLink, reactor: Any, registry: CollectorRegistry, *, confirm: float = CONFIRM) -> None:
        self._link = link
        self._reactor = reactor
        self._confirm = confirm
        self._script = Script.read("bus_publish.lua")
        self._here = MemoryBus()
        self._listeners: dict[str, int] = {}
        self._telling: dict[_Subscription, None] = {}  # who is to be told that events may be missing
        self._missing: deque[_Subscription] = deque()
        self._missing_timer: Any = None
        self._topics = Topics(link, reactor, heard=self._heard, back=self._back, lost=self._lost)
        self._lost_it = False
        self._outbox: deque[_Told] = deque()
        self._events = 0
        self._octets = 0
        self._sending = False
        self._leaving: Any = None
        self._stopped = False
        self._emptied: list[Deferred[None]] = []
        self._last: tuple[Event | None, bytes] = (None, b"")
        self._published = Counter("mailfarm_bus_published", "Events given to Redis", registry=registry)
        self._dropped = Counter(
            "mailfarm_bus_dropped", "Events nobody will hear: too many waited for Redis", registry=registry
        )
        self._told = Counter("mailfarm_bus_heard", "Events heard from Redis", registry=registry)
        self._ignored = Counter(
            "mailfarm_bus_ignored", "Events heard that this version does not know", registry=registry
        )
        self._up = Gauge("mailfarm_bus_up", "1 while everything wanted is subscribed at Redis", registry=registry)
        self._returns = Counter(
            "mailfarm_bus_returns", "Times it was lost and came back: events may be missing", registry=registry
        )
        self._count = Gauge("mailfarm_bus_topics", "Topics somebody listens to in this process", registry=registry)
        self._count.set_function(lambda: len(self._listeners))

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        self._topics.start()

    async def stop(self) -> None:
        """Publish what waits, for a second at most, and hear nothing more. Idempotent."""
        if self._stopped:
            return
        if self._outbox or self._sending:
            emptied: Deferred[None] = Deferred()
            self._emptied.append(emptied)
            emptied.addTimeout(1.0, self._reactor, lambda *_: None)
            await emptied
        self._stopped = True
        for timer in (self._leaving, self._missing_timer):
            if timer is not None and timer.active():
                timer.cancel()
        await self._topics.stop()

    # --- publishing ---
    def publish(self, topic: str, event: Event) -> None:
        """Tell whoever listens now, wherever. Never waits, never raises."""
        try:
            # most events are told on two topics, one right after the other
            message = self._last[1] if self._last[0] is event else events.to_json(event)
        except Exception:
            _log.failure("an event could not be told to {topic}", topic=topic)
            return
        self._last = (event, message)
        self._keep(_told((_channel(topic),), b"", (message,), b"", True))

    def publish_alike(self, events: FiledAlike, also: str) -> None:
        """Tell each of these events, in order, on its mailbox's topic and on ``also``. Never waits, never raises."""
        channels, heads, end = [_channel(mailbox) for mailbox in events.mailboxes], events.heads, events.end
        most = len(end) + max(map(len, heads), default=0)
        count = max(1, min(AT_ONCE, AT_ONCE_OCTETS // most))
        for start in range(0, len(channels), count):
            some = slice(start, start + count)
            # all of them have one end, and the last to go takes it along
            self._keep(_told(channels[some], _channel(also), heads[some], end, some.stop >= len(channels)))

    def _keep(self, told: _Told) -> None:
        self._outbox.append(told)
        self._events += len(told.heads)
        self._octets += told.octets
        self._trim()
        if not self._sending and self._leaving is None and not self._stopped:
            self._leaving = self._reactor.callLater(0, self._leave)

    def _trim(self) -> None:
        while self._events > KEPT or self._octets > KEPT_OCTETS:
            self._dropped.inc(len(self._take().heads))

    def _take(self) -> _Told:
        told = self._outbox.popleft()
        self._events -= len(told.heads)
        self._octets -= told.octets
        return told

    def _leave(self) -> None:
        self._leaving = None
        batch: list[_Told] = []
        count = octets = 0
        while self._outbox and count + len(self._outbox[0].heads) <= AT_ONCE and (octets < AT_ONCE_OCTETS or not batch):
            batch.append(self._take())
            count += len(batch[-1].heads)
            octets += batch[-1].published
        if not batch:
            for emptied in self._emptied:
                if not emptied.called:
                    emptied.callback(None)
            return
        self._sending = True
        call = self._link.evalsha(self._script, (), _words(batch))
        call.addCallbacks(self._left, self._kept_back, callbackArgs=(count,), errbackArgs=(batch,))

    def _left(self, _: Any, count: int) -> None:
        self._published.inc(count)
        self._sending = False
        if not self._stopped:
            self._leave()

    def _kept_back(self, failure: Any, batch: list[_Told]) -> None:
        if not failure.check(RedisAway):
            _log.failure("events could not be published", failure)
        self._outbox.extendleft(reversed(batch))
        self._events += sum(len(told.heads) for told in batch)
        self._octets += sum(told.octets for told in batch)
        self._trim()
        self._sending = False
        if not self._stopped:
            self._leaving = self._reactor.callLater(RETRY, self._leave)

    # --- hearing ---
    def subscribe(
        self, topic: str, hear: Callable[[Event], None], missed: Callable[[], None] | None = None
    ) -> Deferred[Subscription]:
        """Hear ``topic`` from the moment this fires: when Redis has confirmed, or is away, or takes too long."""
        made: list[Subscription] = []
        self._here.subscribe(topic, hear).addCallback(made.append)
        subscription = _Subscription(self, topic, made[0], missed)
        self._listeners[topic] = self._listeners.get(topic, 0) + 1
        confirmed = self._topics.want(_channel(topic))

        def done(_: Any) -> Subscription:
            if missed is not None and not subscription.stopped:
                self._telling[subscription] = None
            return subscription

        if confirmed is None or self._lost_it:
            return succeed(done(None))
        waiting: Deferred[None] = Deferred()
        late = self._reactor.callLater(self._confirm, waiting.callback, None)

        def in_time(_: Any) -> None:
            if late.active():
                late.cancel()
                waiting.callback(None)

        def cancelled(failure: Any) -> Any:
            if late.active():
                late.cancel()
            subscription.stop()
            return failure

        confirmed.addCallback(in_time)
        return waiting.addCallbacks(done, cancelled)

    def _forget(self, topic: str, subscription: _Subscription) -> None:
        self._telling.pop(subscription, None)
        left = self._listeners[topic] - 1
        if left:
            self._listeners[topic] = left
        else:
            del self._listeners[topic]
            self._topics.leave(_channel(topic))

    def _heard(self, channel: bytes, message: bytes) -> None:
        topic = channel[len(_PREFIX) :].decode("utf-8", "surrogateescape")
        if topic not in self._listeners:
            return
        try:
            event = events.from_json(message)
        except ValueError as error:
            self._ignored.inc()
            _log.debug("passed over what {topic} told: {error}", topic=topic, error=str(error))
            return
        self._told.inc()
        self._here.publish(topic, event)

    def _back(self) -> None:
        self._up.set(1)
        if self._lost_it:
            self._lost_it = False
            self._returns.inc()
            _log.info("the bus hears again; what it missed is looked up")
            self._missing = deque(self._telling)
            if self._missing_timer is None or not self._missing_timer.active():
                self._tell_missing()

    def _lost(self, why: str) -> None:
        self._up.set(0)
        if not self._lost_it and not self._stopped:
            _log.warn("the bus hears nothing: {why}", why=why)
        self._lost_it = True

    def _tell_missing(self) -> None:
        for _ in range(min(MISSED_AT_ONCE, len(self._missing))):
            subscription = self._missing.popleft()
            if not subscription.stopped and subscription.missed is not None:
                try:
                    subscription.missed()
                except Exception:
                    _log.failure("who was told that events may be missing failed")
        if self._missing:
            self._missing_timer = self._reactor.callLater(MISSED_EVERY, self._tell_missing)


def _told(channels: Sequence[bytes], also: bytes, heads: Sequence[bytes], end: bytes, last: bool) -> _Told:
    own = sum(map(len, heads))
    octets = sum(map(len, channels)) + len(also) + own + (len(end) if last else 0)
    return _Told(channels, also, heads, end, octets, own + len(end) * len(heads))


def _words(batch: Sequence[_Told]) -> list[Argument]:
    """A batch as the script reads it."""
    places: dict[bytes, int] = {b"": 0}
    words: list[Argument] = []
    for told in batch:
        numbers = [places.setdefault(told.also, len(places))]
        for channel, head in zip(told.channels, told.heads, strict=True):
            numbers += (len(head), places.setdefault(channel, len(places)))
        words += (told.end, b"".join(told.heads), struct.pack(f"<{len(numbers)}I", *numbers))
    del places[b""]
    return [len(places), *places, *words]


def _channel(topic: str) -> bytes:
    return _PREFIX + topic.encode("utf-8", "surrogateescape")
