"""The Limiter port on Redis keeps its contract, and counts over all who share the server."""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from limiter_contract import CENTURY, SLOW, LimiterContract
from prometheus_client import CollectorRegistry
from spooled_samples import until
from twisted.internet import reactor

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge


class TestRedisLimiter(LimiterContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _server(cls, redis):
        cls.redis = redis
        cls.links = {}

    async def open_limiter(self):
        link = RedisLink(self.redis.url, reactor, name="cache")
        await link.start()
        assert await link.ready(10)
        # a machine under load is no outage
        limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, CollectorRegistry(), timeout=20.0)
        await limiter.start()
        self.links[limiter] = link
        return limiter

    async def close_limiter(self, limiter):
        assert not limiter.local
        await limiter.stop()
        await self.links.pop(limiter).stop()

    @pytest_twisted.ensureDeferred
    async def test_two_count_together(self, limiter, key):
        other = await self.open_limiter()
        try:
            for limit in (SLOW, CENTURY):
                for one in (limiter, other, limiter):
                    assert await one.charge([Charge(key, limit)]) is None
                for one in (limiter, other):
                    assert await one.charge([Charge(key, limit)]) is not None
            holds = [await one.hold(key, 3) for one in (limiter, other, limiter)]
            assert None not in holds
            assert await other.hold(key, 3) is None
            holds[0].release()
            await until_given(other, key, 3)
        finally:
            await self.close_limiter(other)

    @pytest_twisted.ensureDeferred
    async def test_who_stops_gives_its_places_back(self, limiter, key):
        other = await self.open_limiter()
        for _ in range(300):  # more than one call carries
            assert await other.hold(key, 300) is not None
        assert await limiter.hold(key, 300) is None
        await self.close_limiter(other)
        assert await limiter.hold(key, 1) is not None

    @pytest_twisted.ensureDeferred
    async def test_what_is_kept_expires_by_itself(self, limiter, key):
        await limiter.charge([Charge(key, Limit(2, 7.0)), Charge(key, Limit(1, 1e12)), Charge(key, Quota(2, 100))])
        await limiter.hold(key, 2)
        link = self.links[limiter]
        found = await link.command("KEYS", f"mailfarm:limit:*:{key}")
        assert len(found) == 4
        lives = {name.split(b":")[2]: await link.command("PTTL", name) for name in found if b"1000000" not in name}
        assert 3000 < lives[b"tat"] <= 3502
        assert 0 < lives[b"quota"] <= 100_001
        assert 44_000 < lives[b"place"] <= 45_000
        assert all([await link.command("PTTL", name) > 0 for name in found])

    @pytest_twisted.ensureDeferred
    async def test_what_one_pass_charges_goes_in_one_call(self, limiter, key):
        async def calls():
            said = (await self.links[limiter].command("INFO", "commandstats")).decode()
            line = next(line for line in said.splitlines() if line.startswith("cmdstat_evalsha:"))
            return int(line.partition("calls=")[2].partition(",")[0])

        await limiter.charge([Charge(key, SLOW)])  # the server knows the script
        before = await calls()
        asked = [limiter.charge([Charge(f"{key}{number}", SLOW)]) for number in range(200)]
        assert [await each for each in asked] == [None] * 200
        assert await calls() == before + 1

    @pytest_twisted.ensureDeferred
    async def test_who_does_not_wait_for_a_place_does_not_keep_it(self, limiter, key):
        waiting = limiter.hold(key, 1)
        waiting.addErrback(lambda failure: None)
        waiting.cancel()
        await until_given(limiter, key, 1)


async def until_given(limiter, key, most):
    """A release is told to Redis soon, not at once."""
    given = []

    def ask():
        limiter.hold(key, most).addCallback(lambda hold: given.append(hold) if hold else None)
        return bool(given)

    await until(ask)
