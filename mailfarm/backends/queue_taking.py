"""Taking from a queue that is somewhere else: look, then wait for a hint, and look now and then all the same.

Who waits is woken by a hint, by a lease or a pause that ends, and every ``LOOK`` seconds, for a hint may be lost. A
take may be cancelled: what it was about to hand out is given back, and has been when the CancelledError comes.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

from twisted.internet.defer import CancelledError, Deferred

from mailfarm.ports import Attempt

from .queue_takers import Takers

LOOK = 0.5
"""Seconds after which whoever waits looks without a hint."""

_SECOND = 1_000_000
_TAKE_MOST = 1000


class Turn(NamedTuple):
    """What one look gave. ``due`` is in how many µs an entry comes by itself, None when none will; ``alone`` asks that
    nothing else be handed out with it; ``more`` says that there may be more."""

    attempts: list[Attempt]
    due: int | None = None
    alone: bool = False
    more: bool = False


class Taking:
    """``look(limit, lease)`` leases what there is now; ``give_back(attempts)`` undoes that and never raises."""

    def __init__(
        self,
        reactor: Any,
        clock: Callable[[], int],
        look: Callable[[int, float], Coroutine[Any, Any, Turn]],
        give_back: Callable[[Sequence[Attempt]], Coroutine[Any, Any, None]],
    ) -> None:
        self._reactor = reactor
        self._clock = clock
        self._look = look
        self._give_back = give_back
        self._takers = Takers(reactor, clock)

    def wake(self, entries: int) -> None:
        """There may be so many entries."""
        self._takers.wake(entries)

    def ends(self, seconds: float) -> None:
        """A lease or a pause ends in so many seconds."""
        self._takers.look_at(self._clock() + int(seconds * _SECOND))

    def take(self, limit: int, lease: float, wait: float) -> Deferred[Sequence[Attempt]]:
        """At most ``limit`` entries for ``lease`` seconds, waiting ``wait`` seconds for the first."""
        if limit < 1:
            raise ValueError("a take of none")
        until = self._reactor.seconds() + wait
        return Deferred.fromCoroutine(self._take(min(limit, _TAKE_MOST), lease, until))

    async def _take(self, limit: int, lease: float, until: float) -> Sequence[Attempt]:
        while True:
            wakes = self._takers.wakes
            over: Deferred[None] = Deferred()
            try:
                turn = await self._once(limit, lease, over)
            except CancelledError:
                await over  # who cancels may be about to end the process
                raise
            if turn.attempts:
                if turn.more:
                    self._takers.wake(1)
                return turn.attempts
            left = until - self._reactor.seconds()
            if left <= 0:
                return ()
            if wakes == self._takers.wakes and not turn.more:
                due = None if turn.due is None else self._clock() + turn.due
                await self._takers.pause(limit, min(left, LOOK), due)

    def _once(self, limit: int, lease: float, over: Deferred[None]) -> Deferred[Turn]:
        outer: Deferred[Turn] = Deferred()

        async def look() -> None:
            try:
                turn = await self._look(limit, lease)
            except BaseException as error:
                if not outer.called:
                    outer.errback(error)
                return
            if not outer.called:
                if turn.attempts:
                    self.ends(lease)
                outer.callback(turn)
            elif turn.attempts:
                await self._give_back(turn.attempts)
            else:
                self._takers.wake(1)  # it may have been woken for an entry that another can take

        Deferred.fromCoroutine(look()).addBoth(lambda _: over.callback(None))
        return outer
