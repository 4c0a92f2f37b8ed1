"""The course of one target: what clients were told from one moment to the next, and when faults were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from .run import Proof

BUCKETS: Final = 400
"""Steps, at most."""


@dataclass(slots=True)
class Course:
    """The course of one target: how many attempts had which outcome in each ``step`` seconds, and when faults were."""

    step: float
    acked: list[int]
    refused: list[int]
    unknown: list[int]
    faults: list[tuple[float, float, str]]
    """When each began and was healed, in seconds from the first attempt."""


def course_of(proof: Proof) -> list[Course]:
    """The course of a target; none where nothing was sent."""
    if not proof.attempts:
        return []
    first = min(attempt.began for attempt in proof.attempts)
    last = max(attempt.ended for attempt in proof.attempts)
    step = max(1.0, (last - first) / BUCKETS)
    counts = {outcome: [0] * (int((last - first) / step) + 1) for outcome in ("acked", "refused", "unknown")}
    for attempt in proof.attempts:
        counts[attempt.outcome][int((attempt.ended - first) / step)] += 1
    faults = [
        (round(each.began - first, 2), round(each.healed - first, 2), each.fault.name)
        for each in proof.injected
        if not each.not_here
    ]
    return [Course(round(step, 3), counts["acked"], counts["refused"], counts["unknown"], faults)]
