"""What waits in a folder of the spool, and who goes past whom."""

from __future__ import annotations

from mailfarm.backends.spool_waiting import FIRST_PAUSE, LONGEST_PAUSE, TRIES, Waiting
from mailfarm.ports import CHUNK


def test_a_window_is_in_order_and_bounded_and_a_large_mail_is_one_alone() -> None:
    waiting = Waiting([(1, 10), (2, 10), (3, CHUNK + 1), (4, 10)])
    assert waiting.window(10, 1000) == [(1, 10), (2, 10)]
    assert waiting.window(1, 1000) == [(1, 10)]
    assert waiting.window(10, 19) == [(1, 10)]
    assert waiting.window(10, 1) == [(1, 10)]  # one at least
    assert waiting.forget({1, 2}) == [10, 10]
    assert waiting.window(10, 1000) == [(3, CHUNK + 1)]


def test_after_some_tries_others_go_past_it_and_it_is_tried_again_after_growing_pauses() -> None:
    waiting = Waiting([(1, 10), (2, 20)])
    assert [waiting.refused(1, "why", 0.0) for _ in range(TRIES)] == [0.0] * (TRIES - 1) + [FIRST_PAUSE]
    assert (waiting.window(9, 999), len(waiting), waiting.octets, waiting.oldest) == ([(2, 20)], 2, 30, 1)
    assert waiting.due(FIRST_PAUSE - 0.1) is None
    now, pauses = FIRST_PAUSE, []
    for _ in range(9):
        assert waiting.due(now) == (1, 10)
        pauses.append(waiting.refused(1, "still", now))
        assert waiting.due(now) is None
        now += pauses[-1]
    assert pauses == [20, 40, 80, 160, 320, 600, 600, 600, 600]
    assert max(pauses) == LONGEST_PAUSE
    assert waiting.passed[1].why == "still"
    assert waiting.forget([1]) == [10]
    assert (len(waiting), waiting.passed, waiting.due(now)) == (1, {}, None)


def test_only_tries_in_a_row_count_and_only_of_what_is_there() -> None:
    waiting = Waiting([(1, 10), (2, 20)])
    for _ in range(3 * TRIES):
        assert waiting.refused(1, "why", 0.0) == waiting.refused(2, "why", 0.0) == 0.0
    assert waiting.refused(2, "why", 0.0, most=1) == FIRST_PAUSE
    assert waiting.refused(7, "why", 0.0, most=1) == 0.0
    assert (waiting.window(9, 999), waiting.in_line, len(waiting)) == ([(1, 10)], 1, 2)


def test_what_is_forgotten_leaves_the_others_in_their_order() -> None:
    waiting = Waiting((number, 10) for number in range(6))
    waiting.refused(3, "why", 0.0, most=1)
    assert sorted(waiting.forget([1, 3, 4, 9])) == [10, 10, 10]
    waiting.append(6, 10)
    assert waiting.window(9, 999) == [(0, 10), (2, 10), (5, 10), (6, 10)]
