"""Ends of entries that may wait a moment for the next take, to cross to the server with it.

Each call is a journey and a sync of the server's. A worker that has done with an entry soon asks for another one, or
the one beside it does: then the two are one call. An end that no take has gone with in time goes by itself.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

T = TypeVar("T")


class _Gathered(NamedTuple):
    """Ends on their way."""

    fences: list[str]
    waiting: list[Deferred[None]]

    def told(self, failure: Failure | None = None) -> None:
        """They have ended, or the call has failed."""
        for each in self.waiting:
            if not each.called:  # cancelled
                each.callback(failure)  # a Failure goes the other way by itself


class Ends:
    """``end(fences)`` is the call that does nothing else; one call has at most ``most`` fences."""

    def __init__(self, reactor: Any, end: Callable[[Sequence[str]], Awaitable[None]], most: int) -> None:
        self._reactor = reactor
        self._end = end
        self._most = most
        self._kept: list[tuple[Sequence[str], Deferred[None]]] = []
        self._timer: Any = None

    def add(self, fences: Sequence[str], within: float) -> Deferred[None]:
        """Fires when they have ended. Fails as the call did that they went with."""
        ended: Deferred[None] = Deferred()
        self._kept.append((fences, ended))
        at = self._reactor.seconds() + within
        if self._timer is None or at < self._timer.getTime():
            self._stop_timer()
            self._timer = self._reactor.callLater(within, self.flush)
        return ended

    async def along(self, call: Callable[[Sequence[str]], Awaitable[T]]) -> T:
        """Make a call that takes along what waits, and ends it."""
        gathered = self._gather()
        try:
            answer = await call(gathered.fences)
        except BaseException:
            gathered.told(Failure())
            raise
        gathered.told()
        return answer

    def flush(self) -> Deferred[Any]:
        """Wait for no take. Fires when all that was kept has ended, or could not be."""
        calls = []
        while self._kept:
            call = Deferred.fromCoroutine(self.along(self._end))
            calls.append(call.addErrback(lambda failure: None))  # those who wait were told
        return DeferredList(calls)

    def _gather(self) -> _Gathered:
        gathered = _Gathered([], [])
        while self._kept:
            fences, ended = self._kept[0]
            if gathered.fences and len(gathered.fences) + len(fences) > self._most:
                break
            del self._kept[0]
            gathered.fences.extend(fences)
            gathered.waiting.append(ended)
        if not self._kept:
            self._stop_timer()
        return gathered

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
