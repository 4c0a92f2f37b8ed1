"""Rounds of measurements: A B C A B C, so that whatever disturbs the machine disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import latency
import report
import scale
import summary
from field import Field
from measuring import measure, warm
from ways import SCENARIOS, Scenario

_WARMING = {"queue": 3.0, "maildev": 2.0}
"""Seconds a server is sent to before it is measured for the first time; a compiler at run time needs some."""
_WARM = 0.7

Runs = dict[str, list[dict[str, Any]]]
"""What was measured, by the server's key, a form a round."""


class Clock:
    """Says how far the whole of it is."""

    def __init__(self, steps: int) -> None:
        self._began = time.monotonic()
        self._steps = steps
        self._done = 0

    def step(self, text: str) -> None:
        """One more is done."""
        self._done += 1
        took = time.monotonic() - self._began
        left = took / self._done * (self._steps - self._done)
        report.tell(f"{took / 60:4.1f} min, about {left / 60:4.1f} left  {text}")


def run(field: Field, scenario: Scenario, rounds: int, clock: Clock, warmed: set[str]) -> Runs:
    """Measure a scenario. ``warmed`` are those that need no long warming any more."""
    runs: Runs = {}
    words = scenario.words()
    keys = [key for key in scenario.peers if key in field.peers]
    for key in keys:
        long = 1.0 if key in warmed else _WARMING.get(key, _WARM) / _WARM
        warm(field.peers[key], words, scenario.copies, _WARM * long)
        warmed.add(key)
    for number in range(rounds):
        for key in keys:
            peer = field.peers[key]
            form = measure(peer, words, scenario.seconds, scenario.copies)
            peer.clean()
            runs.setdefault(key, []).append(form)
            readable = form["readable_per_second"]
            clock.step(
                f"{scenario.name:12} {number + 1}/{rounds}  {peer.name:36} {form['accepted_per_second']:9,.0f}/s"
                + (f"  readable {readable:7,.0f}/s" if readable else "")
                + (f"  {form['errors_total']} errors: {next(iter(form['errors']))}" if form["errors_total"] else "")
            )
    return runs


def paced(
    field: Field, keys: Sequence[str], rates: Sequence[int], rounds: int, clock: Clock, seconds: float
) -> dict[str, Any]:
    """Latencies at each rate, by ``key rate``."""
    (live,) = field.house.cluster.start("live", MAILFARM_LIVE_LISTEN="127.0.0.1:0") if "cluster" in keys else (None,)
    found: dict[str, list[dict[str, Any]]] = {}
    for rate in rates:
        for number in range(-1, rounds):  # the first is to warm up
            for key in keys:
                long = seconds if number >= 0 else 1.5
                form = (
                    latency.of_mailfarm(field, f"{live.where['live']}/v1/events", rate, long)
                    if key == "cluster" and live
                    else latency.of_queue_design(field, rate, long)
                )
                if number < 0:
                    continue
                found.setdefault(f"{key} {rate}", []).append(form)
                p99 = ", ".join(f"{form[way]['p99']:.1f}" for way in latency.WAYS)
                clock.step(f"{rate}/s {number + 1}/{rounds}  {field.peers[key].name:36} p99 ms {p99}")
    if live:
        live.stop()
    return {name: summary.of_latency(runs, latency.WAYS) for name, runs in found.items()}


def scaled(field: Field, rounds: int, clock: Clock, two: list[int], every: list[int]) -> dict[str, Any]:
    """Two listeners and workers on four cores beside one of each on two; by CPU per message where there are fewer."""
    kept = SCENARIOS[0]
    ones, twos = [], []
    with scale.Pair(field) as pair:
        for number in range(rounds):
            pair.rest()
            ones.append(measure(field.peers["cluster"], kept.words(), scale.SECONDS))
            clock.step(
                f"one of each, two cores {number + 1}/{rounds}  readable {ones[-1]['readable_per_second']:,.0f}/s"
            )
            pair.work()
            twos.append(pair.measure(two, every[:4]))
            clock.step(f"two of each {number + 1}/{rounds}  readable {twos[-1]['readable_per_second']:,.0f}/s")
    for form in ones:
        form["cpu_us_in_all"] = sum(form["cpu_us"].values())
    enough = len(every) >= 4
    ratios = [
        two["readable_per_second"] / one["readable_per_second"]
        if enough
        else 2 * one["cpu_us_in_all"] / two["cpu_us_in_all"]
        for one, two in zip(ones, twos, strict=True)
    ]
    return {
        "cores": len(every),
        "ratio": summary.median(ratios),
        "one": summary.median([form["readable_per_second"] for form in ones]),
        "two": summary.median([form["readable_per_second"] for form in twos]),
        "one_cpu_us": summary.median([form["cpu_us_in_all"] for form in ones]),
        "two_cpu_us": summary.median([form["cpu_us_in_all"] for form in twos]),
    }
