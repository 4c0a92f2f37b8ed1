"""Running a coroutine that mostly need not wait.

Most of what a session is asked is known at once: then there is no Deferred, and no more cost than that of a call. What
waits tells its outcome by a call too. ``Deferred.fromCoroutine`` makes one, and one more each time the coroutine waits.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import CoroutineType
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

T = TypeVar("T")
Tell = Callable[[Any], object]


class _Waiting:
    def __repr__(self) -> str:
        return "WAITING"


WAITING: Final = _Waiting()
"""The outcome is not there yet."""


def drive(work: Awaitable[T], tell: Tell) -> T | _Waiting:
    """Run ``work``, a coroutine that awaits Deferreds or a Deferred itself, as far as it goes without waiting: its
    value, or WAITING. Then ``tell``, which must not raise, is called once with the value or a Failure; that may be
    before this returns. Raises what it raises before it first waits. What waits cannot be cancelled."""
    if type(work) is not CoroutineType:
        assert isinstance(work, Deferred)
        work.addBoth(tell)
        return WAITING
    steps: Any = work
    try:
        awaited: Deferred[Any] = steps.send(None)
    except StopIteration as end:
        value: T = end.value
        return value
    awaited.addBoth(_go_on, steps, tell)
    return WAITING


def _go_on(outcome: Any, work: Any, tell: Tell) -> None:
    try:
        awaited = outcome.throwExceptionIntoGenerator(work) if isinstance(outcome, Failure) else work.send(outcome)
    except StopIteration as end:
        outcome = end.value
    except BaseException:
        outcome = Failure()
    else:
        awaited.addBoth(_go_on, work, tell)
        return
    tell(outcome)
