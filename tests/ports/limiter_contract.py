"""What every implementation of the Limiter port keeps.

A subclass gives ``open_limiter()`` and ``close_limiter(limiter)``. Time is the limiter's own and real.
"""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, IDS

from mailfarm.limits import Limit
from mailfarm.ports import Charge

SLOW = Limit(3, 3600.0)


class LimiterContract:
    async def open_limiter(self):
        raise NotImplementedError

    async def close_limiter(self, limiter): ...

    @pytest_twisted.async_yield_fixture
    async def limiter(self):
        limiter = await self.open_limiter()
        yield limiter
        await self.close_limiter(limiter)

    @pytest.fixture
    def key(self):
        return f"test:{IDS.new()}"

    @pytest_twisted.ensureDeferred
    async def test_as_many_as_the_limit_at_once_and_then_no_more(self, limiter, key):
        for _ in range(3):
            assert await limiter.charge([Charge(key, SLOW)]) is None
        refusal = await limiter.charge([Charge(key, SLOW)])
        assert refusal.key == key
        assert 1100 < refusal.wait <= 1200  # a third of the hour

    @pytest_twisted.ensureDeferred
    async def test_a_cost_counts(self, limiter, key):
        assert await limiter.charge([Charge(key, SLOW, 2)]) is None
        assert await limiter.charge([Charge(key, SLOW, 2)]) is not None
        assert await limiter.charge([Charge(key, SLOW, 1)]) is None

    @pytest_twisted.ensureDeferred
    async def test_more_than_the_limit_is_never_allowed(self, limiter, key):
        refusal = await limiter.charge([Charge(key, SLOW, 4)])
        assert refusal.wait == float("inf")
        assert await limiter.charge([Charge(key, SLOW, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_a_cost_of_nothing_only_asks(self, limiter, key):
        for _ in range(10):
            assert await limiter.charge([Charge(key, SLOW, 0)]) is None
        assert await limiter.charge([Charge(key, SLOW, 3)]) is None
        assert (await limiter.charge([Charge(key, SLOW, 0)])).key == key

    @pytest_twisted.ensureDeferred
    async def test_keys_are_apart(self, limiter, key):
        assert await limiter.charge([Charge(key + "a", SLOW, 3)]) is None
        assert await limiter.charge([Charge(key + "b", SLOW, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_all_or_none(self, limiter, key):
        assert await limiter.charge([Charge(key + "full", SLOW, 3)]) is None
        for charges in (
            [Charge(key + "free", SLOW, 1), Charge(key + "full", SLOW, 1)],
            [Charge(key + "full", SLOW, 1), Charge(key + "free", SLOW, 1)],
        ):
            assert (await limiter.charge(charges)).key == key + "full"
        assert await limiter.charge([Charge(key + "free", SLOW, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_the_first_key_over_its_limit_is_named(self, limiter, key):
        for name in ("b", "c"):
            await limiter.charge([Charge(key + name, SLOW, 3)])
        charges = [Charge(key + name, SLOW) for name in ("a", "b", "c")]
        assert (await limiter.charge(charges)).key == key + "b"

    @pytest_twisted.ensureDeferred
    async def test_no_charge_at_all_is_allowed(self, limiter):
        assert await limiter.charge([]) is None

    @pytest_twisted.ensureDeferred
    async def test_time_gives_units_back(self, limiter, key):
        limit = Limit(2, 1.0)
        began = time.monotonic()
        assert await limiter.charge([Charge(key, limit, 2)]) is None
        refusal = await limiter.charge([Charge(key, limit)])
        assert 0 < refusal.wait <= 0.5
        while await limiter.charge([Charge(key, limit)]) is not None:
            assert time.monotonic() - began < DEADLINE
        assert time.monotonic() - began > 0.4
