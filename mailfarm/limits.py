"""Rates, and the generic cell-rate algorithm as a pure function.

GCRA keeps one number per key: the theoretical arrival time (TAT) of the next conforming unit. It is the leaky bucket
without a bucket: no timer, no sweep, nothing but a clock that is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limit:
    """``count`` units per ``period`` seconds, all of which may come at once."""

    count: int
    period: float

    def __post_init__(self) -> None:
        if self.count < 1 or self.period <= 0:
            raise ValueError("a limit needs a count of at least 1 and a period above 0")


def gcra(tat: float, now: float, limit: Limit, cost: int = 1) -> tuple[float, float]:
    """Charge ``cost`` units at ``now`` (seconds) to a key whose arrival time is ``tat`` (0 for a new key).

    Returns (wait, new tat): a wait of 0 means allowed and the new tat is to be kept; otherwise nothing is charged, the
    tat is unchanged and the wait is the seconds until the same charge would be allowed (infinite if it never would).
    A cost of 0 asks whether one unit would be allowed and charges nothing.
    """
    step = limit.period / limit.count
    start = tat if tat > now else now
    after = start + step * (cost or 1)
    wait = after - limit.period - now
    if wait > 1e-9:
        return (wait if (cost or 1) <= limit.count else float("inf")), tat
    return 0.0, (after if cost else tat)
