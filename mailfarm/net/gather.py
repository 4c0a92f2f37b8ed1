"""Look-ups that share a journey: while one is under way, those that come meanwhile gather for the next.

Nothing is cached: every answer comes from a look that began after it was asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

K = TypeVar("K")
V = TypeVar("V")

AT_ONCE = 200
"""Keys in one look."""


class Gather(Generic[K, V]):
    """``look`` is given keys without doubles and answers with a value for each."""

    def __init__(self, look: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]]) -> None:
        self._look = look
        self._waiting: dict[K, list[Deferred[V]]] = {}
        self._looking = False

    def get(self, key: K) -> Deferred[V]:
        """The value of ``key`` now. Fails as ``look`` does."""
        return self.get_all((key,))[0]

    def get_all(self, keys: Sequence[K]) -> list[Deferred[V]]:
        """The values of ``keys`` now, in one journey if none is under way and they are not too many."""
        asked: list[Deferred[V]] = []
        for key in keys:
            waiting: Deferred[V] = Deferred()
            self._waiting.setdefault(key, []).append(waiting)
            asked.append(waiting)
        if not self._looking:
            self._go()
        return asked

    def _go(self) -> None:
        keys = tuple(self._waiting)[:AT_ONCE]
        group = {key: self._waiting.pop(key) for key in keys}
        self._looking = True
        ensureDeferred(self._ask(keys)).addCallbacks(self._found, self._failed, (group,), errbackArgs=(group,))

    async def _ask(self, keys: Sequence[K]) -> Mapping[K, V]:
        return await self._look(keys)

    def _found(self, values: Mapping[K, V], group: dict[K, list[Deferred[V]]]) -> None:
        self._next()
        # the last one first: who waits for the first may go on to all the others without waiting again
        for key, waiting in reversed(group.items()):
            for each in waiting:
                if key in values:
                    each.callback(values[key])
                else:
                    each.errback(KeyError(key))

    def _failed(self, failure: Failure, group: dict[K, list[Deferred[V]]]) -> None:
        self._next()
        for waiting in group.values():
            for each in waiting:
                each.errback(failure.value)

    def _next(self) -> None:
        self._looking = False
        if self._waiting:
            self._go()
