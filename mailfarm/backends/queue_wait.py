"""How long until what is put now is filed: how much goes before it, by how fast workers end what they have.

The age of the oldest entry would say it too late: that one came in long ago, and what was let in since waits longer.
How fast is what was ended, and not what was handed out: a worker takes more at once than it files. It is reckoned over
the time, of the last twenty seconds, in which there always was something that nobody had taken: from the first second
in which something ended to the last one. So it is right also where workers end in heaps, some seconds apart, and
neither a burst nor a return from an outage in the middle of a second is taken for slowness. A second before that time
that ended more counts in its place. Entries that come again do not count as going before: one that the database cannot
work on may be a day old.

Where nothing was ended for ten seconds nothing is said. Workers that are away, or whose database is, are not behind:
the queue is there for just that, and takes mail up to its caps.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW: Final = 20
"""Seconds."""
SILENT: Final = 10
"""Seconds in which nothing was ended, after which nothing is said."""
GAP: Final = 5.0
"""Seconds without figures after which those before say nothing any more."""


class Ahead(NamedTuple):
    """How many entries go before what is put now, and how many have ended so far."""

    untouched: int
    """Never handed out."""
    leased: int
    ended: int


class _Look(NamedTuple):
    at: float
    ended: int
    """So far."""
    pace: float
    """Of the time since the look before."""
    untouched: bool
    """Whether anything was."""


class Wait:
    """Figures are told about once a second."""

    __slots__ = ("_ahead", "_looks", "_pace", "_put", "_seen")

    def __init__(self) -> None:
        self._seen = 0.0
        self._put = 0  # since then
        self._ahead = 0
        self._pace = 0.0  # 0: not known
        self._looks: deque[_Look] = deque()

    def at(self, now: float) -> float:
        """How long, in seconds, by the figures told last and what was put since beyond what may have been ended; 0 when
        nothing waits, or it is not known."""
        if not self._pace:
            return 0.0
        return self._ahead / self._pace + max(self._put / self._pace - (now - self._seen), 0.0)

    def put(self, entries: int) -> None:
        """So many were put since the figures were told."""
        self._put += entries

    def saw(self, now: float, ahead: Ahead) -> None:
        """What the server says at ``now``, on a steady clock."""
        looks = self._looks
        if looks and (now - looks[-1].at > GAP or ahead.ended < looks[-1].ended):  # emptied by hand: it counts anew
            looks.clear()
            self._pace = 0.0
        if not looks or now > looks[-1].at:
            pace = (ahead.ended - looks[-1].ended) / (now - looks[-1].at) if looks else 0.0
            looks.append(_Look(now, ahead.ended, pace, ahead.untouched > 0))
        while looks[0].at <= now - WINDOW:
            looks.popleft()
        if looks[-1].pace:
            self._pace = self._reckon()
        elif not any(look.pace for look in looks if look.at > now - SILENT):
            self._pace = 0.0  # while nothing ends, what they did before is the pace: they may be away
        self._seen, self._put = now, 0
        self._ahead = ahead.untouched + ahead.leased

    def _reckon(self) -> float:
        """What they end in a second, now that they have ended something; 0: that is not known."""
        fastest = before = 0.0
        first, last = None, self._looks[-1]
        for look in self._looks:
            fastest = max(fastest, look.pace)
            if not look.untouched:
                first, before = None, fastest
            elif first is None and look.pace:
                first = look
        if first is None or first is last:
            return 0.0
        return max((last.ended - first.ended) / (last.at - first.at), before)
