"""Requests of one reactor pass, put to Redis in one call, with a time by which each of them is answered.

::

    ask(a), ask(b), ask(c)  ->  one call at the end of the pass  ->  each Deferred fires with its own answer
                                too late, refused or cut off     ->  each fires with UNANSWERED

What was asked and not answered may have been done all the same. While a call is under way others may leave: Redis
works on them in order. A call carries at most ``most`` of what requests weigh together, or one request that weighs
more, so that none of them keeps Redis from the others for long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

Ask = TypeVar("Ask")


class _Unanswered:
    def __repr__(self) -> str:
        return "UNANSWERED"


UNANSWERED: Final = _Unanswered()
"""What a request is told that got no answer."""


class _Call:
    __slots__ = ("asked", "timer", "waiting")

    def __init__(self, asked: list[Any], waiting: list[Deferred[Any]]) -> None:
        self.asked = asked
        self.waiting = waiting
        self.timer: Any = None


class Batch(Generic[Ask]):
    """``send`` puts a list of requests and returns a Deferred of as many answers. ``lost`` is told why a call got none;
    it may call ``give_up``. ``timeout`` is in seconds."""

    def __init__(
        self,
        send: Callable[[list[Ask]], Deferred[Sequence[Any]]],
        lost: Callable[[str], None],
        reactor: Any,
        *,
        timeout: float,
        most: int,
        weigh: Callable[[Ask], int] = lambda _: 1,
    ) -> None:
        self._send = send
        self._lost = lost
        self._reactor = reactor
        self._timeout = timeout
        self._most = most
        self._weigh = weigh
        self._asked: list[Ask] = []
        self._waiting: list[Deferred[Any]] = []
        self._leaving: Any = None
        self._under_way: dict[_Call, None] = {}

    def ask(self, request: Ask) -> Deferred[Any]:
        """The answer to ``request``, or UNANSWERED within the timeout. Never fails."""
        answer: Deferred[Any] = Deferred()
        self._asked.append(request)
        self._waiting.append(answer)
        if self._leaving is None:
            self._leaving = self._reactor.callLater(0, self._leave)
        return answer

    def give_up(self) -> None:
        """Tell everyone UNANSWERED who still waits, whether their call has left or not."""
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None
        waiting, self._asked, self._waiting = self._waiting, [], []
        for call in tuple(self._under_way):
            self._forget(call)
            waiting.extend(call.waiting)
        for answer in waiting:
            answer.callback(UNANSWERED)

    def _leave(self) -> None:
        self._leaving = None
        asked, waiting, self._asked, self._waiting = self._asked, self._waiting, [], []
        start = weight = 0
        for end, request in enumerate(asked):
            heavy = self._weigh(request)
            if end > start and weight + heavy > self._most:
                self._call(_Call(asked[start:end], waiting[start:end]))
                start, weight = end, 0
            weight += heavy
        self._call(_Call(asked[start:], waiting[start:]))

    def _call(self, call: _Call) -> None:
        self._under_way[call] = None
        call.timer = self._reactor.callLater(self._timeout, self._late, call)
        self._send(call.asked).addCallbacks(self._answered, self._failed, callbackArgs=(call,), errbackArgs=(call,))

    def _answered(self, answers: Sequence[Any], call: _Call) -> None:
        if call in self._under_way:
            self._forget(call)
            for answer, waiting in zip(answers, call.waiting, strict=True):
                waiting.callback(answer)

    def _failed(self, failure: Failure, call: _Call) -> None:
        if call in self._under_way:
            self._end(call, failure.getErrorMessage())

    def _late(self, call: _Call) -> None:
        # The answer may have come while this process was busy elsewhere: read what is there to be read first.
        call.timer = self._reactor.callLater(0, self._end, call, f"no answer within {self._timeout:g} s")

    def _end(self, call: _Call, why: str) -> None:
        self._forget(call)
        self._lost(why)  # before anyone is told, and asks again
        for waiting in call.waiting:
            waiting.callback(UNANSWERED)

    def _forget(self, call: _Call) -> None:
        del self._under_way[call]
        if call.timer is not None and call.timer.active():
            call.timer.cancel()
