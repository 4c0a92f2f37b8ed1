"""Look-ups that remember: a bounded cache of mailboxes, credentials and tokens in front of the database.

Each answer comes from a look that began at most ``FRESH`` seconds ago, whatever the bus may have lost. What is asked
for again and again is looked up again in the background half way there, so nobody waits for it. What the bus says has
changed is forgotten at once, also by a look that is under way.

=====================================  ================================================================
what a look found                      how it is kept
=====================================  ================================================================
something of its own (``keep="yes"``)  for ``FRESH`` seconds; longer while the database is away
a second choice (``keep="away"``)      served only while the database is away: the first choice may be made any moment
the same for many (``keep="share"``)   never served: kept to ``share`` it with each that it was an answer for
nothing (``keep="no"``)                not at all: what was made a moment ago is found
=====================================  ================================================================

The database is away when a look failed in the last ``FRESH`` seconds, while a look goes on that began within them, or
when one has taken ``SLOW`` seconds and goes on. Then what is known serves on, for ``AWAY`` seconds after it was last
looked up, and nobody waits: one look at a time finds out in the background whether the database is back. What is not
known fails as the look does.

Nothing outlives its end: an answer with ``ends_at`` is served before that only, by the database's clock as it was at
the look and the time that has passed since, or by our own, whichever is later. What seems to have ended is asked for.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Final, Generic, Literal, Protocol, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailfarm.errors import DatabaseUnavailable

from .gather import Gather

K = TypeVar("K")
V = TypeVar("V")
V_co = TypeVar("V_co", covariant=True)

MOST: Final = 20_000
"""Answers kept, about 1 KB each; past it the one that was longest not asked for is forgotten."""
FRESH: Final = 5.0
"""Seconds an answer is served for while the database is there."""
AWAY: Final = 3600.0
"""Seconds an answer is served for while the database is away."""
SLOW: Final = 2.5
"""Seconds of a look after which the database counts as away. Half of FRESH, so that what is looked up again half way
there is either new, or known to be away, before FRESH is over."""
PATIENCE: Final = 5.0
"""Seconds somebody waits for a look."""
LONGEST: Final = 30.0
"""Seconds after which a look is given up, so that the next can begin."""


class Answer(Protocol[V_co]):
    """A look's answer for one key. ``now`` is the database's clock and ``ends_at`` the end of what was found, in
    microseconds. ``about`` are the ids and names it depends on: see ``Lookups.forget``."""

    @property
    def value(self) -> V_co: ...
    @property
    def now(self) -> int: ...
    @property
    def keep(self) -> Literal["yes", "away", "share", "no"]: ...
    @property
    def ends_at(self) -> int | None: ...
    @property
    def about(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Found(Generic[V]):
    """The common form of an ``Answer``."""

    value: V
    now: int
    keep: Literal["yes", "away", "share", "no"] = "no"
    ends_at: int | None = None
    about: tuple[str, ...] = ()


@dataclass(slots=True)
class _Kept(Generic[V]):
    found: Answer[V]
    began: float


class Counts:
    """How many look-ups of one kind there were, by outcome."""

    __slots__ = ("asked", "away", "failed", "remembered")

    def __init__(self) -> None:
        self.remembered = self.asked = self.failed = self.away = 0


class LookupCounter(Collector):
    """``mailfarm_<service>_lookups_total``, one for all the look-ups of a service. Plain numbers, read at a scrape."""

    def __init__(self, service: str) -> None:
        self._name = f"mailfarm_{service}_lookups"
        self._kinds: dict[str, Counts] = {}

    def of(self, kind: str) -> Counts:
        """The counts of look-ups of this kind."""
        return self._kinds.setdefault(kind, Counts())

    def collect(self) -> Iterator[Metric]:
        """What the registry asks for."""
        about = (
            "Look-ups of mailboxes, credentials, tokens: remembered, asked, failed, or served with the database away"
        )
        family = CounterMetricFamily(self._name, about, labels=("of", "outcome"))
        for kind, counts in self._kinds.items():
            for outcome in Counts.__slots__:
                family.add_metric((kind, outcome), getattr(counts, outcome))
        yield family

    def describe(self) -> Iterator[Metric]:
        """The same: the name, so that no two collectors of a registry have it."""
        return self.collect()


def lookup_counter(registry: CollectorRegistry, service: str) -> LookupCounter:
    """The counter of a service, in a registry."""
    counter = LookupCounter(service)
    registry.register(counter)
    return counter


class Lookups(Generic[K, V]):
    """Answers of ``look``, which is given keys without doubles and answers with an ``Answer`` for each.

    ``of`` says what is looked up ("mailbox"), for the log and the ``counter``. ``reactor`` keeps time for those who
    wait; ``clock`` gives microseconds since 1970 and ``seconds`` never goes back.
    """

    log = Logger()

    def __init__(
        self,
        of: str,
        look: Callable[[Sequence[K]], Awaitable[Mapping[K, Answer[V]]]],
        *,
        reactor: Any,
        counter: LookupCounter,
        clock: Callable[[], int] = lambda: time.time_ns() // 1000,
        seconds: Callable[[], float] = time.monotonic,
        most: int = MOST,
    ) -> None:
        self._of = of
        self._look = look
        self._reactor = reactor
        self._clock = clock
        self._seconds = seconds
        self._most = most
        self._gather: Gather[K, V] = Gather(self._ask)
        self._kept: OrderedDict[K, _Kept[V]] = OrderedDict()
        self._by_name: dict[str, set[K]] = {}
        self._renewing: set[K] = set()
        self._looking: float | None = None
        self._trying = False
        self._failed: float | None = None
        self._doubted = -inf
        self._forgotten: set[str] = set()
        self._all_forgotten = False
        self._counts = counter.of(of)

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: K) -> V:
        """The value of ``key``, remembered or asked for. Raises what the look raises; DatabaseUnavailable when nobody
        answers within ``PATIENCE``."""
        kept = self.known(key)
        if kept is not None:
            return kept.value
        try:
            return await self.ask(key)
        except Exception:
            kept = self.known(key)
            if kept is None:
                raise
            return kept.value

    def known(self, key: K, *, renew: bool = True) -> Answer[V] | None:
        """What is remembered of ``key`` and may be served now, without waiting. Without ``renew`` it is not looked up
        again for being asked: that would show in the time the next look takes."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        found = kept.found
        now = self._seconds()
        age = now - kept.began
        ends_at = found.ends_at
        if (
            age > AWAY
            or found.keep == "share"
            or (ends_at is not None and ends_at <= max(self._clock(), found.now + int(age * 1e6)))
        ):
            return None
        if age <= FRESH and found.keep == "yes" and kept.began >= self._doubted:
            self._counts.remembered += 1
            if renew and age > FRESH / 2:
                self._renew(key)
        elif self.away:
            self._counts.away += 1
            if renew and self._looking is None and self._failed is not None and now - self._failed > FRESH / 2:
                self._renew(key)
        else:
            return None
        self._kept.move_to_end(key)
        return found

    def share(self, source: K, key: K, name: str) -> None:
        """Keep what is kept to be shared under ``source`` for ``key`` too, as a second choice. In the place of the last
        of the names it is about comes ``name``. Nothing happens if it was forgotten, or ``key`` was looked up since."""
        kept, old = self._kept.get(source), self._kept.get(key)
        if kept is not None and kept.found.keep == "share" and (old is None or old.began < kept.began):
            found = kept.found
            about = (*found.about[:-1], name)
            self._keep(key, Found(found.value, found.now, "away", found.ends_at, about), kept.began)

    def has(self, key: K) -> bool:
        """Whether something was found under ``key`` lately, whether it may be served or not: asking is no guess."""
        return key in self._kept

    def ask(self, key: K) -> Deferred[V]:
        """The value of ``key`` from a look that begins now. Fails as the look does, or with DatabaseUnavailable."""
        self._counts.asked += 1
        return self._gather.get(key).addTimeout(PATIENCE, self._reactor, too_late)

    def begin(self, keys: Sequence[K]) -> list[Deferred[V | Failed]]:
        """The same for one who may not wait for them after all: they never fail, and do not run out of patience."""
        self._counts.asked += len(keys)
        return [asked.addErrback(as_failed) for asked in self._gather.get_all(keys)]

    @property
    def away(self) -> bool:
        """Whether the database does not answer."""
        now = self._seconds()
        if self._failed is not None and now - self._failed <= FRESH:
            return True
        return self._looking is not None and (self._trying or now - self._looking > SLOW)

    def forget(self, *names: str, unless: str = "") -> None:
        """Something has changed: forget every answer that is about one of these, unless it is about that as well."""
        newer = self._by_name.get(unless, ()) if unless else ()  # some answers are about "" as well
        for name in names:
            for key in tuple(self._by_name.get(name, ())):
                if key not in newer:
                    self._drop(key)
        if self._looking is not None:
            if len(self._forgotten) > self._most:
                self._all_forgotten = True
            else:
                self._forgotten.update(names)

    def doubt(self) -> None:
        """Something may have changed, nobody knows what: serve nothing that was looked up before this moment, unless
        the database is away."""
        self._doubted = self._seconds()

    # ---- asking

    def _renew(self, key: K) -> None:
        """Look again in the background."""
        if key in self._renewing:
            return
        self._renewing.add(key)

        def done(_: object) -> None:
            self._renewing.discard(key)

        self._gather.get(key).addBoth(done)  # a failure has been noted where it happened

    async def _ask(self, keys: Sequence[K]) -> dict[K, V]:
        self._trying = self.away  # until this look has told otherwise
        began = self._looking = self._seconds()
        self._forgotten.clear()
        self._all_forgotten = False
        try:
            looking = Deferred.fromCoroutine(self._begin(keys)).addTimeout(LONGEST, self._reactor, too_late)
            answers: Mapping[K, Answer[V]] = await looking
        except Exception as error:
            self._counts.failed += 1
            if self._failed is None:
                self.log.warn(
                    "The database does not answer: {error}. Each {of} that is known serves on",
                    error=str(error) or type(error).__name__,
                    of=self._of,
                )
            self._failed = self._seconds()  # its end: one that hung has told of the database as it is now
            raise
        finally:
            self._looking = None
        if self._failed is not None:
            self._failed = None
            self.log.info("The database answers again, asked for a {of}", of=self._of)
        for key, found in answers.items():
            self._keep(key, found, began)
        return {key: found.value for key, found in answers.items()}

    async def _begin(self, keys: Sequence[K]) -> Mapping[K, Answer[V]]:
        return await self._look(keys)

    # ---- keeping

    def _keep(self, key: K, found: Answer[V], began: float) -> None:
        self._drop(key)
        # a look that began before something changed may have seen what was before
        if found.keep == "no" or self._all_forgotten or not self._forgotten.isdisjoint(found.about):
            return
        self._kept[key] = _Kept(found, began)
        for name in found.about:
            self._by_name.setdefault(name, set()).add(key)
        if len(self._kept) > self._most:
            self._drop(next(iter(self._kept)))

    def _drop(self, key: K) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        for name in kept.found.about:
            keys = self._by_name[name]
            keys.discard(key)
            if not keys:
                del self._by_name[name]


class Failed:
    """A failure as a value, so that one that nobody waits for is no error."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


def as_failed(failure: Failure) -> Failed:
    """For ``addErrback``."""
    return Failed(failure.value)


def too_late(_: Any, seconds: float) -> Any:
    """For ``addTimeout``. Raises DatabaseUnavailable."""
    raise DatabaseUnavailable(f"it did not answer within {seconds:g} s")
