#!/usr/bin/env python3
"""Put the newest figures of ``make bench`` into the README, between two markers, from ``bench/results/bench.json``.

.venv/bin/python bench/readme.py
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import findings
import report

README = Path(__file__).resolve().parent.parent / "README.md"
_BETWEEN = re.compile(r"(<!-- figures of make bench -->\n).*?(<!-- /figures of make bench -->)", re.DOTALL)


def text(results: dict[str, Any]) -> str:
    """What stands between the markers."""
    machine, met = results["machine"], [one["met"] for one in results.get("targets", [])]
    rounds, others = results["rounds"], results["others"]
    disturbed = findings.disturbed(others)
    return (
        f"![4 KB mail, all servers on the same two cores](bench/results/bench.svg)\n\n"
        f"{report.table(*findings.short(results))}\n\n"
        f"4 KB of multipart mail on 50 kept connections; servers, stores and generator share two of {machine['cores']} "
        f"cores of {machine['cpu']}; medians of {rounds} rounds, {machine['at'][:10]}. "
        f"Of {len(met)} targets mailfarm meets {met.count(True)} and misses {met.count(False)}"
        + f"; {met.count(None)} are not measured yet" * (None in met)
        + f".{disturbed}\n"
    )


def fill(results: dict[str, Any]) -> None:
    """Write the README anew where the figures stand. Raises SystemExit where the markers are gone."""
    old = README.read_text()
    new, count = _BETWEEN.subn(lambda found: f"{found[1]}\n{text(results)}\n{found[2]}", old)
    if count != 1:
        raise SystemExit(f"{README} has no place for the figures: put the two markers of bench/readme.py into it")
    if new != old:
        README.write_text(new)


if __name__ == "__main__":
    fill(json.loads((report.RESULTS / "bench.json").read_text()))
    sys.exit()
