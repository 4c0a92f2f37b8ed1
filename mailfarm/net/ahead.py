"""Looking up what a pipelining client has asked for already, together, before its turn has come.

The commands are here, so a look that begins now is none too early: its answer is as new as one that begins when their
turn has come a few milliseconds later, and a hundred recipients cost one journey instead of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred

from .lookups import FRESH, PATIENCE, Answer, Failed, Lookups, as_failed, too_late

K = TypeVar("K")
V = TypeVar("V")

MOST: Final = 200
"""Keys one session looks up ahead."""


class Ahead(Generic[K, V]):
    """One session's look-ups. ``forget`` them when the batch is over."""

    __slots__ = ("_asked", "_began", "_lookups", "_reactor")

    def __init__(self, lookups: Lookups[K, V], reactor: Any) -> None:
        self._lookups = lookups
        self._reactor = reactor
        self._asked: dict[K, Deferred[Any]] = {}
        self._began = 0.0

    def known(self, key: K) -> Answer[V] | None:
        """What is remembered of ``key`` and may be served without waiting; None asks to ``get`` it."""
        return None if self._asked else self._lookups.known(key)

    async def get(self, key: K, coming: Callable[[], Iterable[K]]) -> V:
        """The value of ``key``. ``coming`` gives those that are asked for next. Raises what the look raises."""
        if self._asked and self._reactor.seconds() - self._began > FRESH:
            self.forget()  # its turn was long in coming
        asked = self._asked.pop(key, None)
        if asked is not None:
            return await self._settle(key, asked)
        known = self._lookups.known(key)
        if known is not None:
            return known.value
        return await self._settle(key, self._ask(key, coming()))

    def forget(self) -> None:
        """What was asked for ahead is not wanted any more."""
        self._asked.clear()

    def _ask(self, key: K, coming: Iterable[K]) -> Deferred[Any]:
        """Ask for ``key``, and for those of the coming ones that need be asked for."""
        self._began = self._reactor.seconds()
        wanted = {key: None}
        for each in coming:
            if len(self._asked) + len(wanted) > MOST:
                break
            if each not in wanted and each not in self._asked and self._lookups.known(each, renew=False) is None:
                wanted[each] = None
        first, *others = self._lookups.begin(tuple(wanted))
        self._asked.update(zip(list(wanted)[1:], others, strict=True))
        return first

    async def _settle(self, key: K, asked: Deferred[Any]) -> V:
        if not asked.called:
            asked.addTimeout(PATIENCE, self._reactor, too_late).addErrback(as_failed)
        answer = await asked
        if not isinstance(answer, Failed):
            value: V = answer
            return value
        known = self._lookups.known(key)
        if known is None:
            raise answer.error
        return known.value
