#!/usr/bin/env python3
"""What TLS costs the SMTP edge, beside a trivial sink on asyncio and uvloop: CPU of the server a message.

    bench/tls.py [--quick] [--turns N] [--seconds S]

Implicit TLS 1.3 with an EC P-256 certificate, 4 KB, 50 sessions that are kept, then a connection for each message. The
edge (``bench/edge.py``) has the whole SMTP core and a queue that keeps nothing; the sink answers without looking, on
Python's own ssl. In each turn every server is started afresh and sent to, one after the other; the columns are medians,
and ``to the sink's`` is the median of the ratios of each turn. Plain is the edge without TLS, which says what is TLS's.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import chart
import report
from children import ROOT, Child, end_on_sigterm

from mailfarm.net.tls import KeyPair, dev_certificate

_BENCH = Path(__file__).resolve().parent
_PACKAGES = ROOT / ".make" / "peers" / "python"
CASES = {"kept": (), "a connection each": ("--new",)}
HEAD = ("case", "server", "messages/s", "CPU µs a message", "to the sink's", "p99 ms", "errors", report.OTHERS)


def started(server: str, pair: KeyPair) -> Child:
    """A server, and its port in ``smtp``."""
    files = [str(pair.certificate), str(pair.key)]
    if server == "sink":
        command = [sys.executable, str(_BENCH / "peers" / "uvloop_sink.py"), *files]
        child = Child("uvloop-sink", command, {"PYTHONPATH": str(_PACKAGES)})
        said = json.loads(child.first_line())
        if not said["uvloop"]:
            child.end()
            raise SystemExit("uvloop is not installed: .ci/setup bench")
        child.smtp = int(said["tls"].rpartition(":")[2])
        return child
    child = Child("edge", [sys.executable, str(_BENCH / "edge.py"), "--tls", *files])
    child.where = json.loads(child.first_line())
    child.smtp = int(child.where["smtp"]["capture" if server == "edge, plain" else "tls"].rpartition(":")[2])
    return child


def measure(server: str, pair: KeyPair, options: Sequence[str], seconds: float) -> dict[str, Any]:
    """What the generator says, and the server's CPU."""
    security = "plain" if server == "edge, plain" else "tls"
    with started(server, pair) as child:
        command = [sys.executable, str(_BENCH / "load.py"), f"127.0.0.1:{child.smtp}", "--security", security]
        command += ["--seconds", str(seconds), "--sessions", "50", *options]
        others, cpu = report.Others(), child.cpu_seconds
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"the generator failed: {done.stderr[-2000:]}")
        form: dict[str, Any] = json.loads(done.stdout)
        form["cpu"] = (child.cpu_seconds - cpu) / max(form["messages"], 1) * 1e6
        form["others"] = others.cores()
    for error, times in form["errors"].items():
        report.tell(f"  {times} × {error}")
    return form


def rows(case: str, runs: dict[str, list[dict[str, Any]]]) -> list[list[Any]]:
    """A case's lines of the table."""
    made = []
    for server, found in runs.items():
        ratio = report.median([mine["cpu"] / sink["cpu"] for mine, sink in zip(found, runs["sink"], strict=True)])
        middle = [report.median([run[key] for run in found]) for key in ("messages_per_second", "cpu")]
        p99 = report.median([run["dot_ms"].get("p99", 0.0) for run in found])
        worst = max(run["others"] for run in found)
        made.append([case, server, *middle, ratio, p99, sum(run["errors_total"] for run in found), worst])
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = report.options(__doc__, turns=5)
    parser.add_argument("--seconds", type=float, default=0.0, help="of load in each turn (2; quick: 1)")
    given = parser.parse_args(argv)
    turns, seconds = (1 if given.quick else given.turns), given.seconds or (1.0 if given.quick else 2.0)
    end_on_sigterm()
    facts = report.machine()
    table: list[list[Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        pair = dev_certificate(Path(folder), "localhost", datetime.now(UTC))
        for case, options in CASES.items():
            runs: dict[str, list[dict[str, Any]]] = {"sink": [], "edge": [], "edge, plain": []}
            for turn in range(turns):
                for server, found in runs.items():
                    found.append(measure(server, pair, options, seconds))
                    report.tell(f"{case}, {turn + 1} of {turns}: {server} {found[-1]['cpu']:.0f} µs a message")
            table += rows(case, runs)
    bars = [(f"{case}, {server}", cpu) for case, server, _, cpu, *_ in table]
    report.save_rows("tls", given.quick, facts, HEAD, table, chart.bars("TLS: CPU of the server", "µs a message", bars))
    return 1 if any(line[HEAD.index("errors")] for line in table) else 0


if __name__ == "__main__":
    sys.exit(main())
