"""The Limiter port in memory keeps its contract, in bounded memory."""

from __future__ import annotations

import time

import pytest_twisted
from limiter_contract import LimiterContract

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

SLOW = Limit(1, 3600.0)


class TestMemoryLimiter(LimiterContract):
    async def open_limiter(self):
        return MemoryLimiter(time.monotonic)

    @pytest_twisted.ensureDeferred
    async def test_the_wait_is_exact(self):
        now = 1000.0
        limiter = MemoryLimiter(lambda: now)
        assert await limiter.charge([Charge("k", Limit(2, 10.0), 2)]) is None
        refusal = await limiter.charge([Charge("k", Limit(2, 10.0))])
        assert refusal.wait == 5.0
        now += 4.9
        assert await limiter.charge([Charge("k", Limit(2, 10.0))]) is not None
        now += 0.1
        assert await limiter.charge([Charge("k", Limit(2, 10.0))]) is None

    @pytest_twisted.ensureDeferred
    async def test_a_key_twice_in_one_call_is_charged_twice(self):
        limiter = MemoryLimiter(lambda: 0.0)
        limit = Limit(3, 10.0)
        assert await limiter.charge([Charge("k", limit, 2), Charge("k", limit, 2)]) is not None
        assert await limiter.charge([Charge("k", limit, 2), Charge("k", limit, 1)]) is None
        assert await limiter.charge([Charge("k", limit)]) is not None

    @pytest_twisted.ensureDeferred
    async def test_the_key_longest_not_charged_is_forgotten_first(self):
        now = 0.0
        limiter = MemoryLimiter(lambda: now, keys=3)
        for key in "abc":
            assert await limiter.charge([Charge(key, Limit(2, 3600.0))]) is None
        assert await limiter.charge([Charge("a", Limit(2, 3600.0))]) is None
        assert await limiter.charge([Charge("d", SLOW)]) is None
        assert len(limiter._counts) == 3
        assert await limiter.charge([Charge("a", Limit(2, 3600.0))]) is not None
        assert await limiter.charge([Charge("b", Limit(2, 3600.0), 2)]) is None

    @pytest_twisted.ensureDeferred
    async def test_a_day_is_a_day_of_utc_whatever_the_other_clock_says(self):
        wall = 1_700_000_000.0  # 22:13:20 UTC
        limiter = MemoryLimiter(lambda: 7.0, wall=lambda: wall)
        day = Quota(2)
        assert await limiter.charge([Charge("k", day, 2)]) is None
        assert (await limiter.charge([Charge("k", day)])).wait == 6400.0
        wall += 6399.0
        assert (await limiter.charge([Charge("k", day)])).wait == 1.0
        wall += 1.0
        assert await limiter.charge([Charge("k", day, 2)]) is None
        wall -= 1.0  # a clock that is put back opens no window anew
        assert (await limiter.charge([Charge("k", day)])).wait == 86_401.0

    @pytest_twisted.ensureDeferred
    async def test_places_that_nobody_holds_take_no_memory(self):
        limiter = MemoryLimiter(lambda: 0.0)
        holds = [await limiter.hold(str(number % 5), 2) for number in range(10)]
        for hold in holds:
            hold.release()
        assert limiter._places == {}
