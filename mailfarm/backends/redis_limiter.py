"""The Limiter port on Redis: rates, quotas and places, counted over all replicas on Redis' own clock.

::

    mailfarm:limit:tat:<count>/<period>:<key>   the theoretical arrival time (limiter.lua)
    mailfarm:limit:quota:<period>:<key>         the window and what was used of it
    mailfarm:limit:place:<key>                  holders and the ends of their leases

What one reactor pass charges, takes and gives back goes in one call. Who only asks (a cost of 0) is answered here for
``FAR`` seconds after a limit was far from used up; what counts is asked of Redis in any case. A place is a lease that
this process renews, for all it holds at once; places of a process that died are free when it ends, and Redis is told
again of ours when it forgot them.

Nobody waits long: a call that is not answered within ``timeout`` opens the circuit, all who wait are answered by the
local limiter, and so is everybody from then on, at once, until Redis answers again (it is asked every second). A place
given meanwhile is told to Redis then. While the circuit is open each process counts for itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import urandom
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.logger import Logger

from mailfarm.limits import Limit
from mailfarm.ports import Charge, Hold, Refusal

from .limiter_call import Ask, Forms, Verb, dealt, place_key, weight
from .memory import MemoryLimiter
from .redis_batch import UNANSWERED, Batch
from .redis_link import RedisLink, Script

_log = Logger()

TIMEOUT: Final = 0.5
"""Seconds a charge waits for Redis: a greeting must not wait longer."""
LEASE: Final = 45.0
"""Seconds a place outlives its last renewal. It is renewed three times as often."""
PROBE: Final = 1.0
"""Seconds between two questions whether Redis is back."""
MOST: Final = 250
"""Charges and requests about places in one call: about a millisecond or two of Redis' time."""
FAR: Final = 1.0
"""Seconds for which a limit of which half is left, and 50 units, is not asked for: when all processes together use it
up meanwhile, it is the charge that is refused and not the question before it."""
FAR_KEYS: Final = 20_000
"""Keys of which that is remembered, about 4 MB; past it all are forgotten."""
UNFREED: Final = 10_000
"""Places to give back that are remembered while Redis is away; the lease ends what is forgotten."""


class _Hold:
    __slots__ = ("_id", "_key", "_limiter")

    def __init__(self, limiter: RedisLimiter, key: bytes, id: bytes) -> None:
        self._limiter: RedisLimiter | None = limiter
        self._key = key
        self._id = id

    def release(self) -> None:
        """Give the place back. Idempotent."""
        limiter, self._limiter = self._limiter, None
        if limiter is not None:
            limiter._release(self._key, self._id)


class RedisLimiter:
    """Start it before use; ``stop`` gives back every place. ``local`` counts while Redis is away."""

    def __init__(
        self,
        link: RedisLink,
        local: MemoryLimiter,
        reactor: Any,
        registry: CollectorRegistry,
        *,
        timeout: float = TIMEOUT,
        lease: float = LEASE,
        probe: float = PROBE,
        random: Callable[[int], bytes] = urandom,
    ) -> None:
        self._link = link
        self._local = local
        self._reactor = reactor
        self._timeout = timeout
        self._lease = lease
        self._probe_every = probe
        self._script = Script.read("limiter.lua")
        self._asks: Batch[Ask] = Batch(self._send, self._lose, reactor, timeout=timeout, most=MOST, weigh=weight)
        self._replica = random(8).hex()
        link.greet(self._connected)
        self._far: dict[str, float] = {}
        self._forms = Forms(lease)
        self._given = 0
        self._held: dict[bytes, dict[bytes, None]] = {}
        self._unfreed: dict[tuple[bytes, bytes], None] = {}
        self._away = False
        self._running = False
        self._renewing: Any = None
        self._probing: Any = None
        self._fallbacks = Counter(
            "mailfarm_limiter_fallbacks",
            "Charges and places that were counted in this process alone",
            registry=registry,
        )
        self._is_local = Gauge(
            "mailfarm_limiter_local", "1 while the cache is away and each process counts for itself", registry=registry
        )
        self._holds = Gauge("mailfarm_limiter_places", "Places this process holds", registry=registry)
        self._took = Histogram(
            "mailfarm_limiter_seconds",
            "Calls to the cache for limits",
            registry=registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
        )

    @property
    def local(self) -> bool:
        """Whether this process counts for itself now."""
        return self._away

    async def start(self) -> None:
        """Renew leases from now on, and see whether Redis is there, for as long as a charge would wait."""
        self._running = True
        self._renewing = self._reactor.callLater(self._lease / 3, self._renew)
        await self._link.ready(self._timeout)
        self._reachable()

    async def stop(self) -> None:
        """Give back all places, as far as Redis hears of it, and count no more."""
        self._running = False
        for timer in (self._renewing, self._probing):
            if timer is not None and timer.active():
                timer.cancel()
        for key, ids in self._held.items():
            for id in ids:
                self._unfreed[key, id] = None
        self._held.clear()
        self._holds.set(0)
        if not self._away:
            await self._free_forgotten()
            # calls are answered in order: when this is, what was given back before has been heard
            await self._of_place(b"free", place_key(""), b"nobody")
        self._away = True
        self._asks.give_up()

    # --- rates and quotas ---
    def far(self, charges: Sequence[Charge]) -> bool:
        """Whether they only ask, and Redis said less than ``FAR`` seconds ago that all are far from used up."""
        now, far = self._reactor.seconds(), self._far
        for charge in charges:
            if charge.cost or charge.always or far.get(charge.key, 0.0) < now:
                return False
        return not self._away and self._link.connected

    def charge(self, charges: Sequence[Charge]) -> Deferred[Refusal | None]:
        """None when all are allowed, and then all are charged; else the first that is not."""
        if not charges:
            return succeed(None)
        if self.far(charges):
            return succeed(None)
        if not self._reachable():
            return self._charge_here(charges)
        return self._asks.ask((charges, None)).addCallback(self._charged, charges)

    def _charged(self, answers: Any, charges: Sequence[Charge]) -> Any:
        """A refusal, None, or a Deferred of these."""
        if answers is UNANSWERED:
            self._forget_far(charges)
            return self._charge_here(charges)
        return self._judged(answers[0], charges)

    def _judged(self, answer: Any, charges: Sequence[Charge]) -> Refusal | None:
        if answer == 1:
            if len(self._far) > FAR_KEYS:
                self._far.clear()
            until = self._reactor.seconds() + FAR
            for charge in charges:
                self._far[charge.key] = until
            return None
        self._forget_far(charges)
        if answer == 0:
            return None
        number, _, wait = answer.partition(b" ")
        return Refusal(charges[int(number) - 1].key, float(wait))

    def _forget_far(self, charges: Sequence[Charge]) -> None:
        for charge in charges:
            self._far.pop(charge.key, None)

    def _charge_here(self, charges: Sequence[Charge]) -> Deferred[Refusal | None]:
        self._fallbacks.inc()
        return self._local.charge(charges)

    # --- places ---
    def hold(self, key: str, most: int) -> Deferred[Hold | None]:
        """A place of ``key``, or None when ``most`` are taken."""
        name, id = self._name_place(key)
        if not self._reachable():
            return succeed(self._hold_here(name, id, most))
        asked = self._asks.ask(((), (b"take", name, id, most)))
        return asked.addCallbacks(self._placed, self._unwanted, callbackArgs=(name, id, most), errbackArgs=(name, id))

    def enter(self, charges: Sequence[Charge], key: str, most: int) -> Deferred[Hold | Refusal | None]:
        """Charge, and take a place if that is allowed, in one call: the place, or the refusal, or None when ``most``
        are taken; the charges stand then."""
        name, id = self._name_place(key)
        if not self._reachable():
            return self._charge_here(charges).addCallback(self._enter_here, name, id, most)
        asked = self._asks.ask((charges, (b"take", name, id, most)))
        return asked.addCallbacks(
            self._entered, self._unwanted, callbackArgs=(charges, name, id, most), errbackArgs=(name, id)
        )

    def _name_place(self, key: str) -> tuple[bytes, bytes]:
        self._given += 1
        return place_key(key), f"{self._replica}:{self._given}".encode()

    def _entered(self, answers: Any, charges: Sequence[Charge], key: bytes, id: bytes, most: int) -> Any:
        if answers is UNANSWERED:
            self._remember_free(key, id)  # it may have been given all the same; taken back if it is given here
            return self._charge_here(charges).addCallback(self._enter_here, key, id, most)
        refusal = self._judged(answers[0], charges) if charges else None
        return refusal or (self._keep(key, id) if answers[1] else None)

    def _enter_here(self, refusal: Refusal | None, key: bytes, id: bytes, most: int) -> Hold | Refusal | None:
        if refusal is not None:
            return refusal
        hold = self._hold_here(key, id, most)
        if hold is not None:
            self._unfreed.pop((key, id), None)
        return hold

    def _placed(self, answers: Any, key: bytes, id: bytes, most: int) -> Hold | None:
        if answers is not UNANSWERED:
            return self._keep(key, id) if answers[1] else None
        hold = self._hold_here(key, id, most)
        if hold is None:
            self._remember_free(key, id)  # it may have been given all the same
        return hold

    def _unwanted(self, failure: Any, key: bytes, id: bytes) -> Any:
        """Nobody waits for the place any more, and it may have been given."""
        self._free(key, id)
        return failure

    def _hold_here(self, key: bytes, id: bytes, most: int) -> Hold | None:
        self._fallbacks.inc()
        return self._keep(key, id) if len(self._held.get(key, ())) < most else None

    def _keep(self, key: bytes, id: bytes) -> Hold:
        self._held.setdefault(key, {})[id] = None
        self._holds.inc()
        return _Hold(self, key, id)

    def _release(self, key: bytes, id: bytes) -> None:
        held = self._held.get(key)
        if held is None or id not in held:
            return  # given back by ``stop``
        del held[id]
        if not held:
            del self._held[key]
        self._holds.dec()
        self._free(key, id)

    def _free(self, key: bytes, id: bytes) -> None:
        if self._reachable():
            self._of_place(b"free", key, id).addCallback(self._freed, key, id)
        else:
            self._remember_free(key, id)

    def _freed(self, answer: Any, key: bytes, id: bytes) -> None:
        if answer is UNANSWERED:
            self._remember_free(key, id)

    def _remember_free(self, key: bytes, id: bytes) -> None:
        self._unfreed[key, id] = None
        if len(self._unfreed) > UNFREED:
            del self._unfreed[next(iter(self._unfreed))]

    async def _free_forgotten(self) -> None:
        again, self._unfreed = self._unfreed, {}
        asked = [self._of_place(b"free", key, id).addCallback(self._freed, key, id) for key, id in again]
        await gatherResults(asked)

    async def _keep_all(self) -> bool:
        """One more lease for every place held here; whether Redis has heard it."""
        asked = [self._of_place(b"keep", key, id) for key, ids in self._held.items() for id in ids]
        return UNANSWERED not in await gatherResults(asked)

    def _renew(self) -> None:
        self._renewing = self._reactor.callLater(self._lease / 3, self._renew)
        if self._reachable():
            self._background(self._keep_all())
            self._background(self._free_forgotten())

    # --- the call ---
    def _of_place(self, verb: Verb, key: bytes, id: bytes) -> Deferred[Any]:
        return self._asks.ask(((), (verb, key, id, 0)))

    def _send(self, asked: list[Ask]) -> Deferred[Sequence[Any]]:
        keys, words, lists = self._forms.call(asked)
        return self._timed(self._link.evalsha(self._script, keys, words).addCallback(dealt, asked, lists))

    # --- the circuit ---
    def _reachable(self) -> bool:
        if not self._away and not self._link.connected:
            self._lose("not connected")
        return not self._away

    def _lose(self, why: str) -> None:
        if self._away:
            return
        self._away = True
        self._is_local.set(1)
        if self._running:
            _log.warn("the cache is away ({why}): limits are counted in this process alone", why=why)
            self._probing = self._reactor.callLater(self._probe_every, self._probe)
        self._asks.give_up()

    async def _connected(self, _: object) -> None:
        """The server may have forgotten everything: tell it of our places as soon as the connection is used."""
        self._reactor.callLater(0, self._tell_again)

    def _tell_again(self) -> None:
        if not self._running:
            return
        if not self._away:
            self._background(self._keep_all())
        elif self._probing is not None and self._probing.active():
            self._probing.reset(0)

    def _probe(self) -> None:
        self._background(self._return())

    async def _return(self) -> None:
        if self._link.connected and await self._answers() and await self._keep_all() and self._running:
            self._away = False
            self._is_local.set(0)
            _log.info("the cache is back: limits are counted together again")
            await self._free_forgotten()
        elif self._running:
            self._probing = self._reactor.callLater(self._probe_every, self._probe)

    async def _answers(self) -> bool:
        """Whether Redis takes a charge (one that leaves nothing behind)."""
        charge = Charge("probe", Limit(1_000_000, 0.001))
        return await self._asks.ask(([charge], None)) is not UNANSWERED

    def _timed(self, call: Deferred[Any]) -> Deferred[Any]:
        began = self._reactor.seconds()

        def ended(result: Any) -> Any:
            self._took.observe(self._reactor.seconds() - began)
            return result

        return call.addBoth(ended)

    def _background(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda failure: _log.failure("limits: a background task failed", failure)
        )
