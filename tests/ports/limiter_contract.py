"""What every implementation of the Limiter port keeps.

A subclass gives ``open_limiter()`` and ``close_limiter(limiter)``. Time is the limiter's own and real.
"""

from __future__ import annotations

import time

import pytest
import pytest_twisted
from spooled_samples import DEADLINE, IDS
from twisted.internet.defer import Deferred, gatherResults

from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

SLOW = Limit(3, 3600.0)
CENTURY = Quota(3, 36_525 * 86_400)  # its window does not end while the tests run


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

    # --- quotas ---
    @pytest_twisted.ensureDeferred
    async def test_a_quota_is_spent_at_once_and_then_waits_for_its_window_to_end(self, limiter, key):
        for _ in range(3):
            assert await limiter.charge([Charge(key, CENTURY)]) is None
        refusal = await limiter.charge([Charge(key, CENTURY)])
        assert refusal.key == key
        assert refusal.wait == pytest.approx(CENTURY.window(time.time())[1], abs=60)

    @pytest_twisted.ensureDeferred
    async def test_a_quota_asked_for_nothing_is_not_spent(self, limiter, key):
        for _ in range(10):
            assert await limiter.charge([Charge(key, CENTURY, 0)]) is None
        assert await limiter.charge([Charge(key, CENTURY, 2)]) is None
        assert await limiter.charge([Charge(key, CENTURY, 2)]) is not None
        assert await limiter.charge([Charge(key, CENTURY, 0)]) is None
        assert await limiter.charge([Charge(key, CENTURY, 1)]) is None
        assert (await limiter.charge([Charge(key, CENTURY, 0)])).key == key

    @pytest_twisted.ensureDeferred
    async def test_more_than_the_quota_is_never_allowed(self, limiter, key):
        assert (await limiter.charge([Charge(key, CENTURY, 4)])).wait == float("inf")
        assert await limiter.charge([Charge(key, CENTURY, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_a_quota_that_is_raised_keeps_what_was_spent(self, limiter, key):
        assert await limiter.charge([Charge(key, CENTURY, 3)]) is None
        raised = Quota(5, CENTURY.period)
        assert await limiter.charge([Charge(key, raised, 3)]) is not None
        assert await limiter.charge([Charge(key, raised, 2)]) is None
        assert await limiter.charge([Charge(key, raised)]) is not None

    @pytest_twisted.ensureDeferred
    async def test_quotas_of_other_spans_and_rates_of_the_same_key_are_apart(self, limiter, key):
        longer = Quota(2, 2 * CENTURY.period)
        assert await limiter.charge([Charge(key, CENTURY, 3), Charge(key, longer, 2), Charge(key, SLOW, 3)]) is None
        for limit in (CENTURY, longer, SLOW):
            assert await limiter.charge([Charge(key, limit)]) is not None

    @pytest_twisted.ensureDeferred
    async def test_rates_and_quotas_are_charged_all_or_none(self, limiter, key):
        assert await limiter.charge([Charge(key + "full", CENTURY, 3)]) is None
        for charges in (
            [Charge(key + "free", SLOW, 1), Charge(key + "full", CENTURY, 1)],
            [Charge(key + "free", CENTURY, 1), Charge(key + "full", CENTURY, 1)],
            [Charge(key + "full", CENTURY, 1), Charge(key + "free", SLOW, 1)],
        ):
            assert (await limiter.charge(charges)).key == key + "full"
        assert await limiter.charge([Charge(key + "free", SLOW, 3), Charge(key + "free", CENTURY, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_a_key_twice_in_one_call_is_charged_twice(self, limiter, key):
        for limit in (SLOW, CENTURY):
            assert await limiter.charge([Charge(key, limit, 2), Charge(key, limit, 2)]) is not None
            assert await limiter.charge([Charge(key, limit, 2), Charge(key, limit, 1)]) is None
            assert await limiter.charge([Charge(key, limit)]) is not None

    @pytest_twisted.ensureDeferred
    async def test_a_new_window_gives_everything_back(self, limiter, key):
        quota = Quota(2, 1)
        began = time.monotonic()
        allowed = 0
        while allowed < 6:  # of one window at most two
            allowed += await limiter.charge([Charge(key, quota)]) is None
            assert time.monotonic() - began < DEADLINE
        assert time.monotonic() - began > 0.9

    @pytest_twisted.ensureDeferred
    async def test_many_at_once_are_counted_one_by_one(self, limiter, key):
        asked = [
            limiter.charge([Charge(key, Limit(40, 36_000.0)), Charge(key, Quota(60, CENTURY.period))])
            for _ in range(100)
        ]
        asked = [each if isinstance(each, Deferred) else Deferred.fromCoroutine(each) for each in asked]
        answers = await gatherResults(asked)
        assert answers.count(None) == 40
        assert answers[:40] == [None] * 40

    @pytest_twisted.ensureDeferred
    async def test_a_call_may_charge_thousands_of_keys(self, limiter, key):
        many = [Charge(f"{key}{number}", SLOW if number % 2 else CENTURY, 2) for number in range(20_000)]
        assert await limiter.charge(many) is None
        assert (await limiter.charge(many[-1:])).key == many[-1].key
        assert (await limiter.charge([Charge(key, SLOW, 3), *many[12_345:]])).key == many[12_345].key
        assert await limiter.charge([Charge(key, SLOW, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_any_text_is_a_key(self, limiter, key):
        for text in ("", " \r\n", "\x00", "ü@ex\u00e4mple", "\udcff", "x" * 3000):
            assert await limiter.charge([Charge(key + text, SLOW, 3)]) is None
            assert (await limiter.charge([Charge(key + text, SLOW)])).key == key + text
            hold = await limiter.hold(key + text, 1)
            assert await limiter.hold(key + text, 1) is None
            hold.release()

    # --- places ---
    @pytest_twisted.ensureDeferred
    async def test_as_many_places_as_there_are_and_a_released_one_is_free(self, limiter, key):
        holds = [await limiter.hold(key, 3) for _ in range(3)]
        assert None not in holds
        assert await limiter.hold(key, 3) is None
        holds[1].release()
        again = await limiter.hold(key, 3)
        assert again is not None
        assert await limiter.hold(key, 3) is None

    @pytest_twisted.ensureDeferred
    async def test_a_place_is_given_back_once(self, limiter, key):
        first, second = await limiter.hold(key, 2), await limiter.hold(key, 2)
        first.release()
        first.release()
        assert await limiter.hold(key, 2) is not None
        assert await limiter.hold(key, 2) is None
        second.release()
        assert await limiter.hold(key, 2) is not None

    @pytest_twisted.ensureDeferred
    async def test_places_of_other_keys_are_apart_from_rates_too(self, limiter, key):
        assert await limiter.hold(key + "a", 1) is not None
        assert await limiter.hold(key + "b", 1) is not None
        assert await limiter.hold(key + "a", 1) is None
        assert await limiter.charge([Charge(key + "a", SLOW, 3), Charge(key + "a", CENTURY, 3)]) is None

    @pytest_twisted.ensureDeferred
    async def test_who_asks_for_more_places_gets_one_where_who_asks_for_fewer_does_not(self, limiter, key):
        for _ in range(2):
            assert await limiter.hold(key, 2) is not None
        assert await limiter.hold(key, 2) is None
        assert await limiter.hold(key, 3) is not None

    @pytest_twisted.ensureDeferred
    async def test_no_place_at_all(self, limiter, key):
        assert await limiter.hold(key, 0) is None

    @pytest_twisted.ensureDeferred
    async def test_who_enters_is_charged_and_has_a_place(self, limiter, key):
        charge = Charge(key, SLOW)
        first = await limiter.enter([charge], key, 1)
        assert await limiter.enter([charge], key, 1) is None  # full, and charged all the same
        first.release()
        again = await limiter.enter([charge], key, 1)
        refusal = await limiter.enter([charge], key + "other", 1)
        assert refusal.key == key
        assert await limiter.hold(key + "other", 1) is not None  # who was refused took none
        again.release()
        assert await limiter.enter([], key, 1) is not None
        assert await limiter.hold(key, 1) is None

    @pytest_twisted.ensureDeferred
    async def test_a_refused_list_charges_nothing_though_others_charge_the_same_key_with_it(self, limiter, key):
        other = Charge(key + "other", SLOW)
        asked = [limiter.charge(charges) for charges in (
            [Charge(key, SLOW)], [other, Charge(key, SLOW), Charge(key, SLOW, 3)], [other, Charge(key, SLOW)],
        )]  # fmt: skip
        told = await gatherResults(asked)
        assert [refusal and refusal.key for refusal in told] == [None, key, None]
        assert await limiter.charge([Charge(key, SLOW, 2), Charge(other.key, SLOW, 2)]) is not None
        assert await limiter.charge([Charge(key, SLOW), Charge(other.key, SLOW, 2)]) is None

    @pytest_twisted.ensureDeferred
    async def test_in_one_call_everybody_hears_his_own_answer(self, limiter, key):
        narrow = Charge(key, Limit(1, 3600.0))
        asked = [
            limiter.hold(key + "a", 1),
            limiter.enter([narrow], key + "a", 1),  # charged, and full
            limiter.charge([Charge(key + "b", SLOW)]),
            limiter.enter([Charge(key + "b", SLOW), narrow], key + "c", 1),  # refused
            limiter.enter([], key + "c", 1),
        ]
        hold, full, charged, refused, entered = await gatherResults(asked)
        assert (full, charged, refused.key) == (None, None, key)
        assert hold is not None
        assert await limiter.hold(key + "c", 1) is None
        entered.release()
        assert await limiter.hold(key + "c", 1) is not None
        assert await limiter.charge([Charge(key + "b", SLOW, 2)]) is None
