"""The cell-rate algorithm: never more than it says, never longer than it says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailfarm.limits import Limit, gcra

LIMITS = st.builds(Limit, st.integers(1, 1000), st.floats(0.01, 86_400.0))
EPOCHS = st.sampled_from([0.0, 12_345.678, 1_700_000_000.0])


def rounding(limit, now):
    """What a float forgets of ``now``, for each of the units, in units."""
    return 0.01 + limit.count * now * 5e-16 * limit.count / limit.period


@pytest.mark.parametrize(("count", "period"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, -5.0)])
def test_a_limit_that_is_none_is_refused(count, period):
    with pytest.raises(ValueError, match="a limit needs"):
        Limit(count, period)


def test_a_cost_below_nothing_is_refused():
    with pytest.raises(ValueError, match="below 0"):
        gcra(0.0, 1.0, Limit(1, 1.0), -1)


@given(LIMITS, EPOCHS)
def test_the_whole_count_may_come_at_once_and_not_one_more(limit, now):
    tat = 0.0
    for _ in range(limit.count):
        wait, tat = gcra(tat, now, limit)
        assert wait == 0
    wait, after = gcra(tat, now, limit)
    step = limit.period / limit.count
    if rounding(limit, now) < 0.5:
        assert wait == pytest.approx(step, abs=step * rounding(limit, now))
        assert after == tat


@given(LIMITS, EPOCHS, st.data())
def test_no_span_sees_more_than_the_burst_and_what_was_given_back(limit, now, data):
    gaps = data.draw(st.lists(st.floats(0.0, 2.0), min_size=1, max_size=60))
    costs = data.draw(st.lists(st.integers(1, limit.count), min_size=len(gaps), max_size=len(gaps)))
    tat = 0.0
    allowed = []
    for gap, cost in zip(gaps, costs, strict=True):
        now += gap * limit.period / limit.count
        wait, tat = gcra(tat, now, limit, cost)
        if not wait:
            allowed.append((now, cost))
    for first, (start, _) in enumerate(allowed):
        units = 0
        for end, cost in allowed[first:]:
            units += cost
            most = limit.count * (1 + (end - start) / limit.period)
            assert units <= most + rounding(limit, end)


@given(LIMITS, EPOCHS, st.lists(st.integers(1, 5), max_size=30), st.integers(1, 5))
def test_the_wait_is_exact(limit, now, before, cost):
    tat = 0.0
    for units in before:
        _, tat = gcra(tat, now, limit, units)
    wait, same = gcra(tat, now, limit, cost)
    if wait in (0.0, float("inf")):
        return
    assert same == tat
    assert gcra(tat, now + wait, limit, cost)[0] == 0.0
    early = (1.01 * rounding(limit, now)) * limit.period / limit.count
    if early < wait:
        assert gcra(tat, now + wait - early, limit, cost)[0] > 0.0


@given(LIMITS, EPOCHS, st.integers(1, 10_000))
def test_more_than_the_count_is_never_allowed_and_costs_nothing(limit, now, extra):
    assert gcra(5.0, now, limit, limit.count + extra) == (float("inf"), 5.0)


@given(LIMITS, EPOCHS, st.integers(0, 1000))
def test_asking_costs_nothing_and_tells_what_one_unit_would_be_told(limit, now, used):
    tat = 0.0
    for _ in range(min(used, limit.count)):
        _, tat = gcra(tat, now, limit)
    asked, same = gcra(tat, now, limit, 0)
    assert same == tat
    assert asked == gcra(tat, now, limit, 1)[0]


@given(LIMITS, EPOCHS)
def test_a_full_period_of_rest_gives_everything_back(limit, now):
    _, tat = gcra(0.0, now, limit, limit.count)
    wait, _ = gcra(tat, now + limit.period * 1.000001, limit, limit.count)
    assert wait == 0.0


@given(LIMITS, st.floats(1.0, 1000.0))
def test_a_clock_that_goes_back_never_allows_more(limit, back):
    now = 1_000_000.0
    _, tat = gcra(0.0, now, limit, limit.count)
    wait, _ = gcra(tat, now - back, limit)
    assert wait > 0
