"""How long until what is put now is filed: how much goes before it, by how fast workers end what they have.

The age of the oldest entry would say it too late: that one came in long ago, and what was let in since waits longer.
How fast is what was ended, and not what was handed out: a worker takes more at once than it files. It is the mean of
the busy seconds of the last ten: those that began and ended with something nobody had taken yet, and followed one in
which workers were at work, so that no burst at their end and no return from an outage in their middle is taken for
slowness. A second that was not busy and ended more counts in their place. Entries that come again do not count as
going before: one that the database cannot work on may be a day old.

Where nothing was ended for ten seconds nothing is said, and nothing until there was a busy second. Workers that are
away, or whose database is, are not behind: the queue is there for just that, and takes mail up to its caps.
"""

from __future__ import annotations

from collections import deque
from typing import Final, NamedTuple

WINDOW: Final = 10
"""Seconds."""


class Ahead(NamedTuple):
    """How many entries go before what is put now, and how many have ended so far."""

    untouched: int
    """Never handed out."""
    leased: int
    ended: int


class _Second(NamedTuple):
    at: float
    pace: float
    busy: bool


class Wait:
    """Figures are told about once a second."""

    __slots__ = ("_ahead", "_last", "_pace", "_put", "_seconds", "_seen")

    def __init__(self) -> None:
        self._seen = 0.0
        self._last: Ahead | None = None
        self._put = 0  # since then
        self._ahead = 0
        self._pace = 0.0  # 0: not known
        self._seconds: deque[_Second] = deque()

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
        last, seconds = self._last, self._seconds
        if last is not None and now > self._seen:
            ended = max(ahead.ended - last.ended, 0)  # below 0: the queue was emptied by hand, and counts anew
            at_work = bool(seconds) and seconds[-1].pace > 0
            busy = at_work and ended > 0 and last.untouched > 0 and ahead.untouched > 0
            seconds.append(_Second(now, ended / (now - self._seen), busy))
        self._seen, self._last, self._put = now, ahead, 0
        while seconds and seconds[0].at <= now - WINDOW:
            seconds.popleft()
        busy_ones = [second.pace for second in seconds if second.busy]
        others = max((second.pace for second in seconds if not second.busy), default=0.0)
        self._pace = max(sum(busy_ones) / len(busy_ones), others) if busy_ones else 0.0
        self._ahead = ahead.untouched + ahead.leased
