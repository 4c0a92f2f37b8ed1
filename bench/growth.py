#!/usr/bin/env python3
"""Whether a message costs the same however large it is, however many mailboxes there are, and however much mail waits.

    .venv/bin/python bench/growth.py [--quick] [--only size,mailboxes,waiting] [--sizes 1000000]

A cluster of ``mx``, ``inbound``, a Redis for the queue (``appendfsync always``), one for the bus, and PostgreSQL, each
a process of its own; limits are charged. Mail is that of ``corpus.py``.

size        mail of 1 KB to 50 MB into one mailbox, 10 sessions, about 300 MB of each
mailboxes   4 KB each to another one of 1 to 1,000,000 mailboxes, which are made with SQL; 50 sessions
waiting     4 KB while 0 to 100,000 messages wait in the queue: accepted while ``inbound`` is stopped, and then filed
            by an ``inbound`` that is started, so much of them that its first second does not count

CPU is in microseconds a message, of each process, from MAIL to the committed row. *octet ns* is all of it for each
octet of content. *× least* compares with the least of the same curve: cost for each octet among mail of at least
256 KB, cost for each message otherwise. ``others`` is how many cores other programs used meanwhile: above 0.3, CPU is
some tens of per cent too high.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import report
from children import ROOT, end_on_sigterm, tree_cpu
from curves import Panel, curves
from own_cluster import own_cluster

from mailfarm.sdk import Farm

sys.path.insert(0, str(ROOT / "tests"))

from running import Cluster, Service

SIZES = (1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000, 50_000_000)
MAILBOXES = (1, 100, 10_000, 1_000_000)
WAITING = (0, 1_000, 10_000, 100_000)
OCTETS = 300_000_000
"""Of each size; at least ``FEWEST`` and at most ``MOST`` messages."""
FEWEST, MOST = 8, 4_000
LARGE = 256_000
PATIENCE = 300.0
PARTS = ("mx", "queue's Redis", "inbound", "PostgreSQL", "cache's Redis")
HEAD = (
    "curve", "at", "messages", "accepted/s", "dot→250 p50 ms", *(f"{part} µs" for part in PARTS), "all µs", "octet ns",
    "× least", report.OTHERS, "errors",
)  # fmt: skip
_LOAD = str(Path(__file__).resolve().parent / "load.py")
_SEED = """
    insert into mailbox (id, account, address, address_key, kind, created_at, starts_at)
    select 'bench-' || substr(md5(n::text), 1, 20), account, 'rcpt' || n || '@' || domain, 'rcpt' || n || '@' || domain,
           'permanent', created_at, starts_at
    from (select *, split_part(address_key, '@', 2) as domain from mailbox limit 1) one, generate_series(%s, %s) n
    order by 1
"""


class Under:
    """A cluster under measurement."""

    def __init__(self, cluster: Cluster, database: str, servers: dict[str, int]) -> None:
        self._cluster = cluster
        self._processes = servers
        self._connection = psycopg2.connect(database)
        self._connection.autocommit = True
        self._mailboxes = 0
        (api,) = cluster.start("api")
        with Farm(api.url, cluster.token) as farm:
            self.address = farm.create_mailbox().address
        api.stop()
        self.mx = self._start("mx")
        self._inbound: Service | None = None

    def _start(self, word: str) -> Service:
        (service,) = self._cluster.start(word, MAILFARM_LOG_LEVEL="warn", MAILFARM_BACKLOG="200000")
        self._processes[word] = service.process.pid
        return service

    def file(self, wanted: bool = True) -> None:
        """Start or stop ``inbound``."""
        if wanted and self._inbound is None:
            self._inbound = self._start("inbound")
        elif not wanted and self._inbound is not None:
            self._inbound.stop()
            self._inbound = None

    def ask(self, sql: str, *params: object) -> Any:
        """The first column of the first row, if there are rows."""
        with self._connection.cursor() as cursor:
            cursor.execute(sql, params)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

    def filed(self) -> int:
        """Messages in all mailboxes."""
        return int(self.ask("select count(*) from message"))

    def until_filed(self, count: int) -> None:
        """Wait until there are so many."""
        deadline = time.monotonic() + PATIENCE
        while self.filed() < count:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {self.filed()} of {count} messages are filed in time")
            time.sleep(0.1)

    def seed(self, mailboxes: int) -> None:
        """Have rcpt1@… to so many."""
        self.ask(_SEED, self._mailboxes + 1, mailboxes)
        self._mailboxes = mailboxes
        self.ask("analyze mailbox")
        self.ask("checkpoint")

    def cpu(self) -> dict[str, float]:
        """Seconds used so far by each process."""
        return {part: tree_cpu(self._processes[part]) if part in self._processes else 0.0 for part in PARTS}

    def send(self, messages: int, *options: str) -> dict[str, Any]:
        """Have the generator send so many; what it says."""
        command = [sys.executable, _LOAD, f"127.0.0.1:{self.mx.port('mx')}", "--messages", str(messages)]
        command += ["--to", self.address, "--timeout", "120", *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE * 2, check=False)
        if done.returncode not in (0, 1):
            raise SystemExit(f"the generator failed: {done.stderr[-2000:]}")
        form: dict[str, Any] = json.loads(done.stdout)
        for error, times in form["errors"].items():
            report.tell(f"  {times} × {error}")
        return form


@contextmanager
def cluster() -> Iterator[Under]:
    """A new one, with one mailbox, and without ``inbound``."""
    with own_cluster("growth", "-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB") as own:
        servers = {"queue's Redis": own.queue, "cache's Redis": own.cache, "PostgreSQL": own.postgres}
        processes = {part: one.process.pid for part, one in servers.items() if one.process}
        yield Under(own.services, own.url, processes)


Row = list[Any]


def row(curve: str, at: str, form: dict[str, Any], used: dict[str, float], octets: float, others: float) -> Row:
    """A row of the table; ``used`` is in seconds a message. What it is compared with is not known yet."""
    total = sum(used.values())
    return [
        curve, at, form["messages"], form["messages_per_second"], form["dot_ms"].get("p50"),
        *(used[part] * 1e6 for part in PARTS), total * 1e6, total / octets * 1e9, None, others, form["errors_total"],
    ]  # fmt: skip


def sent_and_filed(under: Under, messages: int, *options: str) -> tuple[dict[str, Any], dict[str, float], float, float]:
    """Send so many and wait until they are filed: what the generator says, seconds of CPU a message, octets a message,
    and how many cores others used."""
    before, size, others, cpu = under.filed(), under.ask("select sum(size) from message"), report.Others(), under.cpu()
    form = under.send(messages, *options)
    under.until_filed(before + form["messages"])
    count = max(form["messages"], 1)
    used = {part: (now - cpu[part]) / count for part, now in under.cpu().items()}
    octets = float(under.ask("select sum(size) from message") - (size or 0)) / count
    return form, used, octets, others.cores()


def sizes(wanted: Sequence[int]) -> Iterator[Row]:
    """A row for each size of mail."""
    with cluster() as under:
        under.file()
        sent_and_filed(under, 1_000, "--sessions", "10")  # connections, caches
        for size in wanted:
            count = min(max(OCTETS // size, FEWEST), MOST)
            found = sent_and_filed(under, count, "--sessions", "10", "--size", str(size))
            yield told(row("size", amount(size, "B"), *found))


def mailboxes(wanted: Sequence[int]) -> Iterator[Row]:
    """A row for each number of mailboxes."""
    with cluster() as under:
        under.file()
        for count in wanted:
            under.seed(count)
            to = ("--sessions", "50", "--recipients", str(count), "--one-each") if count > 1 else ("--sessions", "50")
            sent_and_filed(under, 1_000, *to)
            yield told(row("mailboxes", f"{count:,}", *sent_and_filed(under, 6_000, *to)))


def waiting(wanted: Sequence[int]) -> Iterator[Row]:
    """A row for each number of messages that wait."""
    with cluster() as under:
        accepted = under.send(1_000, "--sessions", "50")["messages"]
        under.file()
        under.until_filed(accepted)
        under.file(False)
        for count in wanted:
            missing = count - (accepted - under.filed())
            if missing > 0:
                accepted += under.send(missing, "--sessions", "50")["messages"]
            others, cpu = report.Others(), under.cpu()
            form = under.send(3_000, "--sessions", "50")
            accepted += form["messages"]
            used = {part: (now - cpu[part]) / form["messages"] for part, now in under.cpu().items()}
            start = under.filed()
            under.file()
            under.until_filed(start + 500)
            began, cpu = under.filed(), under.cpu()
            under.until_filed(min(start + 2_900, accepted))
            done, now = under.filed() - began, under.cpu()
            used = {part: used[part] + (now[part] - cpu[part]) / done for part in PARTS}
            under.file(False)
            octets = float(under.ask("select avg(size) from message"))
            yield told(row("waiting", f"{count:,}", form, used, octets, others.cores()))


def told(made: Row) -> Row:
    """Say it."""
    report.tell(f"{made[0]} {made[1]}: {made[2]} messages, {made[10]:,.0f} µs each, {made[11]:.1f} ns an octet")
    return made


def amount(value: int, unit: str) -> str:
    """1000 as 1 k."""
    for factor, prefix in ((1_000_000, "M"), (1_000, "k")):
        if value >= factor:
            return f"{value / factor:g} {prefix}{unit}"
    return f"{value} {unit}"


def compared(rows: Sequence[Row], at: Sequence[float]) -> None:
    """Fill in how each row compares with the least of its curve."""
    by_octet = rows[0][0] == "size"
    column = HEAD.index("octet ns" if by_octet else "all µs")
    counted = [made for made, x in zip(rows, at, strict=True) if not by_octet or x >= LARGE]
    least = min((made[column] for made in counted), default=0.0)
    for made in counted:
        made[HEAD.index("× least")] = made[column] / least


def panel(title: str, unit: str, column: str, rows: Sequence[Row], at: Sequence[float]) -> Panel:
    """A curve of the chart."""
    values = [float(made[HEAD.index(column)]) for made in rows]
    return Panel(title, unit, at, [made[1] for made in rows], [("", values)], steep=column == "octet ns")


CURVES = {
    "size": (
        "CPU for each octet, by the size of a message (both axes logarithmic)",
        "ns",
        "octet ns",
        sizes,
        SIZES,
        (4_000, 1_000_000),
    ),
    "mailboxes": ("CPU for a message, by the number of mailboxes", "µs", "all µs", mailboxes, MAILBOXES, (1, 10_000)),
    "waiting": ("CPU for a message, by how many wait", "µs", "all µs", waiting, WAITING, (0, 5_000)),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = report.options(__doc__)
    parser.add_argument("--only", default="", help=f"which curves, parted by commas: {', '.join(CURVES)}")
    parser.add_argument("--sizes", default="", help="which sizes in octets, parted by commas; kept in .make/bench")
    given = parser.parse_args(argv)
    wanted = given.only.split(",") if given.only else list(CURVES)
    if not set(wanted) <= set(CURVES):
        parser.error(f"the curves are {', '.join(CURVES)}")
    end_on_sigterm()
    facts = report.machine()
    rows: list[Row] = []
    panels: list[Panel] = []
    for name in [name for name in CURVES if name in wanted]:
        title, unit, column, measured, full, quick = CURVES[name]
        at: Sequence[int] = quick if given.quick else full
        if name == "size" and given.sizes:
            at = [int(size) for size in given.sizes.split(",")]
        found = list(measured(at))
        compared(found, at)
        rows += found
        panels.append(panel(title, unit, column, found, at))
    partly = bool(given.only or given.sizes)
    report.save_rows("growth", given.quick or partly, facts, HEAD, rows, curves(panels))
    return 1 if any(made[-1] for made in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
