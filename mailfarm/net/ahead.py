"""Looking up what a pipelining client has asked for already, together, before its turn has come.

The commands are here, so a look that begins now is none too early: its answer is as new as one that begins when their
turn has come a few milliseconds later, and a hundred recipients cost one journey instead of a hundred.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from twisted.internet.defer import Deferred

from .lookups import FRESH, PATIENCE, Failed, Lookups, as_failed, too_late

K = TypeVar("K")
V = TypeVar("V")

MOST: Final = 200
"""Keys one session looks up ahead."""


@dataclass(slots=True)
class _Turns(Generic[V]):
    """One look for all who had asked for the same when it began: ``left`` of them have not had their turn yet."""

    left: int
    asked: Deferred[Any]
    answer: tuple[V | Failed] | None = None

    def keep(self, answer: V | Failed) -> V | Failed:
        self.answer = (answer,)
        return answer


class Ahead(Generic[K, V]):
    """One session's look-ups. ``forget`` them when the batch is over."""

    __slots__ = ("_asked", "_began", "_lookups", "_reactor")

    def __init__(self, lookups: Lookups[K, V], reactor: Any) -> None:
        self._lookups = lookups
        self._reactor = reactor
        self._asked: dict[K, _Turns[V]] = {}
        self._began = 0.0

    def known(self, key: K) -> tuple[V] | None:
        """The value of ``key``, if it need not be waited for: it is remembered and may be served, or has been answered.
        None asks to ``get`` it."""
        turns = self._turns(key)
        if turns is None:
            known = self._lookups.known(key)
            return None if known is None else (known.value,)
        if turns.answer is None:
            return None
        (answer,) = turns.answer
        if isinstance(answer, Failed):
            return None
        self._take(key, turns)
        return (answer,)

    async def get(self, key: K, coming: Callable[[], Iterable[K]]) -> V:
        """The value of ``key``. ``coming`` gives those that are asked for next. Raises what the look raises."""
        turns = self._turns(key)
        if turns is None:
            known = self._lookups.known(key)
            if known is not None:
                return known.value
            turns = self._ask(key, coming())
        self._take(key, turns)
        return await self._settle(key, turns)

    def forget(self) -> None:
        """What was asked for ahead is not wanted any more."""
        self._asked.clear()

    def _turns(self, key: K) -> _Turns[V] | None:
        if self._asked and self._reactor.seconds() - self._began > FRESH:
            self.forget()  # its turn was long in coming
        return self._asked.get(key)

    def _take(self, key: K, turns: _Turns[V]) -> None:
        turns.left -= 1
        if not turns.left:
            del self._asked[key]

    def _ask(self, key: K, coming: Iterable[K]) -> _Turns[V]:
        """Ask for ``key``, and for those of the coming ones that need be asked for."""
        self._began = self._reactor.seconds()
        wanted = {key: 1}
        for each in coming:
            if each in wanted:
                wanted[each] += 1
            elif len(self._asked) + len(wanted) > MOST:
                break
            elif each not in self._asked and self._lookups.known(each, renew=False) is None:
                wanted[each] = 1
        for (each, left), asked in zip(wanted.items(), self._lookups.begin(tuple(wanted)), strict=True):
            turns: _Turns[V] = _Turns(left, asked)
            asked.addCallback(turns.keep)
            self._asked[each] = turns
        return self._asked[key]

    async def _settle(self, key: K, turns: _Turns[V]) -> V:
        if turns.answer is None:
            turns.asked.addTimeout(PATIENCE, self._reactor, too_late).addErrback(as_failed)
            turns.answer = (await turns.asked,)
        (answer,) = turns.answer
        if not isinstance(answer, Failed):
            return answer
        self._asked.pop(key, None)  # whoever asks for it later is told how it is then
        known = self._lookups.known(key)
        if known is None:
            raise answer.error
        return known.value
