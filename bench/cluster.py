#!/usr/bin/env python3
"""What a message costs in each service of a cluster: CPU of mx, Redis, inbound and PostgreSQL, from MAIL to its row.

    .venv/bin/python bench/cluster.py [--quick] [--only many,paced]

One ``mx``, one ``inbound``, an ``api`` that only makes the mailboxes, a Redis for the queue (``appendfsync always``),
one for limits and the bus, and PostgreSQL: each is a process of its own on this machine, and loopback is between them.
There is no Traefik and no container; for those see ``stack.py``. The generator (``load.py``) sends to ``mx``, each
message to the next of so many mailboxes, as fast as it is answered or at a rate; limits are charged as usual.

``accepted`` is messages a second answered 250, ``readable`` messages a second until the last is in its mailbox. CPU is
per message, of the whole process, until the last was filed; ``generator`` is that of the client, for what it takes from
the cores. ``others`` is how many cores other programs used meanwhile: a case in which that is more than 0.3 is measured
again, up to --turns times, and the one least disturbed is kept.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import chart
import psycopg2
import report
from children import end_on_sigterm, tree_cpu
from own_cluster import OwnCluster, own_cluster

from mailfarm.sdk import Farm

_LOAD = str(Path(__file__).resolve().parent / "load.py")


@dataclass(frozen=True, slots=True)
class Case:
    """A way of sending, into so many mailboxes."""

    name: str
    title: str
    mailboxes: int
    options: tuple[str, ...]


_KEPT = ("--sessions", "50")
CASES = (
    Case("one", "4 KB, kept", 1, _KEPT),
    Case("many", "4 KB, kept", 1000, _KEPT),
    Case("pipelined", "4 KB, kept, PIPELINING", 1000, (*_KEPT, "--pipelining")),
    Case("new", "4 KB, a connection each", 1000, ("--sessions", "50", "--new")),
    Case("mixed", "2 to 300 KB, kept", 1000, ("--sessions", "20", "--size", "mixed")),
    Case("paced", "4 KB, kept, paced at 100 a second", 1000, ("--sessions", "50", "--rate", "100")),
)
_QUICK = ("many", "paced")
PARTS = ("mx", "queue's Redis", "inbound", "PostgreSQL", "cache's Redis", "generator")
HEAD = (
    "case", "mailboxes", "accepted/s", "readable/s", "dot→250 p50 ms", "p95", "p99", *(f"{part} µs" for part in PARTS),
    report.OTHERS, "errors",
)  # fmt: skip


class Stores:
    """The servers and services of a cluster, and whose CPU counts as what."""

    def __init__(self, own: OwnCluster) -> None:
        servers = {"queue's Redis": own.queue, "cache's Redis": own.cache, "PostgreSQL": own.postgres}
        self.mx, inbound = (own.services.start(word, MAILFARM_LOG_LEVEL="warn")[0] for word in ("mx", "inbound"))
        self.processes = {part: one.process.pid for part, one in servers.items() if one.process}
        self.processes |= {"mx": self.mx.process.pid, "inbound": inbound.process.pid}
        self._connection = psycopg2.connect(own.url)
        self._connection.autocommit = True

    def filed(self) -> int:
        """Messages in all mailboxes."""
        with self._connection.cursor() as cursor:
            cursor.execute("select count(*) from message")
            return sum(count for (count,) in cursor)

    def cpu(self) -> dict[str, float]:
        """Seconds used so far by each."""
        return {part: tree_cpu(process) for part, process in self.processes.items()}

    def close(self) -> None:
        self._connection.close()


@contextmanager
def stores(mailboxes: int) -> Iterator[tuple[Stores, list[str]]]:
    """A new cluster with so many mailboxes, and their addresses."""
    with own_cluster("cluster", "-c", "shared_buffers=256MB", "-c", "max_wal_size=2GB") as own:
        (api,) = own.services.start("api")
        with Farm(api.url, own.services.token) as farm:
            addresses = [farm.create_mailbox().address for _ in range(mailboxes)]
        api.stop()
        made = Stores(own)
        try:
            yield made, addresses
        finally:
            made.close()


def measure(case: Case, seconds: float) -> tuple[object, ...]:
    """A row of the table: a cluster of its own, sent to for so long."""
    with stores(case.mailboxes) as (under, addresses):
        send(under, case, addresses, min(seconds, 1.0))  # connections, caches
        before, others, cpu = under.filed(), report.Others(), under.cpu()
        form = send(under, case, addresses, seconds)
        deadline = time.monotonic() + 60 + seconds * 5
        while under.filed() - before < form["messages"]:
            if time.monotonic() > deadline:
                raise SystemExit(f"{form['messages']} were accepted, and not all are filed in time")
            time.sleep(0.1)
        count = max(form["messages"], 1)
        took = time.monotonic() - form["began"]
        used = {part: (now - cpu[part]) / count * 1e6 for part, now in under.cpu().items()}
        used["generator"] = form["generator_cpu_seconds"] / count * 1e6
        return (
            case.title, case.mailboxes, form["messages_per_second"], count / took,
            *(form["dot_ms"].get(p) for p in ("p50", "p95", "p99")), *(used[part] for part in PARTS),
            others.cores(), form["errors_total"],
        )  # fmt: skip


def send(under: Stores, case: Case, addresses: Sequence[str], seconds: float) -> dict[str, Any]:
    """What the generator says."""
    to = [word for address in addresses for word in ("--to", address)]
    command = [sys.executable, _LOAD, f"127.0.0.1:{under.mx.port('mx')}", "--seconds", str(seconds), "--one-each"]
    done = subprocess.run(
        [*command, *case.options, *to], capture_output=True, text=True, timeout=seconds + 90, check=False
    )
    if done.returncode not in (0, 1):
        raise SystemExit(f"the generator failed: {done.stderr[-2000:]}")
    form: dict[str, Any] = json.loads(done.stdout)
    for error, times in form["errors"].items():
        report.tell(f"  {times} × {error}")
    return form


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = report.options(__doc__)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("--only", default="", help=f"which cases, parted by commas: {names}; kept in .make/bench")
    parser.add_argument("--seconds", type=float, default=0.0, help="of load in each case (10; quick: 2)")
    given = parser.parse_args(argv)
    seconds, turns = given.seconds or (2.0 if given.quick else 10.0), given.turns or (1 if given.quick else 3)
    wanted = given.only.split(",") if given.only else _QUICK if given.quick else [case.name for case in CASES]
    if not set(wanted) <= {case.name for case in CASES}:
        parser.error(f"the cases are {names}")
    end_on_sigterm()
    facts = report.machine()
    rows, patience = [], report.Patience(given.patience)
    for case in [case for case in CASES if case.name in wanted]:
        kept = report.Calmest(HEAD, turns, patience)
        while kept.wanted:
            report.tell(f"{case.title}, {case.mailboxes:,} mailboxes: {seconds:g} s of load …")
            kept.add(measure(case, seconds))
        rows.append(kept.row)
    one = next((row for row in rows if row[1] == 1000), rows[0])
    start = HEAD.index(f"{PARTS[0]} µs")
    costs = [(part, one[start + number]) for number, part in enumerate(PARTS[:-1])]
    picture = chart.bars(f"CPU of a message, {one[0]}", "µs", costs)
    report.save_rows("cluster", given.quick or bool(given.only), facts, HEAD, rows, picture)
    return 1 if any(row[-1] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
