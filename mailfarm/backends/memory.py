"""Bus and Limiter in memory, for one process."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from mailfarm.events import Event
from mailfarm.limits import Limit, gcra
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

    def subscribe(self, topic: str, hear: Callable[[Event], None]) -> Deferred[_Subscription]:
        """Hear ``topic`` from now on."""
        subscription = _Subscription(self, topic, hear)
        self._topics.setdefault(topic, {})[subscription] = None
        return succeed(subscription)

    def _forget(self, topic: str, subscription: _Subscription) -> None:
        listeners = self._topics[topic]
        del listeners[subscription]
        if not listeners:
            del self._topics[topic]


class MemoryLimiter:
    """The Limiter port for one process. ``clock`` gives seconds that never go back (``time.monotonic``)."""

    def __init__(self, clock: Callable[[], float], keys: int = KEYS) -> None:
        self._clock = clock
        self._keys = keys
        self._tats: OrderedDict[tuple[str, Limit], float] = OrderedDict()

    def charge(self, charges: Sequence[Charge]) -> Deferred[Refusal | None]:
        """None when all are allowed, and then all are charged; else the first that is not."""
        now = self._clock()
        tats = self._tats
        changed: dict[tuple[str, Limit], float] = {}
        for charge in charges:
            key = (charge.key, charge.limit)
            tat = changed.get(key)
            if tat is None:
                tat = tats.get(key, 0.0)
            wait, after = gcra(tat, now, charge.limit, charge.cost)
            if wait:
                return succeed(Refusal(charge.key, wait))
            if charge.cost:
                changed[key] = after
        for key, tat in changed.items():
            tats[key] = tat
            tats.move_to_end(key)
        while len(tats) > self._keys:
            tats.popitem(last=False)
        return succeed(None)
