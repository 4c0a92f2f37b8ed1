#!/usr/bin/env python3
"""Ten times what can be filed: who is let in, how long it takes, what the rest hears, and how long until it is over.

    bench/overload.py [--quick] [--seconds 60] [--age 5] [--mailboxes 100]

One mx, one inbound, on Redis that syncs each write and on Postgres. So that ten times as much can be offered on the
same machine, a mail is for so many mailboxes (``--mailboxes``), which is much less to accept than to file; and where
there are three cores or more inbound and Postgres have one of them, those who send another, and mx and Redis the rest:
how fast mail is filed then does not depend on how much is offered. First it is measured how much can be filed: more is
sent than that for a few seconds, without a bound on the wait, and the mail is counted as it appears. Then, with
``MAILFARM_BACKLOG_AGE`` (``--age``), many connections of one client network offer ten times as much, or as much as they
can, and beside them another network sends a little, for one mailbox, at a fixed rate.
``offered`` are attempts: MAIL, or a connection that is not greeted. All latencies are of accepted mail: ``250`` from
MAIL on, ``filed`` from when it was accepted until Postgres has it. ``back`` is from the last of the load until nobody's
share is bounded and all accepted mail is filed.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import report
from children import end_on_sigterm
from generator import percentiles
from measuring import peak_mib
from own_cluster import OwnCluster, own_cluster
from smtp_dialog import proxy_header
from stand import Rows, process_of

from mailfarm.sdk import Farm

TIMES = 10
MOST, FEW = 1000, 100
"""Sessions of a process of the noisy network, and when it must be quick."""
NOISY, QUIET = "198.18.0.1", "198.18.1.1"
QUIET_RATE = 5.0
ALL_CORES = os.sched_getaffinity(0)
_CONTENT = b"Subject: overload\r\n\r\n" + b"The code is 481516, and this is a line like others.\r\n" * 60 + b".\r\n"
HEAD = (
    "network", "offered/s", "accepted/s", "refused", "250 p50 ms", "250 p99 ms", "filed p50 s", "filed p99 s",
)  # fmt: skip


class Network:
    """The connections of one client network, in a process of their own; what became of each attempt."""

    def __init__(self, port: int, source: str, to: str, seconds: float, every: float) -> None:
        self.port, self.source, self.every = port, source, every
        recipients = to.split(",")
        lines = [*[f"RCPT TO:<{each}>" for each in recipients], "DATA", ""]
        self.batch = "\r\n".join(lines).encode()
        self.replies = len(lines) - 1
        self.until = time.monotonic() + seconds
        self.codes: Counter[str] = Counter()
        self.took: list[float] = []

    async def session(self, number: int) -> None:
        """One connection after another, a transaction at a time, until time is up."""
        while time.monotonic() < self.until:
            with suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(proxy_header(self.source, 1024 + number, ("127.0.0.1", self.port)))
                    if await self._reply(reader, self.codes) == "220":
                        writer.write(b"EHLO load.example\r\n")
                        await self._reply(reader)
                        while time.monotonic() < self.until:
                            await self._transaction(reader, writer)
                            await asyncio.sleep(self.every)
                finally:
                    writer.close()
            await asyncio.sleep(0.2)

    async def _transaction(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        began = time.monotonic()
        writer.write(b"MAIL FROM:<a@shop.example>\r\n")
        last = await self._reply(reader)
        if last == "250":
            writer.write(self.batch)
            for _ in range(self.replies):
                last = await self._reply(reader)
            if last == "354":
                writer.write(_CONTENT)
                last = await self._reply(reader)
                self.took += [time.monotonic() - began] if last == "250" else []
            else:
                writer.write(b"RSET\r\n")
                await self._reply(reader)
        self.codes[last] += 1

    async def _reply(self, reader: asyncio.StreamReader, refusals: Counter[str] | None = None) -> str:
        while True:
            line = await asyncio.wait_for(reader.readuntil(b"\n"), 60)
            if line[3:4] == b" ":
                code = line[:3].decode()
                if refusals is not None and code != "220":
                    refusals[code] += 1
                return code


def attack(words: Sequence[str]) -> None:
    """What a child does: many sessions of one network; then its counts, as JSON."""
    port, source, to, seconds, every, sessions = words
    network = Network(int(port), source, to, float(seconds), float(every))

    async def all_of_them() -> None:
        await asyncio.gather(*[network.session(number) for number in range(int(sessions))])

    asyncio.run(all_of_them())
    print(json.dumps({"codes": network.codes, "took": network.took}))


def start(port: int, source: str, to: str, seconds: float, every: float, sessions: int) -> subprocess.Popen[str]:
    """Begin as a client network."""
    words = ("--attack", str(port), source, to, str(seconds), str(every), str(sessions))
    return subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)


def ended(children: Sequence[subprocess.Popen[str]], patience: float) -> dict[str, Any]:
    """What several of one network have counted together."""
    codes: Counter[str] = Counter()
    took: list[float] = []
    for child in children:
        said = json.loads(child.communicate(timeout=patience)[0])
        codes.update(said["codes"])
        took += said["took"]
    return {"codes": codes, "took": took}


def started(house: OwnCluster, age: float, quick: bool) -> list[Any]:
    """mx, inbound and api; each, and who sends from now on, has its cores, unless it must be quick."""
    first, *rest = sorted(ALL_CORES)
    apart = len(rest) > 1 and not quick
    if apart:
        os.sched_setaffinity(0, set(rest[:-1]))
    services = house.services.start("mx", "inbound", "api", **_settings(age))
    if apart:
        for process in (services[1].process.pid, process_of(house.postgres)):
            _pin(process, {first})
        for server in (house.queue, house.cache):
            _pin(process_of(server), set(rest[:-1]))
        os.sched_setaffinity(0, {rest[-1]})
    return services


def _pin(process: int, cores: set[int]) -> None:
    for task in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)
        for child in (task / "children").read_text().split():
            _pin(int(child), cores)


def sustainable(house: OwnCluster, rows: Rows, seconds: float, given: Any) -> float:
    """Messages a second that are filed while there is always one to file."""
    services = house.services
    mx, inbound, api = started(house, 0, given.quick)
    with Farm(api.url, services.token) as farm:
        to = ",".join(farm.create_mailbox().address for _ in range(given.mailboxes))
    child = start(mx.port("mx"), NOISY, to, seconds + 1, 0.0, 50)
    try:
        _until(lambda: _count(rows), 30)
        first, began = _count(rows), time.monotonic()
        time.sleep(seconds)
        rate = (_count(rows) - first) / (time.monotonic() - began)
        ended([child], seconds + 30)
    finally:
        child.kill()
    _until(lambda: _waiting(mx) == 0, 120)
    for service in (mx, inbound, api):
        service.stop()
    return float(rate)


def overload(house: OwnCluster, rows: Rows, rate: float, given: Any) -> dict[str, Any]:
    """Offer ten times ``rate``: one row for each network, memory, and how long it takes to be over."""
    services, seconds = house.services, given.seconds
    mx, inbound, api = started(house, given.age, given.quick)
    with Farm(api.url, services.token) as farm:
        boxes = [farm.create_mailbox() for _ in range(given.mailboxes + 1)]
    boxes = [boxes[0], boxes[-1], *boxes[1:-1]]  # the noisy network's first, and the quiet one's
    many = ",".join(box.address for box in boxes if box is not boxes[1])
    processes = 2
    # a session that is refused waits a second for that and one that is let in for longer, so there are many
    sessions = min(int(1.5 * TIMES * rate) // processes + 10, FEW if given.quick else MOST)
    noisy = [start(mx.port("mx"), NOISY, many, seconds, 0.0, sessions) for _ in range(processes)]
    quiet = [start(mx.port("mx"), QUIET, boxes[1].address, seconds, 1 / QUIET_RATE, 1)]
    try:
        found = {"noisy": ended(noisy, seconds + 120), "quiet": ended(quiet, seconds + 120)}
        over = time.monotonic()
        _until(lambda: _waiting(mx) == 0, 300)
        _until(lambda: mx_share(mx) == -1 or _poke(mx.port("mx"), boxes[1].address), 300)
        back = time.monotonic() - over
    finally:
        for child in (*noisy, *quiet):
            child.kill()
    table = []
    for (name, counted), box in zip(found.items(), boxes[:2], strict=True):
        codes, took = counted["codes"], percentiles(counted["took"])
        filed = rows.ask(
            "select percentile_cont(array[0.5, 0.99]) within group (order by (f.filed_at - m.received_at) / 1e6)"
            " from message m join filed f on f.spool = m.content where m.mailbox = %s",
            box.id,
        )[0][0] or [0.0, 0.0]
        refused = {code: count for code, count in sorted(codes.items()) if code != "250"}
        table.append(
            (name, sum(codes.values()) / seconds, codes["250"] / seconds,
             ", ".join(f"{code}: {count}" for code, count in refused.items()) or "0",
             took.get("p50", 0.0), took.get("p99", 0.0), filed[0], filed[1])
        )  # fmt: skip
    parts = {"mx": mx.process.pid, "inbound": inbound.process.pid, "redis": process_of(house.queue)}
    form = {
        "sustainable_per_second": rate,
        "times": sum(row[1] for row in table) / rate,
        "table": table,
        "back_seconds": back,
        "peak_mib": {name: peak_mib(process) for name, process in parts.items()},
    }
    for service in (mx, inbound, api):
        service.stop()
    return form


def _settings(age: float) -> dict[str, str]:
    return {
        "MAILFARM_BACKLOG_AGE": str(age),
        "MAILFARM_BACKLOG": "1000000",
        "MAILFARM_LOG_LEVEL": "warn",
        "MAILFARM_MX_PROXY_FROM": "127.0.0.0/8",
        "MAILFARM_LIMITS": os.environ["OVERLOAD_LIMITS"],
    }


def _count(rows: Rows) -> int:
    return int(rows.ask("select count(*) from filed")[0][0])


def _metric(service: Any, name: str, default: float) -> float:
    lines = service.status("metrics")[1].splitlines()
    found = [float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(found) if found else default


def _waiting(mx: Any) -> float:
    return _metric(mx, "mailfarm_queue_entries", 1.0)


def mx_share(mx: Any) -> float:
    """Messages a second that each network may bring in; -1: any number."""
    return _metric(mx, "mailfarm_mx_share", -1.0)


def _poke(port: int, to: str) -> bool:
    """A share ends when somebody asks and nobody is refused."""
    ended([start(port, QUIET, to, 0.3, 1.0, 1)], 30)
    return False


def _until(so: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        if time.monotonic() > deadline:
            raise SystemExit(f"not so within {seconds:g} s: {so}")
        time.sleep(0.1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--attack"]:
        attack(words[1:])
        return 0
    parser = report.options(__doc__, turns=1)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--mailboxes", type=int, default=100, help="that a mail is for")
    parser.add_argument("--age", type=float, default=5.0, help="MAILFARM_BACKLOG_AGE")
    given = parser.parse_args(words)
    end_on_sigterm()
    facts = report.machine()
    others = report.Others()
    with own_cluster("overload") as house:
        limits = house.services.folder / "limits.toml"
        limits.write_text("[client]\nconnections_per_minute = 0\nsessions = 0\n")
        os.environ["OVERLOAD_LIMITS"] = str(limits)
        rows = Rows(house.url)
        try:
            rate = sustainable(house, rows, 3.0 if given.quick else 10.0, given)
            form = overload(house, rows, rate, given)
        finally:
            rows.close()
    form |= {"machine": facts, "age": given.age, "seconds": given.seconds, "others": others.cores()}
    text = "\n".join(
        (
            report.table(HEAD, form["table"]),
            "",
            f"{rate:,.0f} a second can be filed, each for {given.mailboxes} mailboxes. {form['times']:.1f} times as "
            f"many were offered for {given.seconds:g} s, with MAILFARM_BACKLOG_AGE={given.age:g}.",
            f"Back to normal after {form['back_seconds']:.1f} s.",
            "Peak memory, MiB: " + ", ".join(f"{name} {mib:.0f}" for name, mib in form["peak_mib"].items()) + ".",
            f"Others used {form['others']:.1f} cores meanwhile.",
        )
    )
    report.tell(text)
    report.save("overload", given.quick, form, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
