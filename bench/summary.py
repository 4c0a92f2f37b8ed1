"""From runs to figures: medians over the rounds, how far the rounds are apart, and ratios within each round."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Form = dict[str, Any]

BOUND = 0.9
"""Of one core: a generator that is busier than this has probably set the rate itself."""


def median(values: Sequence[float | None]) -> float | None:
    """The middle one of those that are there."""
    there = [value for value in values if value is not None]
    return statistics.median(there) if there else None


def spread(values: Sequence[float | None]) -> float | None:
    """How far largest and smallest are apart, as a share of the median."""
    there = [value for value in values if value is not None]
    middle = median(there)
    return (max(there) - min(there)) / middle if there and middle else None


def ratio(ours: Sequence[Form], theirs: Sequence[Form], name: str) -> float | None:
    """The median of the ratios of each round, so that what disturbed one round disturbs no ratio."""
    pairs = zip(ours, theirs, strict=False)
    return median([a[name] / b[name] for a, b in pairs if a.get(name) and b.get(name)])


def of_peer(runs: Sequence[Form], sink: Sequence[Form], queue: Sequence[Form]) -> Form:
    """What a server's rounds of one scenario come to."""
    rates = [run["accepted_per_second"] for run in runs]
    filed = [run["readable_per_second"] for run in runs]
    cpu = {part: median([run["cpu_us"][part] for run in runs]) or 0.0 for part in runs[0]["cpu_us"]}
    busy = median([run["generator_busy"] for run in runs]) or 0.0
    return {
        "accepted_per_second": median(rates),
        "readable_per_second": median(filed),
        "spread": spread(filed if any(filed) else rates),
        "to_sink": ratio(runs, sink, "accepted_per_second"),
        "to_queue_design": ratio(runs, queue, "readable_per_second"),
        "dot_ms": {p: median([run["dot_ms"].get(p) for run in runs]) for p in ("p50", "p95", "p99")},
        "cpu_us": cpu,
        "cpu_us_in_all": sum(cpu.values()),
        "generator_us": median([run["generator_us"] for run in runs]),
        "generator_busy": busy,
        "bounded_by_generator": busy >= BOUND,
        "peak_mib": {part: max(run["peak_mib"][part] for run in runs) for part in runs[0]["peak_mib"]},
        "others": median([run["others"] for run in runs]),
        "messages": sum(run["messages"] for run in runs),
        "errors": sum(run["errors_total"] for run in runs),
        "rounds": len(runs),
    }


def of_scenario(runs: Mapping[str, Sequence[Form]]) -> dict[str, Form]:
    """By the server's key."""
    sink, queue = runs.get("sink", ()), runs.get("queue", ())
    return {key: of_peer(found, sink, queue) for key, found in runs.items()}


def of_latency(runs: Sequence[Form], ways: Sequence[str]) -> Form:
    """Medians over the rounds of each percentile."""
    return {
        **{way: {p: median([run[way].get(p) for run in runs]) for p in ("p50", "p95", "p99")} for way in ways},
        "errors": sum(run["errors_total"] for run in runs),
        "messages": sum(run["messages"] for run in runs),
    }
