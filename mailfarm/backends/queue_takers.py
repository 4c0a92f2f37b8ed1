"""Workers that found nothing in a queue and wait, without polling, until there may be something."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred

_SECOND = 1_000_000


class _Taker:
    __slots__ = ("limit", "woken")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.woken: Deferred[None] = Deferred()


class Takers:
    """Those who wait, first come first woken. ``clock`` gives microseconds since 1970.

    Look first, then wait: who looks keeps ``wakes`` from before, and does not wait when it has changed since.
    """

    def __init__(self, reactor: Any, clock: Callable[[], int]) -> None:
        self.wakes = 0
        self._reactor = reactor
        self._clock = clock
        self._waiting: deque[_Taker] = deque()
        self._timer: Any = None
        self._timer_at = 0

    async def pause(self, limit: int, seconds: float, due: int | None) -> None:
        """Come back when woken, at the latest after ``seconds``. ``due`` is when an entry comes by itself."""
        taker = _Taker(limit)
        self._waiting.append(taker)
        if due is not None:
            self.look_at(due)
        call = self._reactor.callLater(seconds, self._give_up, taker)
        try:
            await taker.woken
        finally:  # also when cancelled
            if call.active():
                call.cancel()
            if taker in self._waiting:
                self._waiting.remove(taker)
            if not self._waiting:
                self._stop_timer()

    def wake(self, entries: int) -> None:
        """Entries became ready: wake as many as may be needed for them."""
        self.wakes += 1
        while self._waiting and entries > 0:
            taker = self._waiting.popleft()
            entries -= taker.limit
            taker.woken.callback(None)

    def look_at(self, due: int) -> None:
        """An entry comes by itself then (a lease ends, a pause is over): see to it that somebody looks."""
        if not self._waiting or (self._timer is not None and self._timer_at <= due):
            return
        self._stop_timer()
        self._timer_at = due
        # a millisecond later than due, or rounding would have it look too early, again and again
        self._timer = self._reactor.callLater(max(0.0, (due - self._clock()) / _SECOND) + 0.001, self._look)

    def _look(self) -> None:
        self._timer = None
        self.wake(1)

    def _give_up(self, taker: _Taker) -> None:
        if taker in self._waiting:
            self._waiting.remove(taker)
            taker.woken.callback(None)

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()
