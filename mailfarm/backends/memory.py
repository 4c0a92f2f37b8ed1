"""Bus and Limiter in memory, for one process."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mailfarm.events import Event, FiledAlike
from mailfarm.limits import Limit, Quota, gcra
from mailfarm.ports import Charge, Refusal

_log = Logger()

KEYS = 100_000
"""How many keys a limiter remembers: about 30 MB. Past it, the key that was longest not charged is forgotten."""


class _Subscription:
    __slots__ = ("_bus", "_topic", "hear")

    def __init__(self, bus: MemoryBus, topic: str, hear: Callable[[Event], None]) -> None:
        self._bus: MemoryBus | None = bus
        self._topic = topic
        self.hear = hear

    def stop(self) -> None:
        """Hear nothing more, not even of an event that is being told right now. Idempotent."""
        bus, self._bus = self._bus, None
        if bus is not None:
            bus._forget(self._topic, self)

    @property
    def stopped(self) -> bool:
        return self._bus is None


class MemoryBus:
    """The Bus port for one process. ``publish`` tells everyone before it returns, in the order they subscribed."""

    def __init__(self) -> None:
        self._topics: dict[str, dict[_Subscription, None]] = {}

    def publish(self, topic: str, event: Event) -> None:
        """Tell whoever listens now; what a listener raises is logged and does not reach the others."""
        listeners = self._topics.get(topic)
        if listeners is None:
            return
        for subscription in tuple(listeners):  # a listener may stop itself or others, or subscribe
            if subscription.stopped:
                continue
            try:
                subscription.hear(event)
            except Exception:
                _log.failure("a listener of {topic} failed", topic=topic)

    def publish_alike(self, events: FiledAlike, also: str) -> None:
        """Tell each of these events, in order, on its mailbox's topic and on ``also``. One that nobody listens to is
        not made."""
        for number, mailbox in enumerate(events.mailboxes):
            topics = [topic for topic in (mailbox, also) if topic in self._topics]
            if topics:
                event = events.event(number)
                for topic in topics:
                    self.publish(topic, event)

    def subscribe(
        self, topic: str, hear: Callable[[Event], None], missed: Callable[[], None] | None = None
    ) -> Deferred[_Subscription]:
        """Hear ``topic`` from now on. Nothing is ever missed."""
        subscription = _Subscription(self, topic, hear)
        self._topics.setdefault(topic, {})[subscription] = None
        return succeed(subscription)

    def _forget(self, topic: str, subscription: _Subscription) -> None:
        listeners = self._topics[topic]
        del listeners[subscription]
        if not listeners:
            del self._topics[topic]


class _Hold:
    __slots__ = ("_key", "_limiter")

    def __init__(self, limiter: MemoryLimiter, key: str) -> None:
        self._limiter: MemoryLimiter | None = limiter
        self._key = key

    def release(self) -> None:
        """Give the place back. Idempotent."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._release(self._key)


class MemoryLimiter:
    """The Limiter port for one process. ``clock`` gives seconds that never go back (``time.monotonic``), for rates;
    ``wall`` seconds since 1970, for quotas.

    It remembers at most ``keys`` rates and quotas, and as many keys of places as somebody holds one of.
    """

    def __init__(self, clock: Callable[[], float], keys: int = KEYS, *, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._keys = keys
        # a rate's arrival time under (key, limit); a quota's window and use under (key, period), as a quota that is
        # raised or lowered keeps what was used
        self._counts: OrderedDict[tuple[str, Limit | int], tuple[float, int]] = OrderedDict()
        self._places: dict[str, int] = {}

    def charge(self, charges: Sequence[Charge]) -> Deferred[Refusal | None]:
        """None when all are allowed, and then all are charged; else the first that is not."""
        now, wall = self._clock(), self._wall()
        counts = self._counts
        changed: dict[tuple[str, Limit | int], tuple[float, int]] = {}
        for charge in charges:
            limit, cost = charge.limit, charge.cost
            key = (charge.key, limit if isinstance(limit, Limit) else limit.period)
            stood = changed.get(key) or counts.get(key, _NOTHING)
            if isinstance(limit, Quota):
                wait, after = _spend(stood, wall, limit, cost)
            else:
                wait, tat = gcra(stood[0], now, limit, cost)
                after = (tat, 0)
            if wait:
                return succeed(Refusal(charge.key, wait))
            if cost:
                changed[key] = after
        for key, after in changed.items():
            counts[key] = after
            counts.move_to_end(key)
        while len(counts) > self._keys:
            counts.popitem(last=False)
        return succeed(None)

    def far(self, charges: Sequence[Charge]) -> bool:
        """False: nothing is remembered where nobody waits for an answer."""
        return False

    def enter(self, charges: Sequence[Charge], key: str, most: int) -> Deferred[_Hold | Refusal | None]:
        """Charge, and take a place if that is allowed."""
        return self.charge(charges).addCallback(lambda refusal: refusal or self.hold(key, most))

    def hold(self, key: str, most: int) -> Deferred[_Hold | None]:
        """A place of ``key``, or None when ``most`` are taken."""
        taken = self._places.get(key, 0)
        if taken >= most:
            return succeed(None)
        self._places[key] = taken + 1
        return succeed(_Hold(self, key))

    def _release(self, key: str) -> None:
        left = self._places[key] - 1
        if left:
            self._places[key] = left
        else:
            del self._places[key]


_NOTHING = (0.0, 0)


def _spend(stood: tuple[float, int], wall: float, quota: Quota, cost: int) -> tuple[float, tuple[float, int]]:
    """Like ``gcra``: (wait, what stands then), with what stands being (number of the window, units used in it)."""
    if cost < 0:
        raise ValueError("a cost below 0 would give units back")
    units = cost or 1
    if units > quota.count:
        return float("inf"), stood
    number, left = quota.window(wall)
    # a clock that was put back does not open a window anew; but one that was far ahead is not waited for
    number, used = (int(stood[0]), stood[1]) if stood[0] in (number, number + 1) else (number, 0)
    if used + units > quota.count:
        return left + (number - int(wall // quota.period)) * quota.period, stood
    return 0.0, (number, used + cost)
