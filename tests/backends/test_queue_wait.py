"""How long what is put now will wait."""

from __future__ import annotations

from mailfarm.backends.queue_wait import WINDOW, Untouched, Wait


def test_it_is_what_waits_divided_by_the_pace_of_the_workers() -> None:
    wait = Wait()
    wait.saw(100.0, Untouched(0, 1000))
    assert wait.seconds == 0
    wait.saw(101.0, Untouched(500, 1100))
    wait.saw(102.0, Untouched(450, 1200))
    assert wait.seconds == 4.5


def test_a_burst_on_an_idle_system_is_not_taken_for_slowness() -> None:
    wait = Wait()
    for second in range(20):
        wait.saw(100.0 + second, Untouched(0, 1000 + second))
    wait.saw(120.0, Untouched(150, 1020))  # put just before the look
    assert wait.seconds == 0
    wait.saw(121.0, Untouched(0, 1170))
    wait.saw(122.0, Untouched(150, 1171))
    assert wait.seconds == 1.0  # by now it is known what they can do


def test_who_was_seen_at_work_once_since_an_outage_may_have_had_a_part_of_that_second() -> None:
    wait = Wait()
    for second in range(60):
        wait.saw(100.0 + second, Untouched(100 * second, 1000))
    wait.saw(160.0, Untouched(5950, 1050))
    assert wait.seconds == 0
    wait.saw(161.0, Untouched(4950, 2050))
    assert wait.seconds == 4.95


def test_workers_that_are_away_are_not_behind() -> None:
    wait = Wait()
    for second in range(100):
        wait.saw(100.0 + second, Untouched(10 * second, 1000))
    assert wait.seconds == 0


def test_the_best_second_of_the_last_ten_counts_so_that_the_end_of_an_outage_is_not_taken_for_slowness() -> None:
    wait = Wait()
    for second in range(WINDOW):
        wait.saw(100.0 + second, Untouched(1000 * second, 1000))
    wait.saw(100.0 + WINDOW, Untouched(9000, 3000))
    wait.saw(101.0 + WINDOW, Untouched(9000, 3001))
    assert wait.seconds == 4.5
    for second in range(1, WINDOW + 1):
        wait.saw(101.0 + WINDOW + second, Untouched(9000, 3001 + 10 * second))
    assert wait.seconds == 900.0


def test_a_queue_that_was_emptied_by_hand_counts_anew() -> None:
    wait = Wait()
    wait.saw(100.0, Untouched(5, 1000))
    wait.saw(101.0, Untouched(5, 0))
    assert wait.seconds == 0
    wait.saw(102.0, Untouched(5, 10))
    wait.saw(103.0, Untouched(5, 20))
    assert wait.seconds == 0.5
