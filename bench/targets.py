"""What is aimed at, and whether it is met: a line each, whatever came out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import elsewhere

Form = dict[str, Any]
_WORDS = {True: "met", False: "not met", None: "–"}


@dataclass(frozen=True, slots=True)
class Line:
    """A target as the table shows it. ``met`` is None where nothing was measured."""

    what: str
    target: str
    moonshot: str
    measured: str
    met: bool | None

    def row(self) -> tuple[object, ...]:
        """Its cells."""
        return self.what, self.target, self.moonshot, self.measured, _WORDS[self.met]

    def form(self) -> Form:
        """Its JSON."""
        return asdict(self)


def lines(results: Form, folder: Path) -> list[Line]:
    """All of them; ``folder`` has what other scripts of the bench have left."""
    return [
        _ratio("one edge process, queue that keeps nothing", results, "kept", "edge", "to_sink", 0.9, 1.05),
        _ratio("one edge process, synced, PROXY, limits, metrics", results, "kept", "mx", "to_sink", 0.6, 0.8),
        _ratio("the same without PROXY and limits", results, "kept", "mx-off", "to_sink", 0.75, 0.8),
        _ratio("a new connection for each message, the same", results, "new", "mx", "to_sink", 0.55, 0.7),
        _ratio(
            "accepted, committed in Postgres, announced", results, "kept", "cluster", "to_queue_design", 3.0, 5.0
        ),
        *_latency(results, 200, (3.0, 5.0, 8.0)),
        *_latency(results, 800, (6.0, 12.0, 16.0)),
        _ratio("1 MB, end to end", results, "large", "cluster", "to_queue_design", 5.0, 8.0),
        _ratio("100 recipients in one mailbox", results, "one-mailbox", "cluster", "to_queue_design", 5.0, 8.0),
        _ratio("100 recipients in 100 mailboxes", results, "each-mailbox", "cluster", "to_queue_design", 2.5, 5.0),
        _dev(results),
        _scale(results),
        *(Line(*line) for line in elsewhere.lines(folder)),
    ]  # fmt: skip


_NAMES = {"to_sink": "smtp-sink", "to_queue_design": "the queue design"}


_BASES = {"to_sink": "sink", "to_queue_design": "queue"}


def _ratio(what: str, results: Form, scenario: str, key: str, name: str, target: float, moonshot: float) -> Line:
    summary = results["scenarios"].get(scenario, {}).get("summary", {})
    found = summary.get(key, {})
    value = found.get(name)
    text = "not measured"
    if value is not None:
        rate = found["readable_per_second"] if name == "to_queue_design" else found["accepted_per_second"]
        cpu = summary[_BASES[name]]["cpu_us_in_all"] / (found["cpu_us_in_all"] or 1.0)
        text = f"{value:.2f} ({rate:,.0f}/s; by CPU a message {cpu:.2f})"
        text += ", bounded by the generator" * found["bounded_by_generator"]
    met = None if value is None else value >= target
    return Line(what, f"≥ {target:g} × {_NAMES[name]}", f"{moonshot:g} ×", text, met)


def _latency(results: Form, rate: int, targets: tuple[float, float, float]) -> list[Line]:
    ours = results["latency"].get(f"cluster {rate}")
    theirs = results["latency"].get(f"queue {rate}")
    titles = ("last dot → 250", "accepted → committed", "accepted → WebSocket frame")
    made = []
    for title, way, target in zip(titles, ("dot_ms", "committed_ms", "announced_ms"), targets, strict=True):
        text, met = "not measured", None
        if ours:
            value = ours[way]["p99"]
            met = value <= target and (not theirs or value < theirs[way]["p99"])
            text = f"{value:.1f} ms" + (f" (queue design {theirs[way]['p99']:.1f})" if theirs else "")
        aim = f"≤ {target:g} ms, below the queue design's"
        made.append(Line(f"p99 at {rate}/s, {title}", aim, f"{target / 2:g} ms", text, met))
    return made


def _dev(results: Form) -> Line:
    summary = results["scenarios"].get("dev", {}).get("summary", {})
    ours, theirs = (summary.get(key, {}).get("readable_per_second") for key in ("dev", "maildev"))
    value = ours / theirs if ours and theirs else None
    text = f"{value:.2f} ({ours:,.0f}/s beside {theirs:,.0f}/s)" if value else "not measured"
    return Line(
        "mailfarm dev, accepted and readable", "≥ 5 × MailDev", "10 ×", text, None if value is None else value >= 5
    )


def _scale(results: Form) -> Line:
    found = results.get("scale")
    if not found:
        return Line("two edges and two workers on four cores", "≥ 1.7 × one each on two", "1.9 ×", "not measured", None)
    by_cpu = 2 * found["one_cpu_us"] / found["two_cpu_us"]
    how = "" if found["cores"] >= 4 else " by CPU per message"
    return Line(
        f"two edges and two workers on four cores{how}",
        "≥ 1.7 × one each on two",
        "1.9 ×",
        f"{found['ratio']:.2f} ({found['two']:,.0f}/s beside {found['one']:,.0f}/s; by CPU a message {by_cpu:.2f})",
        found["ratio"] >= 1.7,
    )
