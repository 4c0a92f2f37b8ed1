"""Whose turn it is while mail comes in faster than it can be filed: an equal share for each, and less until it can.

The queue says how far behind it is (``QueueBehind``). Once that is too far everyone has the same ``share``, a number of
messages a second, as in a fair queue (RFC 970): who brings less than that notices nothing, who brings fifty times as
much is let in with as much as the others and refused the rest, before content. Nobody needs to know who is noisy.

The share is found as TCP finds its rate (RFC 5681), once a second:

======================================  ===================================================
the queue is behind                     the share is
======================================  ===================================================
too far (1.0), and falls back further   halved
too far, and hardly comes nearer        a tenth less (less than ``NEARER``)
too far, and comes nearer               left
more than half as far                   a tenth more
less                                    half as much again, or none any more if nobody was refused
twice too far (2.0)                     nobody's: mail hears 451, and who connects hears 421;
                                        halved if anybody was let in that second
======================================  ===================================================

Between these lies its hysteresis. After ``FORGOTTEN`` seconds in which nobody came everybody is let in. Listeners do
not talk to each other: all hear of the same queue, and come to about the same share.

Shares are a group's: an account, a client's network. Its members, credentials, have equal parts of it, and each at
least one message a second. What was counted is forgotten each second, so it is bounded by what came in two of them.

A refusal of this kind waits for ``PAUSE`` seconds: a client that asks again at once would cost more than its mail.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge

from mailfarm.errors import QueueBehind

PAUSE: Final = 1.0
FORGOTTEN: Final = 10.0
LESS: Final = 0.5
A_LITTLE_LESS: Final = 0.9
MORE: Final = 1.1
MUCH_MORE: Final = 1.5
NEARER: Final = 0.25
"""Seconds by which the wait becomes shorter in each, while it is too long: else it is not soon over."""
_SECOND: Final = 1.0


class Sender(NamedTuple):
    """Who brings mail: an account and one of its credentials, or a client's network and itself."""

    group: str
    member: str


class Pressure:
    """For one service. ``seconds`` is a steady clock; ``tell`` hears, for the log, when shares begin and end."""

    def __init__(
        self,
        service: str,
        seconds: Callable[[], float],
        registry: CollectorRegistry,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.share: float | None = None
        """Messages that a group may bring in each second; None: any."""
        self.closed = False
        """Whether nobody is let in."""
        self._seconds = seconds
        self._tell = tell
        self._ends = 0.0  # of the second that is counted
        self._counts: dict[str, dict[str, int]] = {}
        self._before: dict[str, dict[str, int]] = {}
        self._by = 0.0  # how far the queue was behind in this second, at most
        self._last_by = 0.0
        self._why, self._allowed = "", QueueBehind.ALLOWED
        self._refused_now = False
        gauge = Gauge(
            f"mailfarm_{service}_share", "Messages a second each may bring in; -1: any number", registry=registry
        )
        gauge.set_function(lambda: -1.0 if self.share is None else self.share)
        self._refused = Counter(
            f"mailfarm_{service}_over_share", "Refused before content because filing was behind", registry=registry
        )

    @property
    def none(self) -> bool:
        """Whether everybody is let in, as far as is known: nothing need be asked yet."""
        return self.share is None and not self.closed

    def behind(self, error: QueueBehind) -> None:
        """The queue has said so, just now."""
        self._turn()
        if error.by > self._by:
            self._by, self._why, self._allowed = error.by, str(error), error.allowed
        if error.by >= QueueBehind.NOBODY:
            self.closed = True

    def may(self, sender: Sender, *, count: bool) -> bool:
        """Whether ``sender`` may bring in one more now; with ``count`` it does, if so."""
        self._turn()
        group, member = sender
        members = self._counts.get(group)
        if members is None:
            members = self._counts[group] = {}
        brought = members.setdefault(member, 0)
        if not self.none and (self.closed or brought >= self._part(group, members)):
            self.refused()
            return False
        if count:
            members[member] = brought + 1
        return True

    def may_come(self, group: str) -> bool:
        """Whether who connects should be greeted; ``group`` is empty where it is not known yet who it is."""
        if self.none:
            return True
        self._turn()
        members = self._counts.get(group, {})
        if self.closed or (members and self.share is not None and sum(members.values()) >= self._part(group, members)):
            self.refused()
            return False
        return True

    def refused(self) -> None:
        """Count one who was not let in."""
        self._refused_now = True
        self._refused.inc()

    def _part(self, group: str, members: dict[str, int]) -> float:
        if self.share is None:
            return float("inf")
        return max(1.0, self.share / max(len(members), len(self._before.get(group, ()))))

    def _turn(self) -> None:
        now = self._seconds()
        if now < self._ends:
            return
        quiet = now >= self._ends + _SECOND  # a whole second in which nobody came
        if now >= self._ends + FORGOTTEN:
            self._by = 0.0  # how far behind it was then says nothing of now
        self._ends = now + _SECOND
        if self._by >= 1.0:
            self._less()
        elif self.share is None:
            pass
        elif self._by:
            self.share = max(self.share + 1.0, self.share * MORE)
        elif self._refused_now and not quiet:
            self.share *= MUCH_MORE
        else:
            self._over()
        self.closed = False
        self._last_by, self._by = self._by, 0.0
        self._refused_now = False
        self._before, self._counts = self._counts, {}

    def _less(self) -> None:
        if self.share is None:
            busiest = max((sum(members.values()) for members in self._counts.values()), default=0)
            self.share = max(1.0, LESS * busiest)
            share = f"Each may bring in {self.share:.0f} a second, or less"
            self._tell(f"Mail comes in faster than it is filed: {self._why}. {share}")
        elif self._by > self._last_by or (self.closed and any(map(_brought, self._counts.values()))):
            self.share = max(1.0, LESS * self.share)
        elif self._by > self._last_by - NEARER / self._allowed:
            self.share = max(1.0, A_LITTLE_LESS * self.share)

    def _over(self) -> None:
        self.share = None
        self._tell("Filing keeps up again: everybody is let in")


def _brought(members: dict[str, int]) -> bool:
    return any(members.values())
