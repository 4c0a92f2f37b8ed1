"""Waiting for a queue that was left empty: without a hint nobody waits longer than ``LOOK``."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from twisted.internet.task import Clock

from mailfarm.backends.queue_taking import LOOK, Taking, Turn


@pytest.mark.parametrize("step", [0.0, 20.0])
def test_an_entry_of_which_no_hint_came_is_found_however_the_clock_is_set_back(step: float) -> None:
    clock, entries = Clock(), []

    async def look(limit: int, lease: float) -> Turn:
        found, entries[:] = list(entries), []
        return Turn(found)

    async def give_back(attempts: object) -> None:
        raise AssertionError("nothing is given back")

    taking = Taking(clock, lambda: int(clock.seconds() * 1e6), look, give_back)
    clock.advance(100)
    taking.take(1, 60, 0)  # leaves it empty
    clock.rightNow -= step
    entry = SimpleNamespace(fence="1")
    entries.append(entry)
    taken = taking.take(1, 60, 30.0)
    clock.pump([0.05] * round(LOOK / 0.05 + 1))
    assert taken.called
    assert list(taken.result) == [entry]
