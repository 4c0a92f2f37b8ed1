"""Running a coroutine that mostly need not wait."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from mailfarm.net.driving import drive


async def adding(*waits: Any) -> int:
    return sum([await each for each in waits])


def test_what_need_not_wait_is_a_value() -> None:
    assert drive(adding()) == 0
    assert drive(adding(succeed(1), adding(succeed(2)))) == 3


def test_what_waits_is_a_deferred_however_often_it_waits() -> None:
    first, second = Deferred[int](), Deferred[int]()
    told = drive(adding(first, succeed(1), adding(second)))
    assert isinstance(told, Deferred)
    first.callback(2)
    assert not told.called
    second.callback(3)
    assert told.called
    assert told.result == 6


def test_what_fails_before_it_waits_is_raised_and_later_it_is_a_failure() -> None:
    with pytest.raises(ZeroDivisionError):
        drive(adding(fail(ZeroDivisionError())))
    first: Deferred[int] = Deferred()
    told = drive(adding(first, fail(ZeroDivisionError())))
    assert isinstance(told, Deferred)
    first.callback(1)
    caught: list[type[BaseException]] = []
    told.addErrback(lambda failure: caught.append(failure.type))
    assert caught == [ZeroDivisionError]


def test_a_failure_arrives_where_it_is_awaited() -> None:
    first: Deferred[int] = Deferred()

    async def mending() -> int:
        try:
            return await first
        except ZeroDivisionError:
            return 7

    told = drive(mending())
    assert isinstance(told, Deferred)
    first.errback(ZeroDivisionError())
    assert told.called
    assert told.result == 7


def test_a_deferred_is_given_back_as_it_is() -> None:
    waiting: Deferred[int] = Deferred()
    assert drive(waiting) is waiting
