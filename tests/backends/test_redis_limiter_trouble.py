"""Limits while the cache dies, stalls, comes back, forgets everything; and places of a replica that died."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace

import pytest
import pytest_twisted
from prometheus_client import CollectorRegistry
from spooled_samples import soon, until
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import globalLogPublisher

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisAway, RedisLink
from mailfarm.events import MailboxClosed
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

SLOW = Limit(3, 3600.0)
CENTURY = Quota(3, 36_525 * 86_400)


@pytest.fixture
def opened(cache):
    """Opens limiters on the server, and ends them."""
    open_ = []

    async def open_limiter(**options):
        link = RedisLink(cache.url, reactor, name="cache", timeout=2.0)
        registry = CollectorRegistry()
        limiter = RedisLimiter(
            link, MemoryLimiter(time.monotonic), reactor, registry, **{"timeout": 20.0, "probe": 0.05, **options}
        )
        await link.start()
        await limiter.start()
        limiter.link, limiter.registry = link, registry
        open_.append(limiter)
        return limiter

    async def close():
        for limiter in open_:
            await limiter.stop()
            await limiter.link.stop()

    yield open_limiter
    pytest_twisted.blockon(soon(close()))


@pytest.fixture
def logged():
    entries = []
    globalLogPublisher.addObserver(entries.append)
    yield lambda words: [entry for entry in entries if words in str(entry.get("log_format"))]
    globalLogPublisher.removeObserver(entries.append)


def value(limiter, name):
    return limiter.registry.get_sample_value(name)


AWAY = "the cache is away"
BACK = "the cache is back"


@pytest_twisted.ensureDeferred
async def test_a_dead_cache_is_replaced_by_a_local_count_at_once_and_used_again_when_it_is_back(cache, opened, logged):
    limiter = await opened()
    for _ in range(3):
        assert await limiter.charge([Charge("k", SLOW)]) is None
    assert await limiter.charge([Charge("k", SLOW)]) is not None
    assert value(limiter, "mailfarm_limiter_local") == 0
    cache.kill()
    began = time.monotonic()
    for _ in range(3):
        assert await limiter.charge([Charge("k", SLOW)]) is None
    assert (await limiter.charge([Charge("k", SLOW), Charge("q", CENTURY)])).key == "k"
    assert time.monotonic() - began < 2
    assert limiter.local
    assert value(limiter, "mailfarm_limiter_local") == 1
    assert value(limiter, "mailfarm_limiter_fallbacks_total") == 4
    assert len(logged(AWAY)) == 1
    cache.start()
    await until(lambda: not limiter.local)
    assert value(limiter, "mailfarm_limiter_local") == 0
    assert len(logged(BACK)) == 1
    assert await limiter.charge([Charge("k", SLOW, 3)]) is None  # it had kept nothing
    assert (await limiter.link.command("KEYS", "*:k")) != []
    assert value(limiter, "mailfarm_limiter_fallbacks_total") == 4


@pytest_twisted.ensureDeferred
async def test_a_stalled_cache_keeps_nobody_waiting_longer_than_the_timeout(cache, opened, logged):
    limiter = await opened(timeout=0.5)
    assert await limiter.charge([Charge("k", SLOW)]) is None
    cache.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        first = [limiter.charge([Charge(f"k{number}", SLOW)]) for number in range(50)]
        holds = [limiter.hold("p", 30) for number in range(50)]
        assert await gatherResults(first) == [None] * 50
        assert sum(hold is not None for hold in await gatherResults(holds)) == 30
        took = time.monotonic() - began
        assert took >= 0.45
        assert took < 5  # 0.5 s, and the machine's own slowness
        began = time.monotonic()
        for _ in range(1000):  # nobody else waits
            assert await limiter.charge([Charge("k", Limit(10_000, 1.0))]) is None
        assert time.monotonic() - began < 20
        assert len(logged(AWAY)) == 1
    finally:
        cache.signal(signal.SIGCONT)
    await until(lambda: not limiter.local)
    assert len(logged(BACK)) == 1
    link = limiter.link
    # what was given meanwhile counts, and what was asked for and not given does not
    await until(lambda: not limiter._unfreed)
    assert await link.command("ZCARD", "mailfarm:limit:place:p") == 30


@pytest_twisted.ensureDeferred
async def test_a_cache_that_is_away_at_the_start_is_found_when_it_comes(cache, opened):
    cache.kill()
    limiter = await opened(timeout=0.5)
    assert limiter.local
    assert await limiter.charge([Charge("k", SLOW)]) is None
    cache.start()
    await until(lambda: not limiter.local)
    assert await limiter.charge([Charge("k", SLOW, 3)]) is None


@pytest_twisted.ensureDeferred
async def test_a_cache_that_refuses_to_write_is_away_too(cache, opened, logged):
    limiter = await opened()
    await limiter.link.command("CONFIG", "SET", "maxmemory", "1")
    await limiter.link.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    for _ in range(5):
        assert await limiter.charge([Charge("k", Limit(10, 60.0))]) is None
    assert limiter.local
    probed = value(limiter, "mailfarm_limiter_seconds_count")
    await until(lambda: value(limiter, "mailfarm_limiter_seconds_count") > probed + 2)
    assert limiter.local
    assert len(logged(AWAY)) == 1
    await limiter.link.command("CONFIG", "SET", "maxmemory", "0")
    await until(lambda: not limiter.local)


@pytest_twisted.ensureDeferred
async def test_places_are_told_again_to_a_cache_that_has_forgotten_them(cache, opened):
    one, other = await opened(), await opened()
    holds = [await one.hold("p", 3) for _ in range(2)]
    assert await other.hold("p", 3) is not None
    cache.kill()
    await until(lambda: not one.link.connected and not other.link.connected)
    assert await one.hold("p", 3) is not None  # for itself: two of its own are taken
    assert await one.hold("p", 3) is None
    holds[0].release()
    cache.start()
    # each is asked, so that each notices, as in a busy farm
    await one.charge([Charge("k", SLOW)])
    await other.charge([Charge("k", SLOW)])
    await until(lambda: not one.local and not other.local)
    assert await one.link.command("ZCARD", "mailfarm:limit:place:p") == 3
    assert await other.hold("p", 3) is None


@pytest_twisted.ensureDeferred
async def test_places_are_told_again_at_once_though_nobody_asks_for_anything(cache, opened):
    limiter = await opened()
    for _ in range(600):  # more than one call carries
        assert await limiter.hold("p", 600) is not None
    cache.kill()
    cache.start()
    counted = []

    def all_are_there():
        asked = limiter.link.command("ZCARD", "mailfarm:limit:place:p")
        asked.addCallbacks(counted.append, lambda failure: failure.trap(RedisAway))
        return 600 in counted

    await until(all_are_there)
    assert not limiter.local


@pytest.mark.parametrize("asking", ["+pubsub|numsub +pubsub|numpat", "+pubsub|numpat", ""])
@pytest_twisted.ensureDeferred
async def test_it_needs_no_more_than_this_of_an_access_list(cache, opened, asking):
    """The rules for a user of the cache, limits and bus. Where it may not ask who listens, all is published."""
    limiter = await opened()
    rules = (
        "on >secret resetkeys ~mailfarm:limit:* resetchannels &mailfarm:bus:* -@all +ping +evalsha +eval +time "
        f"+mget +set +zadd +zrem +zcard +zremrangebyscore +pexpire +publish +subscribe +unsubscribe {asking}"
    )
    await limiter.link.command("ACL", "SETUSER", "mailfarm", *rules.split())
    link = RedisLink(cache.url.replace("//", "//mailfarm@"), reactor, password="secret", name="cache")
    registry = CollectorRegistry()
    other = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, registry, timeout=20.0)
    bus = RedisBus(link, reactor, registry, confirm=20.0)
    await link.start()
    assert await link.ready(20)
    await other.start()
    await bus.start()
    try:
        heard = []
        await bus.subscribe("box", heard.append)
        bus.publish("box", MailboxClosed("e", "account", "box", 1, "inbox@mailfarm.test"))
        await until(lambda: heard)
        assert await other.charge([Charge("k", SLOW, 3), Charge("k", CENTURY)]) is None
        hold = await other.hold("p", 1)
        assert await limiter.hold("p", 1) is None
        hold.release()
        await other.stop()
        assert not other._unfreed
        assert await limiter.hold("p", 1) is not None
        assert await limiter.charge([Charge("k", SLOW)]) is not None
        assert registry.get_sample_value("mailfarm_limiter_fallbacks_total") == 0
    finally:
        await bus.stop()
        await link.stop()


@pytest_twisted.ensureDeferred
async def test_places_are_renewed_for_as_long_as_they_are_held(cache, opened):
    limiter = await opened(lease=0.6)
    hold = await limiter.hold("p", 1)
    began = time.monotonic()
    while time.monotonic() - began < 1.5:
        assert await limiter.hold("p", 1) is None
    hold.release()
    await until(lambda: not limiter._held)
    given = []
    await until(
        lambda: bool(given) or limiter.hold("p", 1).addCallback(lambda hold: hold and given.append(hold)) is None
    )


_CHILD = """
import sys, time
from prometheus_client import CollectorRegistry
from twisted.internet import reactor, task
from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisAway, RedisLink
from mailfarm.events import MailboxClosed
from mailfarm.limits import Limit
from mailfarm.ports import Charge

async def main(reactor):
    link = RedisLink(sys.argv[1], reactor, name="cache")
    await link.start()
    assert await link.ready(20)
    limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, CollectorRegistry(), lease=1.0, timeout=20.0)
    await limiter.start()
    assert await limiter.charge([Charge("k", Limit(3, 3600.0), 2)]) is None
    for _ in range(2):
        assert await limiter.hold("p", 2) is not None
    print("ready", flush=True)
    await task.deferLater(reactor, 600)

task.react(lambda reactor: __import__("twisted.internet.defer").internet.defer.ensureDeferred(main(reactor)))
"""


@pytest_twisted.ensureDeferred
async def test_two_processes_count_together_and_a_dead_ones_places_are_free_when_their_lease_ends(cache, opened):
    limiter = await opened()
    said = []

    class Child(ProcessProtocol):
        def outReceived(self, data):
            said.append(data)

        def errReceived(self, data):
            sys.stderr.buffer.write(data)

    child = reactor.spawnProcess(Child(), sys.executable, [sys.executable, "-c", _CHILD, cache.url], env=os.environ)
    try:
        await until(lambda: b"ready" in b"".join(said))
        assert await limiter.charge([Charge("k", SLOW, 2)]) is not None
        assert await limiter.charge([Charge("k", SLOW)]) is None
        began = time.monotonic()
        while time.monotonic() - began < 1.5:  # longer than a lease
            assert await limiter.hold("p", 2) is None
    finally:
        child.signalProcess("KILL")
    killed = time.monotonic()
    while (hold := await limiter.hold("p", 2)) is None:
        assert time.monotonic() - killed < 20
    assert hold is not None
    assert time.monotonic() - killed < 5  # a lease of 1 s


@pytest_twisted.ensureDeferred
async def test_a_key_of_a_place_ends_with_the_last_lease(cache, opened):
    limiter = await opened(lease=0.5)
    await limiter.hold("p", 1)
    limiter._renewing.cancel()  # as when it is dead
    gone = []

    def ask():
        limiter.link.command("EXISTS", "mailfarm:limit:place:p").addCallback(
            lambda n: gone.append(1) if not n else None
        )
        return bool(gone)

    await until(ask)
    limiter._renewing = reactor.callLater(0, lambda: None)


@pytest_twisted.ensureDeferred
async def test_who_only_asks_for_what_is_far_from_used_up_asks_once_a_second(cache, opened):
    limiter = await opened()
    wide, narrow = Charge("wide", Limit(100, 3600.0), 0), Charge("narrow", Limit(99, 3600.0), 0)

    async def asked(*charges):
        """How often Redis was asked for these."""
        before = limiter.registry.get_sample_value("mailfarm_limiter_seconds_count")
        for charge in charges:
            assert await limiter.charge([charge]) is None
        return limiter.registry.get_sample_value("mailfarm_limiter_seconds_count") - before

    assert await asked(wide) == 1
    assert await asked(*[wide] * 10) == 0
    assert await asked(*[replace(wide, always=True)] * 3) == 3, "guesses are never let through by memory"
    assert await asked(narrow, narrow) == 2
    assert await asked(replace(wide, cost=51), wide) == 2, "half of it is used up"
    assert await asked(replace(wide, cost=49)) == 1
    assert (await limiter.charge([wide])).key == "wide"


@pytest_twisted.ensureDeferred
async def test_what_is_far_from_used_up_is_known_to_be_without_asking(opened):
    limiter = await opened()
    wide, narrow = Charge("wide", Limit(100, 3600.0), 0), Charge("narrow", Limit(99, 3600.0), 0)
    assert not limiter.far([wide])
    assert [await limiter.charge([wide]), await limiter.charge([narrow])] == [None, None]
    assert limiter.far([wide])
    assert not limiter.far([wide, narrow])
    assert not limiter.far([replace(wide, cost=1)]), "what counts is counted"
    assert not limiter.far([replace(wide, always=True)])
    assert await limiter.charge([replace(wide, cost=51)]) is None
    assert not limiter.far([wide])
