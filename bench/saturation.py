#!/usr/bin/env python3
"""What an API that is asked as fast as it can answer does to SMTP on the same machine.

    bench/saturation.py [--quick] [--rounds 12] [--seconds 3] [--rate 100] [--connections 16] [--only cluster,dev]

Mail is sent at a fixed rate while nobody asks the API (``idle``), and while many connections ask it, each again as soon
as it is answered: for a list of 50 messages, for a message, and for its raw content. In a ``cluster`` there are one mx
and one inbound, two api that are asked both, Redis that syncs each write and Postgres, a process each; in ``dev`` all
is one process on SQLite. What sends mail and what asks have one core of the machine and what is measured has the
others, so that nobody is slow because of those who measure; the sender goes before everything else on its core.

All rows are measured for a few seconds each, one after the other, round after round, to and fro: what the disk and
others do meanwhile is then in all of them. Times are of all rounds together, from MAIL (or when it was due) to 250.
``by idle`` is a time of this row by that of the idle one. ``CPU`` is cores kept busy: by mx and inbound, by api, and by
Redis and Postgres; in ``dev`` by all. ``nice`` and ``one core`` are what nice(1) and taskset(1) do to both api.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import load
import report
from children import Farm, end_on_sigterm, tree_cpu
from generator import Plan, percentiles
from own_cluster import own_cluster
from smtp_dialog import Options
from stand import process_of

from mailfarm.sdk import Farm as Client

_ASKING = str(Path(__file__).resolve().parent / "asking.py")
_BOXES = 20
_LEAD = 0.7
"""Seconds that the API is asked before the mail begins."""
HEAD = (
    "", "the API is", "answers/s", "answer p50 ms", "p99", "250 p50 ms", "p99", "p50 by idle", "p99 by idle",
    "CPU mx, inbound", "api", "stores", "errors", report.OTHERS,
)  # fmt: skip


@dataclass(slots=True)
class Row:
    """A way to be asked: ``before`` sets it up, and ``farms`` are what is asked then, nobody where it is idle."""

    where: str
    state: str
    asked: Sequence[str] = ()
    before: Callable[[], object] = lambda: None
    whole: list[float] = field(default_factory=list)
    measured: list[tuple[float, ...]] = field(default_factory=list)


@dataclass(slots=True)
class Measured:
    """What is measured: where mail goes, how the API is asked, whose CPU is counted."""

    port: int
    to: tuple[str, ...]
    token: str
    paths: Sequence[str]
    parts: Mapping[str, Sequence[int]]
    rows: list[Row]


class Cores:
    """One core for those who measure, the others for what is measured."""

    def __init__(self) -> None:
        ours = sorted(os.sched_getaffinity(0))
        self._ours, self._theirs = set(ours[-1:]), set(ours[:-1] or ours)

    @contextmanager
    def for_what_is_measured(self) -> Iterator[None]:
        """Whoever is started here has their cores."""
        os.sched_setaffinity(0, self._theirs)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._ours)

    def give(self, processes: Sequence[int], niceness: int, *, one: bool = False) -> None:
        """How far these step back, and whether they have one core in common or all of theirs."""
        cores = {min(self._theirs)} if one else self._theirs
        for process in processes:
            for thread in map(int, os.listdir(f"/proc/{process}/task")):
                os.setpriority(os.PRIO_PROCESS, thread, niceness)
                os.sched_setaffinity(thread, cores)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Go before everybody else on our core, where that is allowed."""
        with suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


@contextmanager
def cluster(cores: Cores) -> Iterator[Measured]:
    """A cluster of processes."""
    with ExitStack() as stack:
        with cores.for_what_is_measured():
            house = stack.enter_context(own_cluster("saturation"))
            services = house.services
            (services.folder / "limits.toml").write_text("[client]\nconnections_per_minute = 0\nsessions = 0\n")
            settings = {"MAILFARM_LOG_LEVEL": "warn", "MAILFARM_LIMITS": str(services.folder / "limits.toml")}
            mx, inbound, *apis = services.start("mx", "inbound", "api", "api", **settings)
        with Client(apis[0].url, services.token) as client:
            boxes = [client.create_mailbox() for _ in range(_BOXES)]
        processes = [api.process.pid for api in apis]
        urls = [api.url for api in apis]
        made = Measured(
            mx.port("mx"),
            tuple(box.address for box in boxes),
            services.token,
            (f"/v1/mailboxes/{boxes[0].id}/messages?limit=50",),
            {
                "mail": (mx.process.pid, inbound.process.pid),
                "api": processes,
                "stores": [process_of(each) for each in (house.queue, house.cache, house.postgres)],
            },
            [
                Row("cluster", "idle"),
                Row("cluster", "asked", urls, lambda: cores.give(processes, 0)),
                Row("cluster", "asked, nice 10", urls, lambda: cores.give(processes, 10)),
                Row("cluster", "asked, nice 19", urls, lambda: cores.give(processes, 19)),
                Row("cluster", "asked, one core", urls, lambda: cores.give(processes, 0, one=True)),
                Row("cluster", "asked, one core, nice 10", urls, lambda: cores.give(processes, 10, one=True)),
            ],
        )
        yield made


@contextmanager
def dev(cores: Cores) -> Iterator[Measured]:
    """A ``mailfarm dev``."""
    with cores.for_what_is_measured():
        farm = Farm()
    try:
        with Client(farm.http) as client:
            box = client.create_mailbox()
        path = f"/v1/mailboxes/{box.id}/messages?limit=50"
        rows = [Row("dev", "idle"), Row("dev", "asked", [farm.http])]
        yield Measured(farm.smtp, (box.address,), "none", (path,), {"all": (farm.pid,)}, rows)
    finally:
        farm.end()


def send(made: Measured, given: Any, seconds: float) -> Any:
    """Mail at the rate; what came of it."""
    options = Options(recipients=made.to, one_each=True)
    plan = Plan("127.0.0.1", made.port, options, 20, seconds=seconds, rate=given.rate, label=os.urandom(3).hex())
    return load.run(plan)


def turn(made: Measured, row: Row, given: Any, cores: Cores) -> None:
    """Measure one row once."""
    row.before()
    used, began = {name: _used(parts) for name, parts in made.parts.items()}, time.monotonic()
    others = report.Others()
    asking: list[subprocess.Popen[str]] = []
    try:
        for url in row.asked:
            words = (url.partition("//")[2].strip("/"), made.token, str(given.seconds + 2 * _LEAD))
            command = ["nice", sys.executable, _ASKING, *words, str(given.connections), *made.paths]
            asking.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        time.sleep(_LEAD)
        with cores.first():
            result = send(made, given, given.seconds)
        said = [json.loads(child.communicate(timeout=60)[0]) for child in asking]
    finally:
        for child in asking:
            child.kill()
            child.wait()
    took = time.monotonic() - began
    busy = {name: (_used(parts) - used[name]) / took for name, parts in made.parts.items()}
    mail, api, stores = (busy.get(name, 0.0) for name in ("mail", "api", "stores"))
    row.whole += result.whole
    answered = sum(each["answered"] for each in said) / (given.seconds + 2 * _LEAD)
    errors = sum(result.errors.values()) + sum(sum(each["refused"].values()) for each in said)
    times = [report.median([each[name] for each in said] or [0.0]) for name in ("p50_ms", "p99_ms")]
    row.measured.append((answered, *times, busy.get("all", mail), api, stores, errors, others.cores()))


def _used(processes: Sequence[int]) -> float:
    return sum(map(tree_cpu, processes))


def measure(made: Measured, given: Any, cores: Cores) -> list[tuple[object, ...]]:
    """All rows of it, round after round."""
    send(made, given, 5.0)  # connections, caches, and something to ask for
    _more_paths(made)
    for number in range(given.rounds):
        for row in made.rows if number % 2 == 0 else made.rows[::-1]:
            turn(made, row, given, cores)
            times = percentiles(row.whole[-int(given.rate * given.seconds) :])
            report.tell(f"{row.where}, {row.state}: 250 p50 {times['p50']:.1f} ms, p99 {times['p99']:.1f} ms")
    idle = percentiles(made.rows[0].whole)
    table = []
    for row in made.rows:
        answers, p50, p99, mail, api, stores, errors, others = map(report.median, zip(*row.measured, strict=True))
        times = percentiles(row.whole)
        ratios = (times["p50"] / idle["p50"], times["p99"] / idle["p99"])
        asked = (answers, p50, p99) if row.asked else (None, None, None)
        of_processes = (mail, None, None) if row.where == "dev" else (mail, api, stores)
        table.append(
            (row.where, row.state, *asked, times["p50"], times["p99"], *ratios, *of_processes, int(errors), others)
        )
    return table


def _more_paths(made: Measured) -> None:
    """Ask for messages that are there, too."""
    url = next(row.asked[0] for row in made.rows if row.asked)
    with Client(url, made.token) as client:
        box = made.paths[0].split("/")[3]
        ids = [message.id for message in client.mailbox(box).messages(limit=3)]
    made.paths = (*made.paths, f"/v1/messages/{ids[0]}", f"/v1/messages/{ids[1]}/raw")


def main(argv: Sequence[str] | None = None) -> int:
    """Run from the command line."""
    parser = report.options(__doc__, turns=1)
    parser.add_argument("--rounds", type=int, default=0, help="of all rows (12; quick: 2)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each row in a round")
    parser.add_argument("--rate", type=float, default=100.0, help="messages a second")
    parser.add_argument("--connections", type=int, default=16, help="that ask each api at once")
    parser.add_argument("--only", default="cluster,dev", help="which of both")
    given = parser.parse_args(argv)
    given.rounds = given.rounds or (2 if given.quick else 12)
    end_on_sigterm()
    facts = report.machine()
    cores = Cores()
    rows: list[tuple[object, ...]] = []
    for name, kind in (("cluster", cluster), ("dev", dev)):
        if name in given.only.split(","):
            with kind(cores) as made:
                rows += measure(made, given, cores)
    names = dict(enumerate(HEAD))
    names |= {0: "where", 4: "answer p99 ms", 6: "250 p99 ms"}
    forms = [dict(zip(names.values(), row, strict=True)) for row in rows]
    settings = {"rate": given.rate, "rounds": given.rounds, "seconds": given.seconds, "connections": given.connections}
    text = "\n".join(
        (
            report.about(facts), "", report.table(HEAD, rows), "",
            f"{given.rate:g} mails a second, {given.connections} connections that ask each api, {given.rounds} rounds "
            f"of {given.seconds:g} s a row.",
        )
    )  # fmt: skip
    print(text)
    report.save("saturation", given.quick, {"machine": facts, **settings, "rows": forms}, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
