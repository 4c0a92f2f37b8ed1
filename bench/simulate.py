#!/usr/bin/env python3
"""A farm for a hundred million messages a day, simulated: a node is lost at the peak, and ten times the mail comes.

    bench/simulate.py [--quick] [--per-day N]

The service times are the measured ones of ``bench/results`` (cluster, queues, file), the farm is what
``capacity.py`` makes of them for N messages a day; how long a node without power is led to, and when its replicas run
elsewhere, was measured in the deployed stack (``stack-updates.md``). ``simulation.py`` says what is simulated and what
is not.

First the simulation has to show that it says what was measured, of one replica of each. Then:

    loss     at the peak the node with a shard loses power for two minutes
    store    at the peak the node with the database loses power for one minute
    burst    ten times the peak for a minute

Writes bench/results/simulate.json, .md and an .svg each, and the tables of mailfarm/docs/scaling.md.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import capacity
import report
from simulation import Farm, Second, Shape
from timeline import Panel, timeline

DOC = report.RESULTS.parents[1] / "mailfarm" / "docs" / "scaling.md"
VOLUMES = (1e6, 1e8, 1e9)
WARM = 20.0


def quantile(values: Sequence[float], part: float) -> float | None:
    """None of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else None


def milliseconds(values: Sequence[float], part: float) -> float | None:
    """The same in ms."""
    value = quantile(values, part)
    return None if value is None else value * 1000


def whole(seconds: Sequence[Second], name: str) -> list[float]:
    """All answers, or all times until readable."""
    return [value for each in seconds for value in getattr(each, name)]


def worst(seconds: Sequence[Second], name: str) -> float:
    """The highest p99 of a second, in ms."""
    return max((milliseconds(getattr(each, name), 0.99) or 0.0 for each in seconds), default=0.0)


def swarm_times(results: Path) -> tuple[float, float]:
    """(until mail flows again, until replicas are replaced) after a machine lost power, in s. Raises Unmeasured."""
    path = results / "stack-updates.md"
    said = path.read_text() if path.exists() else ""
    found = re.search(r"a machine loses power.*after ([0-9.]+) s, replicas replaced after ([0-9.]+) s", said)
    if not found:
        raise capacity.Unmeasured("bench/results/stack-updates.md: no row of a machine that loses power")
    return float(found[1]), float(found[2])


def agreement(figures: capacity.Measured, seconds: float) -> list[tuple[Any, ...]]:
    """(what, measured, simulated, ratio) of one replica of each service."""
    one = Shape(nodes=1, mx=1, shards=1, workers=1, database_node=0, sessions=50, again=0.5)
    flood = Farm(one, figures.costs(), lambda at: 2 / figures.costs().mx).run(seconds)
    steady = Farm(one, figures.costs(), lambda at: 0.9 / figures.costs().mx).run(seconds)
    paced = Farm(one, figures.costs_paced(), lambda at: 100.0).run(seconds)
    rows = (
        ("accepted a second, at most", figures.accepted, fmean(each.accepted for each in flood[1:-1])),
        ("filed a second, at most", figures.readable, fmean(each.filed for each in steady[1:-1])),
        ("dot to 250 at 100 a second, p50 ms", figures.paced_ms, milliseconds(whole(paced, "answers"), 0.5) or 0.0),
    )
    return [(*row, row[2] / row[1]) for row in rows]


def scenarios(wanted: capacity.Need, times: tuple[float, float]) -> dict[str, tuple[str, Shape, Any, Any, Any]]:
    """By name: what, the farm, the rate, what is lost (node, at, back), what is shaded."""
    peak = wanted.peak
    shape = replace(capacity.shape(wanted), left_out=times[0], replaced=times[1])

    def level(at: float) -> float:
        return peak

    def burst(at: float) -> float:
        return peak * (10 if 40 <= at < 100 else 1)

    return {
        "loss": ("a node with a shard loses power at the peak", shape, level, (1, 40.0, 160.0), (40, 160, "no power")),
        "store": ("the node with the database loses power", shape, level, (2, 40.0, 100.0), (40, 100, "no power")),
        "burst": ("ten times the peak for a minute", shape, burst, None, (40, 100, "ten times the mail")),
    }


def simulated(
    what: str, shape: Shape, rate: Callable[[float], float], loss: tuple[int, float, float] | None, mark: Any,
    figures: capacity.Measured, seconds: int,
) -> tuple[dict[str, Any], str]:  # fmt: skip
    """One scenario: its row, and its picture."""
    farm = Farm(shape, figures.costs(), rate)
    if loss:
        farm.lose(*loss)
    each = farm.run(seconds)[:seconds]
    before, after = each[int(WARM) : 40], each[40:]
    most = max(second.waiting for second in each)
    calm = max(second.waiting for second in before) + 1
    over = [at for at, second in enumerate(each) if at >= 40 and second.waiting > 2 * calm]
    accepted = sum(second.accepted for second in each)
    row: dict[str, Any] = {
        "what": what,
        "arrived": sum(second.arrived for second in each),
        "accepted": accepted,
        "sent again": sum(second.cut for second in each),
        "refused for a while": sum(second.refused for second in each),
        "250 p99 ms before": milliseconds(whole(before, "answers"), 0.99),
        "in the worst second": worst(after, "answers"),
        "readable p99 ms before": milliseconds(whole(before, "readable"), 0.99),
        "in its worst second": worst(after, "readable"),
        "waiting at most": most,
        "as before after s": float(max(over) + 1 - mark[1]) if over else 0.0,
        "still inside at the end": farm.inside(),
    }
    panels = [
        Panel("mail", "a second", [
            ("sent", [float(second.arrived) for second in each]),
            ("accepted", [float(second.accepted) for second in each]),
        ]),
        Panel("waiting in the queue", "messages", [("", [float(second.waiting) for second in each])]),
        Panel("dot to 250, p99", "ms", [("", [milliseconds(second.answers, 0.99) for second in each])]),
        Panel("250 to readable, p99", "ms", [("", [milliseconds(second.readable, 0.99) for second in each])]),
    ]  # fmt: skip
    title = f"Simulated: {what} ({shape.mx} mx, {shape.shards} shards, {shape.workers} inbound)"
    return row, timeline(title, panels, [mark])


def costs_table(figures: capacity.Measured) -> str:
    """What a message costs in each service."""
    rows = [
        ("mx", figures.mx, figures.paced["mx"]),
        ("queue's Redis", figures.queue, figures.paced["queue"]),
        ("inbound", figures.inbound, figures.paced["inbound"]),
        ("PostgreSQL", figures.database, figures.paced["database"]),
    ]
    head = ("CPU a message of 4 KB, µs", "under load", "100 a second")
    return report.table(head, rows)


def needs_table(figures: capacity.Measured) -> str:
    """What a million, a hundred million and a billion a day need."""
    head = ("messages a day", "peak a second", "mx", "inbound", "shards", "PostgreSQL cores", "cores in all",
            "network MB/s", "written MB/s", f"kept {capacity.DAYS} days, TB")  # fmt: skip
    rows = []
    for per_day in VOLUMES:
        found = capacity.need(per_day, figures)
        rows.append((
            int(per_day), found.peak, found.mx, found.inbound, found.shards, found.database_cores, found.cores,
            found.network / 1e6, found.journal / 1e6, found.kept / 1e12,
        ))  # fmt: skip
    return report.table(head, rows)


def fill(doc: Path, blocks: dict[str, str]) -> str:
    """The page with the tables between their marks. Raises ValueError for a mark that is not there."""
    text = doc.read_text("utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- {name} -->", f"<!-- {name} ends -->"
        if begin not in text or end not in text:
            raise ValueError(f"{doc.name} has no {begin}")
        head, _, rest = text.partition(begin)
        text = f"{head}{begin}\n{block}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> int:
    """Compare, simulate, keep."""
    parser = report.options(__doc__)
    parser.add_argument("--per-day", type=float, default=1e8, help="messages a day (1e8)")
    given = parser.parse_args()
    try:
        figures, times = capacity.measured(report.RESULTS), swarm_times(report.RESULTS)
    except capacity.Unmeasured as error:
        print(f"bench/simulate.py: {error}", file=sys.stderr)
        return 2
    agree = agreement(figures, 5 if given.quick else 20)
    agreed = report.table(("one replica of each", "measured", "simulated", "ratio"), agree)
    report.tell(agreed)
    wanted = capacity.need(given.per_day, figures)
    rows: list[dict[str, Any]] = []
    folder = report.WORK if given.quick else report.RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    for name, (what, shape, rate, loss, mark) in scenarios(wanted, times).items():
        report.tell(f"simulating: {what}")
        row, picture = simulated(what, shape, rate, loss, mark, figures, 200 if given.quick else 400)
        rows.append(row)
        (folder / f"simulate-{name}.svg").write_text(picture)
    head = list(rows[0])
    told = report.table(head, [list(row.values()) for row in rows])
    text = f"{given.per_day:,.0f} messages of 4 KB a day, {wanted.peak:,.0f} a second at the peak\n\n{told}\n\n{agreed}"
    agree_form = [dict(zip(("what", "measured", "simulated", "ratio"), row, strict=True)) for row in agree]
    report.save("simulate", given.quick, {"rows": rows, "agreement": agree_form}, text)
    print(text)
    if not given.quick:
        blocks = {"costs": costs_table(figures), "needs": needs_table(figures), "simulated": told, "agreement": agreed}
        DOC.write_text(fill(DOC, blocks), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
