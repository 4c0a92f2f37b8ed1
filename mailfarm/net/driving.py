"""Running a coroutine that mostly need not wait.

Most of what a session is asked is known at once: then there is no Deferred, and no more cost than that of a call.
``Deferred.fromCoroutine`` makes one, and one more each time the coroutine waits.
"""

from __future__ import annotations

from collections.abc import Awaitable
from types import CoroutineType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")


def drive(work: Awaitable[T]) -> T | Deferred[T]:
    """Run ``work``, a coroutine that awaits Deferreds or a Deferred itself, as far as it goes without waiting: its
    value, or a Deferred of it. Raises what it raises before it first waits. What waits cannot be cancelled."""
    if type(work) is not CoroutineType:
        assert isinstance(work, Deferred)
        return work
    steps: Any = work
    try:
        awaited: Deferred[Any] = steps.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    told: Deferred[T] = Deferred()
    awaited.addBoth(_go_on, steps, told)
    return told


def _go_on(outcome: Any, work: Any, told: Deferred[Any]) -> None:
    try:
        awaited = outcome.throwExceptionIntoGenerator(work) if isinstance(outcome, Failure) else work.send(outcome)
    except StopIteration as end:
        told.callback(end.value)
    except BaseException:
        told.errback(Failure())
    else:
        awaited.addBoth(_go_on, work, told)
