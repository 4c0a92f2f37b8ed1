"""Targets that scripts of their own measure: what their newest results in ``bench/results`` say of them.

A script may say so itself, under ``targets`` in its JSON (``report.save_rows``); else its rows are read here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Found = tuple[str, bool]
"""What was measured, in words, and whether it is what was aimed at."""

FLAT = 1.5
"""Times the least of a curve, up to which it counts as flat: what differs less between runs says nothing."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script of the bench, what it is asked, and how its rows are read; those that say nothing of it give None."""

    name: str
    what: str
    target: str
    moonshot: str
    read: Callable[[Sequence[Row]], Found | None]


def _tls(rows: Sequence[Row]) -> Found | None:
    ratios = {row["case"]: row["to the sink's"] for row in rows if row["server"] == "edge"}
    if not ratios:
        return None
    return ", ".join(f"{case} {ratio:.2f}" for case, ratio in ratios.items()), max(ratios.values()) <= 1.3


def _idle(rows: Sequence[Row]) -> Found | None:
    held = max(rows, key=lambda row: row["sessions held"], default=None)
    if held is None or not held["sessions held"]:
        return None
    each, sessions = held["MiB per 1,000"], held["sessions held"]
    text = f"{each:.2f} MiB per 1,000, {sessions:,} held, p99 {held['p99']:.0f} ms of mail meanwhile"
    return text, each <= 4 and sessions >= 20_000 and not held["errors"]


def _push(rows: Sequence[Row]) -> Found | None:
    one = next((row for row in rows if row["case"] == "one at a time"), None)
    if one is None:
        return None
    cpu, wait = one["CPU ms an event"], one["others max"]
    return f"{cpu:.0f} ms of CPU, others wait {wait:.0f} ms at most", cpu <= 90 and wait <= 50 and one[
        "clients"
    ] >= 5000


def _lists(rows: Sequence[Row]) -> Found | None:
    if not rows:
        return None
    worst = max(rows, key=lambda row: float(row["ratio"]))
    lists = max(float(row["large p50 ms"]) for row in rows if row["question"] in ("list", "newest"))
    text = f"worst {worst['ratio']:.2f} × ({worst['store']}, {worst['question']}), list {lists:.1f} ms"
    return text, worst["ratio"] <= 1.5 and lists <= 5


def _growth(rows: Sequence[Row]) -> Found | None:
    most: dict[str, float] = {}
    for row in rows:
        if isinstance(row["× least"], int | float):
            most[row["curve"]] = max(most.get(row["curve"], 0.0), row["× least"])
    if len(most) < 3:
        return None
    return ", ".join(f"{curve} {worst:.2f} × the least" for curve, worst in most.items()), max(most.values()) <= FLAT


SCRIPTS = (
    Script("tls", "TLS: CPU a message, kept and new connection", "≤ 1.3 × asyncio with uvloop", "1.0 ×", _tls),
    Script("idle", "idle connections behind PROXY", "≤ 4 MiB per 1,000; 20,000 held while mail flows", "2 MiB", _idle),
    Script("push", "one event to 5,000 WebSocket clients", "≤ 90 ms of CPU, nobody else waits > 50 ms", "50 ms", _push),
    Script(
        "lists",
        "list of 50, list by sender, wait: 1,000 and 1,000,000 stored",
        "p50 within 1.5 ×, list ≤ 5 ms",
        "2 ms",
        _lists,
    ),
    Script(
        "growth",
        "growth: 1 KB to 50 MB, 1 to 1,000,000 mailboxes, 0 to 100,000 waiting",
        f"cost a byte and a message flat: within {FLAT:g} ×",
        "",
        _growth,
    ),
)


def lines(folder: Path) -> Iterator[tuple[str, str, str, str, bool | None]]:
    """What, target, moonshot, measured and met; at least one of each script."""
    for script in SCRIPTS:
        form = _form(folder / f"{script.name}.json")
        told = [one for one in form.get("targets", []) if {"measured", "met"} <= one.keys()]
        found = None if told else _read(script, form)
        if found:
            told = [{"measured": found[0], "met": found[1]}]
        for one in told or [{"measured": f"bench/{script.name}.py measures it", "met": None}]:
            yield (
                str(one.get("what", script.what)),
                str(one.get("target", script.target)),
                str(one.get("moonshot", script.moonshot)),
                str(one["measured"]),
                one["met"],
            )


def _read(script: Script, form: Row) -> Found | None:
    try:
        return script.read(form.get("rows", []))
    except (KeyError, TypeError, ValueError):  # its columns are others by now
        return None


def _form(path: Path) -> Row:
    try:
        form = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return form if isinstance(form, dict) else {}
