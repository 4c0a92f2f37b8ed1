"""What a queue on Redis tells Prometheus: ``mailfarm_queue_…``, by queue and by shard.

Each process counts its own calls. ``entries``, ``octets`` and ``oldest_seconds`` are of the whole shard, as this
process saw it within the last second; take the maximum over processes.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mailfarm.ports import Depth

_LABELS = ("queue", "shard")
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class QueueMetrics:
    """The metrics of every queue in a registry; ask ``of`` for them, for they can be made only once."""

    _made: WeakKeyDictionary[CollectorRegistry, QueueMetrics] = WeakKeyDictionary()

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"mailfarm_queue_{name}", text, (*_LABELS, *labels), registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"mailfarm_queue_{name}", text, (*_LABELS, *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            labels = (*_LABELS, *labels)
            return Histogram(f"mailfarm_queue_{name}", text, labels, buckets=buckets, registry=registry)

        self.puts = counter("puts", "Entries put, by outcome: stored, full, unavailable", "outcome")
        self.taken = counter("taken", "Entries handed out")
        self.done = counter("done", "Entries ended")
        self.given_up = counter("given_up", "Turns given up for another try or to set the entry aside")
        self.errors = counter("call_errors", "Calls that failed, by call", "call")
        self.seconds = histogram("call_seconds", "Time until a call was answered, by call", _SECONDS, "call")
        self.put_entries = histogram("put_entries", "Entries in one put call", _SIZES)
        self.take_entries = histogram("take_entries", "Entries in one take that gave any", _SIZES)
        self.up = gauge("up", "1 when the shard answers and keeps what it is given")
        self.entries = gauge("entries", "Entries by state: waiting, leased, aside", "state")
        self.octets = gauge("octets", "Octets of content")
        self.oldest = gauge("oldest_seconds", "Age of the oldest entry that waits; 0 when none does")
        self.wait = gauge("wait_seconds", "How long until what is put now will be filed; 0 when nobody works it off")
        self.memory = gauge("memory_share", "The part of the server's memory limit that is used; 0 without a limit")

    @classmethod
    def of(cls, registry: CollectorRegistry) -> QueueMetrics:
        """The ones of this registry, made when first asked for."""
        made = cls._made.get(registry)
        if made is None:
            made = cls._made[registry] = cls(registry)
        return made


class ShardMetrics:
    """The metrics of one queue on one shard."""

    def __init__(self, registry: CollectorRegistry, queue: str, shard: str) -> None:
        all = QueueMetrics.of(registry)
        self._all = all
        self._labels = labels = (queue, shard)
        self.stored = all.puts.labels(*labels, "stored")
        self.full = all.puts.labels(*labels, "full")
        self.unavailable = all.puts.labels(*labels, "unavailable")
        self.taken = all.taken.labels(*labels)
        self.done = all.done.labels(*labels)
        self.given_up = all.given_up.labels(*labels)
        self.put_entries = all.put_entries.labels(*labels)
        self.take_entries = all.take_entries.labels(*labels)
        self.up = all.up.labels(*labels)
        self.octets = all.octets.labels(*labels)
        self.oldest = all.oldest.labels(*labels)
        self.wait = all.wait.labels(*labels)
        self.memory = all.memory.labels(*labels)
        self._states = {state: all.entries.labels(*labels, state) for state in ("waiting", "leased", "aside")}
        self._seconds: dict[str, Histogram] = {}

    def called(self, call: str, seconds: float) -> None:
        """A call was answered."""
        histogram = self._seconds.get(call)
        if histogram is None:
            histogram = self._seconds[call] = self._all.seconds.labels(*self._labels, call)
        histogram.observe(seconds)

    def failed(self, call: str) -> None:
        """A call failed."""
        self._all.errors.labels(*self._labels, call).inc()

    def saw(self, depth: Depth, octets: int, now: int, wait: float) -> None:
        """The shard's depth, at ``now`` µs since 1970, and the seconds a new entry will wait."""
        self.wait.set(wait)
        self._states["waiting"].set(depth.waiting)
        self._states["leased"].set(depth.leased)
        self._states["aside"].set(depth.aside)
        self.octets.set(octets)
        self.oldest.set(0.0 if depth.oldest is None else max(0.0, (now - depth.oldest) / 1_000_000))
