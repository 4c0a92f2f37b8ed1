"""Work in portions: who has more goes on later, once however often it was asked for."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock

from mailfarm.net.portions import Portions


def test_who_asked_goes_on_later_and_once() -> None:
    clock, done = Clock(), list[str]()
    portions = Portions(clock)

    def one() -> None:
        done.append("one")

    def other() -> None:
        done.append("other")
        if done.count("other") < 3:
            portions.add(other)

    for _ in range(2):
        portions.add(one)
    portions.add(other)
    assert one in portions
    assert not done
    clock.advance(0)
    assert one not in portions
    assert done == ["one", "other", "other", "other"]
    assert not clock.getDelayedCalls()


def test_one_that_fails_keeps_nobody_else_waiting(said: Any) -> None:
    clock, done = Clock(), list[str]()
    portions = Portions(clock)

    def fails() -> None:
        raise ValueError("a defect of ours")

    portions.add(fails)
    portions.add(lambda: done.append("other"))
    clock.advance(0)
    assert done == ["other"]
