"""Rates, and the generic cell-rate algorithm as a pure function.

GCRA keeps one number per key: the theoretical arrival time (TAT) of the next conforming unit. It is the leaky bucket
without a bucket: no timer, no sweep, nothing but a clock that is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """``count`` units per ``period`` seconds, all of which may come at once.

    A unit is given back every ``period / count`` seconds. So a span of ``s`` seconds sees at most
    ``count * (1 + s / period)`` units: the burst, and what was given back meanwhile.
    """

    count: int
    period: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.period <= 0:
            raise ValueError("a limit needs a count of at least 1 and a period above 0")


@dataclass(frozen=True, slots=True)
class Quota:
    """``count`` units in each window of ``period`` seconds; windows are counted from 1970-01-01 00:00 UTC, so that a
    period of 86,400 is the UTC day. All of a window's units may come at once, and at its end all are given back."""

    count: int
    period: int = 86_400

    def __post_init__(self) -> None:
        if self.count < 1 or self.period < 1:
            raise ValueError("a quota needs a count and a period of at least 1")

    def window(self, now: float) -> tuple[int, float]:
        """The number of the window that ``now`` (seconds since 1970) is in, and the seconds until it ends."""
        number = int(now // self.period)
        return number, (number + 1) * self.period - now


def gcra(tat: float, now: float, limit: Limit, cost: int = 1) -> tuple[float, float]:
    """Charge ``cost`` units at ``now`` (seconds) to a key whose arrival time is ``tat`` (0 for a new key).

    Returns (wait, new tat): a wait of 0 means allowed and the new tat is to be kept; otherwise nothing is charged, the
    tat is unchanged and the wait is the seconds until the same charge would be allowed (infinite if it never would).
    A cost of 0 asks whether one unit would be allowed and charges nothing. Raises ValueError for a cost below 0.
    """
    if cost < 0:
        raise ValueError("a cost below 0 would give units back")
    units = cost or 1
    if units > limit.count:
        return float("inf"), tat
    step = limit.period / limit.count
    debt = tat - now if tat > now else 0.0
    wait = debt + step * units - limit.period
    # Seconds since 1970 have steps of a quarter of a microsecond in a float, and each unit charged alone is rounded to
    # one. That much is forgiven, and a thousandth of a step; it stays charged, so it never adds up.
    if wait > step * 1e-3 + limit.count * (now + debt) * 2.3e-16:
        return wait, tat
    return 0.0, (now + debt + step * cost if cost else tat)
