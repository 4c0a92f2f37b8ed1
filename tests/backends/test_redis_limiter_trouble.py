"""Limits while the cache dies, stalls, comes back, forgets everything; and places of a replica that died."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import struct
import sys
import time
from importlib import resources

import hiredis
import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from servers import Redis, server_folder
from spooled_samples import IDS, soon, until
from twisted.internet import reactor
from twisted.internet.defer import gatherResults
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import globalLogPublisher

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
from mailfarm.limits import Limit, Quota, gcra
from mailfarm.ports import Charge

SLOW = Limit(3, 3600.0)
CENTURY = Quota(3, 36_525 * 86_400)


@pytest.fixture
def server(component):
    """A cache as the stack has it: it keeps nothing over a restart."""
    component("redis-server")
    folder = server_folder()
    with Redis(folder, "--appendonly", "no") as redis:
        yield redis
    shutil.rmtree(folder)


@pytest.fixture
def opened(server):
    """Opens limiters on the server, and ends them."""
    open_ = []

    async def open_limiter(**options):
        link = RedisLink(server.url, reactor, name="cache", timeout=2.0)
        registry = CollectorRegistry()
        limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, registry, **{"probe": 0.05, **options})
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
async def test_a_dead_cache_is_replaced_by_a_local_count_at_once_and_used_again_when_it_is_back(server, opened, logged):
    limiter = await opened()
    for _ in range(3):
        assert await limiter.charge([Charge("k", SLOW)]) is None
    assert await limiter.charge([Charge("k", SLOW)]) is not None
    assert value(limiter, "mailfarm_limiter_local") == 0
    server.kill()
    began = time.monotonic()
    for _ in range(3):
        assert await limiter.charge([Charge("k", SLOW)]) is None
    assert (await limiter.charge([Charge("k", SLOW), Charge("q", CENTURY)])).key == "k"
    assert time.monotonic() - began < 2
    assert limiter.local
    assert value(limiter, "mailfarm_limiter_local") == 1
    assert value(limiter, "mailfarm_limiter_fallbacks_total") == 4
    assert len(logged(AWAY)) == 1
    server.start()
    await until(lambda: not limiter.local)
    assert value(limiter, "mailfarm_limiter_local") == 0
    assert len(logged(BACK)) == 1
    assert await limiter.charge([Charge("k", SLOW, 3)]) is None  # it had kept nothing
    assert (await limiter.link.command("KEYS", "*:k")) != []
    assert value(limiter, "mailfarm_limiter_fallbacks_total") == 4


@pytest_twisted.ensureDeferred
async def test_a_stalled_cache_keeps_nobody_waiting_longer_than_the_timeout(server, opened, logged):
    limiter = await opened()
    assert await limiter.charge([Charge("k", SLOW)]) is None
    server.signal(signal.SIGSTOP)
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
        assert time.monotonic() - began < 0.4
        assert len(logged(AWAY)) == 1
    finally:
        server.signal(signal.SIGCONT)
    await until(lambda: not limiter.local)
    assert len(logged(BACK)) == 1
    link = limiter.link
    # what was given meanwhile counts, and what was asked for and not given does not
    await until(lambda: not limiter._unfreed)
    assert await link.command("ZCARD", "mailfarm:limit:place:p") == 30


@pytest_twisted.ensureDeferred
async def test_a_cache_that_is_away_at_the_start_is_found_when_it_comes(server, opened):
    server.kill()
    began = time.monotonic()
    limiter = await opened()
    assert time.monotonic() - began < 5
    assert limiter.local
    assert await limiter.charge([Charge("k", SLOW)]) is None
    server.start()
    await until(lambda: not limiter.local)
    assert await limiter.charge([Charge("k", SLOW, 3)]) is None


@pytest_twisted.ensureDeferred
async def test_a_cache_that_refuses_to_write_is_away_too(server, opened, logged):
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
async def test_places_are_told_again_to_a_cache_that_has_forgotten_them(server, opened):
    one, other = await opened(), await opened()
    holds = [await one.hold("p", 3) for _ in range(2)]
    assert await other.hold("p", 3) is not None
    server.kill()
    await until(lambda: not one.link.connected and not other.link.connected)
    assert await one.hold("p", 3) is not None  # for itself: two of its own are taken
    assert await one.hold("p", 3) is None
    holds[0].release()
    server.start()
    # each is asked, so that each notices, as in a busy farm
    await one.charge([Charge("k", SLOW)])
    await other.charge([Charge("k", SLOW)])
    await until(lambda: not one.local and not other.local)
    assert await one.link.command("ZCARD", "mailfarm:limit:place:p") == 3
    assert await other.hold("p", 3) is None


@pytest_twisted.ensureDeferred
async def test_places_are_renewed_for_as_long_as_they_are_held(server, opened):
    limiter = await opened(lease=0.6, timeout=20.0)
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
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
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
async def test_two_processes_count_together_and_a_dead_ones_places_are_free_when_their_lease_ends(server, opened):
    limiter = await opened(timeout=20.0)
    said = []

    class Child(ProcessProtocol):
        def outReceived(self, data):
            said.append(data)

        def errReceived(self, data):
            sys.stderr.buffer.write(data)

    child = reactor.spawnProcess(Child(), sys.executable, [sys.executable, "-c", _CHILD, server.url], env=os.environ)
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
async def test_a_key_of_a_place_ends_with_the_last_lease(server, opened):
    limiter = await opened(lease=0.5, timeout=20.0)
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


# --- the script agrees with limits.gcra ---
_CLOCK = """
local real = redis
local redis = {call = function(verb, ...)
  if verb == 'TIME' then return {ARGV[3], ARGV[4]} end
  if verb == 'SET' then local words = {...}; return real.call('SET', words[1], words[2]) end
  return real.call(verb, ...)
end}
"""
"""Before the script: time is an argument, and nothing expires."""

LIMITS = st.builds(Limit, st.integers(1, 1000), st.floats(0.01, 86_400.0))
MICROSECONDS = st.sampled_from([0, 12_345_678_901, 1_700_000_000_000_000])


@pytest.fixture(scope="module")
def redis_of_the_script(redis):
    """Talks to a real server, blocking, as hypothesis does."""
    with socket.create_connection(("127.0.0.1", redis.port), 20) as connection:
        reader = hiredis.Reader()

        def command(*words):
            connection.sendall(hiredis.pack_command(words))
            while (reply := reader.gets()) is False:
                reader.feed(connection.recv(65536))
            if isinstance(reply, Exception):
                raise reply
            return reply

        text = resources.files("mailfarm.backends").joinpath("limiter_charge.lua").read_text()
        digest = command("SCRIPT", "LOAD", _CLOCK + text)
        yield command, digest


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(LIMITS, MICROSECONDS, st.data())
def test_the_script_and_the_pure_function_agree_to_the_last_bit(redis_of_the_script, limit, micros, data):
    command, digest = redis_of_the_script
    key = f"agree:{IDS.new()}"
    tat = 0.0
    steps = data.draw(
        st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, min(limit.count, 40) + 1)), min_size=1, max_size=40)
    )
    for gap, cost in steps:
        micros += int(gap * limit.period / limit.count * 1e6)
        seconds, rest = divmod(micros, 1_000_000)
        now = seconds + rest / 1e6
        wait, tat = gcra(tat, now, limit, cost)
        (answer,) = command(
            "EVALSHA", digest, 1, key, struct.pack("<H", 1), struct.pack("<4d", 0, limit.count, limit.period, cost),
            seconds, rest,
        )  # fmt: skip
        assert (float(answer.split()[1]) if answer else 0.0) == wait
        assert float(command("GET", key) or 0) == tat


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.builds(Quota, st.integers(1, 50), st.integers(1, 100_000)), MICROSECONDS, st.data())
def test_the_script_and_the_memory_agree_about_quotas(redis_of_the_script, quota, micros, data):
    command, digest = redis_of_the_script
    key = f"agree:{IDS.new()}"
    wall = 0.0
    memory = MemoryLimiter(lambda: 0.0, wall=lambda: wall)
    steps = data.draw(
        st.lists(st.tuples(st.floats(-0.3, 1.5), st.integers(0, quota.count + 1)), min_size=1, max_size=40)
    )
    for gap, cost in steps:
        micros = max(0, micros + int(gap * quota.period * 1e6))
        seconds, rest = divmod(micros, 1_000_000)
        wall = seconds + rest / 1e6
        refusal = memory.charge([Charge("k", quota, cost)]).result
        (answer,) = command(
            "EVALSHA", digest, 1, key, struct.pack("<H", 1), struct.pack("<4d", 1, quota.count, quota.period, cost),
            seconds, rest,
        )  # fmt: skip
        assert (float(answer.split()[1]) if answer else None) == (refusal.wait if refusal else None)


def test_the_script_names_nothing_it_was_not_given():
    """A key that is not among KEYS would be hidden from access lists."""
    for name in ("limiter_charge.lua", "limiter_places.lua"):
        text = resources.files("mailfarm.backends").joinpath(name).read_text()
        assert not re.search(r"redis\.call\('[A-Z]+', '", text), name
