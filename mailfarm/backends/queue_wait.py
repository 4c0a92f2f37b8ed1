"""How long what is put now will wait for its turn: how many wait, by how fast workers take them.

The age of the oldest entry would say it too late: that one came in long ago, and what was let in since waits longer.
How fast is the best second of the last ten. Entries that come again do not count: one that the database cannot work on
may be a day old.

Where nobody has taken anything for ten seconds nothing is said. Workers that are away, or whose database is, are not
behind: the queue is there for just that, and takes mail up to its caps. Nor is anything said until two of the last ten
seconds have found them at work and more to do: what they take while there is little to take, or in the part of a second
since they are back, is not their pace.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW: Final = 10
"""Seconds."""


class Untouched(NamedTuple):
    """How many entries were never handed out, and the number of the last one that was; they are numbered in order."""

    entries: int
    handed_out: int


class Wait:
    """Figures are told about once a second."""

    __slots__ = ("_last", "_paces", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        """How long, by the figures told last; 0 when nothing waits, or it is not known."""
        self._last: tuple[float, int] | None = None
        self._paces: deque[tuple[float, float, bool]] = deque()
        """When, how many a second were taken, and whether workers took something and left something."""

    def saw(self, now: float, untouched: Untouched) -> None:
        """What the server says at ``now``, on a steady clock."""
        if self._last is not None and now > self._last[0]:
            # below 0: the queue was emptied by hand, and counts anew
            taken = max(untouched.handed_out - self._last[1], 0)
            self._paces.append((now, taken / (now - self._last[0]), taken > 0 and untouched.entries > 0))
        self._last = now, untouched.handed_out
        while self._paces and self._paces[0][0] <= now - WINDOW:
            self._paces.popleft()
        known = sum(busy for _, _, busy in self._paces) > 1
        self.seconds = untouched.entries / max(pace for _, pace, _ in self._paces) if known else 0.0
