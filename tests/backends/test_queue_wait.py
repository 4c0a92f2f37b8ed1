"""How long what is put now will wait."""

from __future__ import annotations

from mailfarm.backends.queue_wait import WINDOW, Untouched, Wait


def test_it_is_what_waits_divided_by_the_pace_of_the_workers() -> None:
    wait = Wait()
    wait.saw(100.0, Untouched(0, 1000))
    assert wait.seconds == 0
    wait.saw(101.0, Untouched(500, 1100))
    assert wait.seconds == 5.0


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
    assert wait.seconds == 4.5
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
    assert wait.seconds == 0.5
