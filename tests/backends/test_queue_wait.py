"""How long until what is put now is filed."""

from __future__ import annotations

import pytest

from mailfarm.backends.queue_wait import GAP, SILENT, WINDOW, Ahead, Wait


def told(*seconds: tuple[int, int], leased: int = 0) -> Wait:
    """Untouched and ended, second after second, from 100.0 on."""
    wait = Wait()
    for second, (untouched, ended) in enumerate(seconds):
        wait.saw(100.0 + second, Ahead(untouched, leased, ended))
    return wait


def test_it_is_what_goes_before_by_what_workers_end_in_a_second() -> None:
    assert told((0, 1000)).at(100.0) == 0
    assert told((500, 1000), (450, 1100), (400, 1200)).at(102.0) == 4.0
    assert told((500, 1000), (450, 1100), (400, 1200), leased=50).at(102.0) == 4.5


@pytest.mark.parametrize("apart", [2, 3, 5, 8])
def test_workers_may_end_in_heaps_some_seconds_apart(apart: int) -> None:
    ended = [100 * (second // apart) for second in range(3 * WINDOW)]
    wait = told(*[(9000, so_far) for so_far in ended])
    assert wait.at(99.0 + 3 * WINDOW) == pytest.approx(9000 * apart / 100)


def test_what_was_put_since_counts_beyond_what_may_have_been_ended() -> None:
    wait = told((500, 1000), (450, 1100), (400, 1200))
    assert wait.at(102.5) == 4.0
    wait.put(20)
    assert wait.at(102.1) == pytest.approx(4.1)
    assert wait.at(102.5) == 4.0
    wait.put(380)
    assert wait.at(102.5) == pytest.approx(7.5)
    wait.saw(103.0, Ahead(700, 0, 1300))
    assert wait.at(103.0) == 7.0


def test_a_burst_on_an_idle_system_is_not_taken_for_slowness() -> None:
    idle = [(0, 1000 + second) for second in range(20)]
    assert told(*idle, (150, 1020)).at(120.0) == 0  # put just before the look
    assert told(*idle, (150, 1020), (0, 1170), (150, 1171)).at(122.0) == 0
    assert told(*idle, (150, 1020), (0, 1170), (150, 1171), (151, 1321)).at(123.0) < 1.1  # it is known what they can do


def test_a_second_that_was_not_busy_shows_what_they_can_do_too() -> None:
    # one by one, seen just before it was taken, twice; and a burst
    assert told((0, 1000), (0, 1200), (1, 1201), (150, 1202)).at(103.0) == 150 / 200


def test_the_second_in_which_they_come_back_is_no_pace() -> None:
    away = [(100 * second, 1000) for second in range(60)]
    assert told(*away, (5950, 1050)).at(160.0) == 0
    assert told(*away, (5950, 1050), (4950, 2050)).at(161.0) == 4.95


def test_workers_that_are_away_are_not_behind() -> None:
    assert told(*[(10 * second, 1000) for second in range(100)]).at(199.0) == 0
    busy = [(5000, 100 * second) for second in range(5)]
    gone = [(5000, 405)] * (SILENT + 1)  # in the second in which they went they ended five
    assert told(*busy, *gone[1:]).at(104.0 + SILENT) == pytest.approx(5000 / (305 / 4))
    assert told(*busy, *gone).at(105.0 + SILENT) == 0


def test_a_second_in_which_they_stood_still_is_a_part_of_their_pace_and_their_last_one_is_not() -> None:
    assert told((5000, 0), (5000, 100), (5000, 200), (5000, 200), (5000, 300)).at(104.0) == 75
    assert told((5000, 0), (5000, 100), (5000, 200), (5000, 200), (5000, 200)).at(104.0) == 50


def test_what_was_before_a_gap_in_the_figures_says_nothing() -> None:
    wait = told((500, 0), (500, 100), (500, 200))
    wait.saw(102.0 + GAP + 1, Ahead(500, 0, 210))
    assert wait.at(102.0 + GAP + 1) == 0
    wait.saw(102.0 + GAP + 2, Ahead(500, 0, 310))
    wait.saw(102.0 + GAP + 3, Ahead(500, 0, 410))
    assert wait.at(102.0 + GAP + 3) == 5


def test_a_queue_that_was_emptied_by_hand_counts_anew() -> None:
    assert told((5, 1000), (5, 1010), (5, 0)).at(102.0) == 0
    assert told((5, 1000), (5, 1010), (5, 0), (5, 10), (5, 20)).at(104.0) == 0.5
