#!/usr/bin/env python3
"""How much mail a second is accepted: mailfarm beside Postfix's smtp-sink, in one interleaved run.

    bench/accept.py [--quick] [--only mailfarm,smtp-sink] [--cases kept,new]

``mailfarm`` is ``mailfarm dev`` with SQLite: each message is durable before its 250, is then parsed and filed, and the
same process serves the API. ``edge`` is the same SMTP sessions with a queue that keeps nothing. ``smtp-sink`` throws
everything away. For each case the three take turns (A B C A B C …), each time freshly started; numbers are medians, and
the ratio to smtp-sink is the median of the ratios of each turn, so that a busy machine troubles all alike.

``readable`` is messages a second until the API says that all of them are in their mailbox, from the first to the last.
CPU is of the whole server process, which for mailfarm includes the filing done while mail was accepted.
The generator (``load.py``) is a process of its own; where its share of the time nears one core it was the limit.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chart
import report
from children import Child, Farm, edge, end_on_sigterm, smtp_sink

_LOAD = str(Path(__file__).resolve().parent / "load.py")
_MAILBOX = "inbox@mailfarm.test"


@dataclass(frozen=True, slots=True)
class Case:
    """A way of sending: what it is called, and the generator's options."""

    name: str
    title: str
    options: tuple[str, ...]


_MIXED = ("--sessions", "20", "--pipelining", "--size", "mixed")
_MANY = ("--sessions", "20", "--pipelining", "--recipients", "100")
CASES = (
    Case("new", "4 KB, a connection each, 50 sessions", ("--new", "--sessions", "50")),
    Case("kept", "4 KB, kept connections, 50 sessions", ("--sessions", "50")),
    Case("pipelined", "4 KB, kept, PIPELINING, 50 sessions", ("--sessions", "50", "--pipelining")),
    Case("mixed", "2 to 300 KB, kept, PIPELINING, 20 sessions", _MIXED),
    Case("large", "1 MB, kept, PIPELINING, 10 sessions", ("--sessions", "10", "--pipelining", "--size", "1000000")),
    Case("many", "4 KB, 100 recipients, PIPELINING, 20 sessions", _MANY),
    Case("paced", "4 KB, kept, paced at 200 a second", ("--sessions", "50", "--rate", "200")),
)
_QUICK = ("kept", "pipelined", "paced")
SYSTEMS: dict[str, Callable[[], Child | None]] = {"smtp-sink": smtp_sink, "edge": edge, "mailfarm": Farm}


class Readable:
    """Watches a mailbox through the API: when did the last of so many messages become readable?"""

    def __init__(self, farm: Child) -> None:
        self._http = farm.http
        found = self._get(f"/v1/mailboxes?address={urllib.parse.quote(_MAILBOX)}")["mailboxes"]
        self._id = found[0]["id"]

    def count(self) -> int:
        """Messages in the mailbox now."""
        return int(self._get(f"/v1/mailboxes/{self._id}")["messages"])

    def wait(self, wanted: int, seconds: float) -> float:
        """The time (monotonic) at which all were there. Raises SystemExit when they do not come."""
        deadline = time.monotonic() + seconds
        there = -1
        while time.monotonic() < deadline:
            there = self.count()
            if there >= wanted:
                return time.monotonic()
            time.sleep(0.01)
        raise SystemExit(f"{wanted} messages were accepted, and {seconds:.0f} s later {there} are readable")

    def _get(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(self._http + path, timeout=10) as answer:
            form: dict[str, Any] = json.load(answer)
            return form


def measure(system: str, case: Case, seconds: float) -> dict[str, Any] | None:
    """Start the system, send to it, end it. None where the system is not to be had."""
    child = SYSTEMS[system]()
    if child is None:
        return None
    with child:
        readable = Readable(child) if system == "mailfarm" else None
        command = [sys.executable, _LOAD, f"127.0.0.1:{child.smtp}", "--seconds", str(seconds), *case.options]
        cpu = child.cpu_seconds
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
            try:
                said, complaint = load.communicate(timeout=seconds + 60)
            except BaseException:
                load.kill()
                raise
        if load.returncode not in (0, 1):
            raise SystemExit(f"the generator failed: {complaint[-2000:]}")
        form: dict[str, Any] = json.loads(said)
        accepted = form["messages"]
        form["server_cpu_us_per_message"] = (child.cpu_seconds - cpu) / max(accepted, 1) * 1e6
        if readable is not None:
            # 100 recipients of the catch-all are one message in one mailbox
            last = readable.wait(accepted, 60 + seconds)
            form["readable_per_second"] = accepted / (last - form["began"])
            form["server_cpu_us_per_message_filed"] = (child.cpu_seconds - cpu) / max(accepted, 1) * 1e6
        form["peak_mib"] = child.peak_mib
        return form


def summary(runs: Sequence[dict[str, Any]], baseline: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The medians of a system's runs of a case."""

    def middle(*path: str) -> float | None:
        values = []
        for run in runs:
            value: Any = run
            for key in path:
                value = value.get(key) if value else None
            if value is not None:
                values.append(value)
        return report.median(values) if values else None

    pairs = [(a["messages_per_second"], b["messages_per_second"]) for a, b in zip(runs, baseline, strict=False)]
    return {
        "messages_per_second": middle("messages_per_second"),
        "ratio_to_smtp_sink": report.median([a / b for a, b in pairs if b]) if pairs else None,
        "dot_ms_p50": middle("dot_ms", "p50"),
        "dot_ms_p95": middle("dot_ms", "p95"),
        "dot_ms_p99": middle("dot_ms", "p99"),
        "readable_per_second": middle("readable_per_second"),
        "server_cpu_us_per_message": middle("server_cpu_us_per_message"),
        "generator_busy": middle("generator_busy"),
        "peak_mib": middle("peak_mib"),
        "errors": sum(run["errors_total"] for run in runs),
        "runs": len(runs),
    }


HEAD = (
    "case", "server", "messages/s", "to smtp-sink", "readable/s", "dot→250 p50 ms", "p95", "p99", "CPU µs a message",
    "peak MiB", "generator busy", "errors",
)  # fmt: skip


def rows(results: dict[str, dict[str, dict[str, Any]]]) -> list[tuple[object, ...]]:
    """The table's lines."""
    titles = {case.name: case.title for case in CASES}
    return [
        (
            titles[case], system, one["messages_per_second"], one["ratio_to_smtp_sink"], one["readable_per_second"],
            one["dot_ms_p50"], one["dot_ms_p95"], one["dot_ms_p99"], one["server_cpu_us_per_message"], one["peak_mib"],
            one["generator_busy"], one["errors"],
        )
        for case, systems in results.items()
        for system, one in systems.items()
    ]  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer cases, one turn each, half a minute")
    parser.add_argument("--only", default=",".join(SYSTEMS), help="which servers, parted by commas")
    parser.add_argument("--cases", default="", help="which cases, parted by commas: " + " ".join(c.name for c in CASES))
    parser.add_argument("--turns", type=int, default=0, help="how often each is measured (3; quick: 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="of load in each turn (2; quick: 1)")
    given = parser.parse_args(argv)
    wanted = given.cases.split(",") if given.cases else _QUICK if given.quick else [case.name for case in CASES]
    turns = given.turns or (1 if given.quick else 3)
    seconds = given.seconds or (1.0 if given.quick else 2.0)
    systems = given.only.split(",")
    end_on_sigterm()
    facts = report.machine()
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for case in [case for case in CASES if case.name in wanted]:
        of_case: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
        for turn in range(turns):
            for system in systems:
                form = measure(system, case, seconds)
                if form is None:
                    print(f"{system} is not on this machine: left out", file=sys.stderr)
                    continue
                form["generator_busy"] = form["generator_cpu_seconds"] / max(form["seconds"], 1e-9)
                of_case[system].append(form)
                print(
                    f"{case.name:10} {turn + 1}/{turns} {system:10} {form['messages_per_second']:10,.0f} messages/s"
                    f"   p99 {form['dot_ms'].get('p99', 0):7.1f} ms   errors {form['errors_total']}",
                    file=sys.stderr,
                    flush=True,
                )
                for error, count in form["errors"].items():
                    print(f"           {count} × {error}", file=sys.stderr)
        runs[case.name] = {system: found for system, found in of_case.items() if found}
    results = {
        case: {system: summary(found, systems_.get("smtp-sink", [])) for system, found in systems_.items()}
        for case, systems_ in runs.items()
    }
    text = f"{report.about(facts)}\n\n{report.table(HEAD, rows(results))}"
    rates = [(case, one["mailfarm"]["messages_per_second"]) for case, one in results.items() if "mailfarm" in one]
    picture = chart.bars("Mail accepted, parsed and filed by mailfarm dev", "a second", rates)
    path = report.save("accept", given.quick, {"machine": facts, "results": results, "runs": runs}, text, picture)
    print(text)
    print(f"\nkept in {path.parent}", file=sys.stderr)
    return 1 if any(one["errors"] for systems_ in results.values() for one in systems_.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
