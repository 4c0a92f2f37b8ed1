"""Taking from a queue that is somewhere else: look, then wait for a hint, and look now and then all the same.

Who waits is woken by a hint, by a lease or a pause that ends, and every ``LOOK`` seconds, for a hint may be lost. What
a look left empty is empty until then for all who take here: who would wait does not look first. A take may be
cancelled: what it was about to hand out is given back, and has been when the CancelledError comes.
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


class _Empty(NamedTuple):
    """A look that left nothing: how many hints there had been when it began, when that was by the reactor's clock, and
    when an entry comes by itself."""

    wakes: int
    began: float
    due: int | None


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
        self._empty: _Empty | None = None

    def wake(self, entries: int) -> None:
        """There may be so many entries."""
        self._takers.wake(entries)

    def ends(self, seconds: float) -> None:
        """A lease or a pause ends in so many seconds."""
        due = self._clock() + int(seconds * _SECOND)
        self._takers.look_at(due)
        if self._empty is not None and (self._empty.due is None or due < self._empty.due):
            self._empty = self._empty._replace(due=due)

    def take(self, limit: int, lease: float, wait: float) -> Deferred[Sequence[Attempt]]:
        """At most ``limit`` entries for ``lease`` seconds, waiting ``wait`` seconds for the first."""
        if limit < 1:
            raise ValueError("a take of none")
        until = self._reactor.seconds() + wait
        return Deferred.fromCoroutine(self._take(min(limit, _TAKE_MOST), lease, until))

    async def _take(self, limit: int, lease: float, until: float) -> Sequence[Attempt]:
        while True:
            left = until - self._reactor.seconds()
            if left > 0 and (idle := self._idle()) > 0:
                await self._takers.pause(limit, min(left, idle), self._empty and self._empty.due)
                continue
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
            if left <= 0:
                return ()

    def _idle(self) -> float:
        """For how many seconds nobody need look."""
        if self._empty is None or self._empty.wakes != self._takers.wakes:
            return 0.0
        since = self._reactor.seconds() - self._empty.began
        return LOOK - since if since >= 0 else 0.0  # the clock was set back

    def _once(self, limit: int, lease: float, over: Deferred[None]) -> Deferred[Turn]:
        outer: Deferred[Turn] = Deferred()
        wakes, began = self._takers.wakes, self._reactor.seconds()

        async def look() -> None:
            try:
                turn = await self._look(limit, lease)
                if not turn.more:
                    due = None if turn.due is None else self._clock() + turn.due
                    self._empty = _Empty(wakes, began, due)
            except BaseException as error:
                self._empty = None
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
