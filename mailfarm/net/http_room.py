"""Octets that all connections of a port hold together, with a cap.

When there are too many, who has held its own for the longest without progress gives way.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

ASKED_AGAIN: Final = 100
"""So many are asked whether they made progress, each time that there is no room; then the next one goes."""


class Room(Generic[T]):
    """At most ``most`` octets. ``progress`` tells of a holder what it holds by now, if it made progress since it was
    asked last, else None: then it is given up, and ``give_way`` is called with it."""

    def __init__(self, most: int, progress: Callable[[T], int | None], give_way: Callable[[T], None]) -> None:
        self._most = most
        self._progress = progress
        self._give_way = give_way
        self._held: OrderedDict[T, int] = OrderedDict()
        self.octets = 0

    def __len__(self) -> int:
        return len(self._held)

    def hold(self, who: T, octets: int) -> None:
        """``who`` holds so many octets now; 0 is none. One alone is never given up."""
        self.octets += octets - self._held.get(who, 0)
        if octets:
            self._held[who] = octets
            self._make_room()
        else:
            self._held.pop(who, None)

    def renew(self, who: T, octets: int) -> None:
        """``who`` made progress, and holds so many octets now: others go first."""
        if who in self._held:
            self.octets += octets - self._held[who]
            self._held[who] = octets
            self._held.move_to_end(who)

    def _make_room(self) -> None:
        asked = 0
        while self.octets > self._most and len(self._held) > 1:
            oldest, held = next(iter(self._held.items()))
            now = self._progress(oldest) if asked < ASKED_AGAIN else None
            asked += 1
            if now is not None:
                self.renew(oldest, now)
            else:
                del self._held[oldest]
                self.octets -= held
                self._give_way(oldest)
