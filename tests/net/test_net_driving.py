"""Running a coroutine that mostly need not wait."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from mailfarm.net.driving import WAITING, drive


async def adding(*waits: Any) -> int:
    return sum([await each for each in waits])


def test_what_need_not_wait_is_a_value() -> None:
    told: list[Any] = []
    assert drive(adding(), told.append) == 0
    assert drive(adding(succeed(1), adding(succeed(2))), told.append) == 3
    assert told == []


def test_what_waits_is_told_once_however_often_it_waits() -> None:
    first, second = Deferred[int](), Deferred[int]()
    told: list[Any] = []
    assert drive(adding(first, succeed(1), adding(second)), told.append) is WAITING
    first.callback(2)
    assert told == []
    second.callback(3)
    assert told == [6]


def test_what_fails_before_it_waits_is_raised_and_later_it_is_a_failure() -> None:
    told: list[Any] = []
    with pytest.raises(ZeroDivisionError):
        drive(adding(fail(ZeroDivisionError())), told.append)
    first: Deferred[int] = Deferred()
    assert drive(adding(first, fail(ZeroDivisionError())), told.append) is WAITING
    first.callback(1)
    (failure,) = told
    assert isinstance(failure, Failure)
    assert failure.type is ZeroDivisionError


def test_a_failure_arrives_where_it_is_awaited() -> None:
    first: Deferred[int] = Deferred()

    async def mending() -> int:
        try:
            return await first
        except ZeroDivisionError:
            return 7

    told: list[Any] = []
    assert drive(mending(), told.append) is WAITING
    first.errback(ZeroDivisionError())
    assert told == [7]


def test_a_deferred_tells_too_even_at_once() -> None:
    waiting: Deferred[int] = Deferred()
    told: list[Any] = []
    assert drive(waiting, told.append) is WAITING
    waiting.callback(1)
    assert drive(succeed(2), told.append) is WAITING
    assert told == [1, 2]
