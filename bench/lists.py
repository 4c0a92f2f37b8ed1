#!/usr/bin/env python3
"""What reading costs in a mailbox of a thousand messages and in one of a million: lists and waits over HTTP.

    .venv/bin/python bench/lists.py [--quick] [--many 1000000] [--only sqlite,postgres]

``mailfarm dev`` on SQLite, and an ``api`` on PostgreSQL and Redis, each with two mailboxes: a small one and a large
one, whose messages are put there by SQL (of one content that all of them share: no list reads it), each sender has
fifty. Both are asked in turn, five requests each, over one kept connection. ``ms`` is p50 and p99 of a request, CPU the
process's own for each, ``ratio`` the large mailbox's p50 by the small one's. Before, the small one is asked by itself,
in a farm that has nothing else: ``alone``.

list        the first 50 messages
newest      the last 50, newest first
sender      50 messages of one sender, by the From address
nobody      a sender who has none
wait new    a wait for a subject, that the one message after its cursor has
wait sender a wait for mail of a sender who has some
wait none   a wait for mail of a sender who has none, until it times out at once: what looking takes before one waits
"""

from __future__ import annotations

import gc
import json
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import chart
import psycopg2
import report
from children import ROOT, WORK, end_on_sigterm
from generator import percentiles

from mailfarm.sdk import Farm

sys.path.insert(0, str(ROOT / "tests"))

from own_cluster import own_cluster
from running import Running

SMALL = 1000
_EACH = 50
HEAD = (
    "store", "question", "alone p50 ms", "small p50 ms", "p99", "large p50 ms", "p99", "ratio", "small CPU ms",
    "large CPU ms", report.OTHERS,
)  # fmt: skip
QUESTIONS = {
    "list": "messages?limit=50",
    "newest": "messages?limit=50&order=desc",
    "sender": "messages?limit=50&from=sender7@shop.example",
    "nobody": "messages?limit=50&from=nobody@shop.example",
    "wait new": "wait?after={before}&subject=number%20{last}%20",
    "wait sender": "wait?from=sender7@shop.example",
    "wait none": "wait?from=nobody@shop.example&timeout=0",
}
_SUMMARY = (
    '{"id":"<id>","mailbox":"<mailbox>","seq":<seq>,"received_at":"2026-01-31T12:00:00.000000Z",'
    '"sender":"bounce-<seq>@mail.shop.example","recipients":["<address>"],'
    '"from":{"name":"The shop of examples","address":"sender<who>@shop.example"},'
    '"to":[{"name":"A person","address":"<address>"}],"cc":[],"subject":"Your order number <seq> is on its way",'
    '"snippet":"Dear customer, thank you for your order. It has left our house today and will be with you in two'
    ' or three days; here is what is in it, and how to send it back.","message_id":"<seq>.order@shop.example",'
    '"size":4096,"attachments":0,"seen":false,"duplicate_of":null}'
)
_FOREVER = 2**63 - 1


def _filling(box: Box, rows: str, padded: str) -> str:
    """An insert of all the messages of a mailbox: ``rows`` are their numbers n, ``padded`` is n in twelve digits."""
    seq, who = "cast(n as text)", f"cast(n % {max(1, box.count // _EACH)} as text)"
    given = {"id": f"'{box.id[:14]}' || {padded}", "mailbox": f"'{box.id}'", "address": f"'{box.address}'"}
    summary = f"'{_SUMMARY}'"
    for name, value in {**given, "seq": seq, "who": who}.items():
        summary = summary.replace(f"<{name}>", f"' || {value} || '")
    return (
        "insert into message (id, mailbox, content, until, size, shared, seq, received_at, sender, from_key, summary,"
        f" message_id) select {given['id']}, '{box.id}', 'shared', {_FOREVER}, 4096, 1, n, {time.time_ns() // 1000},"
        f" 'bounce-' || {seq} || '@mail.shop.example', 'sender' || {who} || '@shop.example', {summary},"
        f" {seq} || '.order@shop.example' from {rows}"
    )


@dataclass(frozen=True, slots=True)
class Box:
    """A mailbox and how many messages it has."""

    id: str
    address: str
    count: int


_COUNTED = "update mailbox set seq = {0}, messages = {0}, unseen = {0}, oldest = {0} where id = '{1}'"


class Farmed:
    """A farm: ``fill`` puts messages into its database, ``url`` and ``token`` lead to its API, ``process`` is it."""

    url: str
    token: str
    process: int
    fill: Callable[[Box], None]


@contextmanager
def on_sqlite() -> Iterator[Farmed]:
    """``mailfarm dev``."""
    folder = Path(tempfile.mkdtemp(prefix="lists-", dir=WORK))
    made = Farmed()
    try:
        with Running(folder, MAILFARM_LOG_LEVEL="warn") as running:
            made.url, made.token, made.process = running.url, "", running.process.pid

            def fill(box: Box) -> None:
                connection = sqlite3.connect(folder / "mailfarm.sqlite", timeout=60)
                connection.execute(
                    "insert or ignore into content"
                    " select 'shared', ?, account, 4096, x'', 0, x'', 0, 0, x'' from mailbox",
                    (_FOREVER,),
                )
                numbers = "with recursive c (n) as (select 1 union all select n + 1 from c where n < ?)"
                connection.execute(numbers + _filling(box, "c", "printf('%012d', n)"), (box.count,))
                connection.execute(_COUNTED.format(box.count, box.id))
                connection.commit()
                connection.close()

            made.fill = fill
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def on_postgres() -> Iterator[Farmed]:
    """An ``api`` by itself."""
    tuning = ("-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB", "-c", "maintenance_work_mem=256MB")
    with own_cluster("lists", *tuning) as own:
        made = Farmed()
        (api,) = own.services.start("api", MAILFARM_LOG_LEVEL="warn")
        made.url, made.token, made.process = api.url, own.services.token, api.process.pid

        def fill(box: Box) -> None:
            connection = psycopg2.connect(own.url)
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute("set synchronous_commit = off")
                cursor.execute(_filling(box, f"generate_series(1, {box.count}) as n", "lpad(n::text, 12, '0')"))
                cursor.execute(_COUNTED.format(box.count, box.id))
                cursor.execute("vacuum analyze")
                cursor.execute("checkpoint")
            connection.close()

        made.fill = fill
        yield made


STORES = {"sqlite": on_sqlite, "postgres": on_postgres}


class Reader:
    """Asks, over one kept connection."""

    def __init__(self, farm: Farmed) -> None:
        host = farm.url.split("//")[1].rstrip("/")
        self._connection = HTTPConnection(host, timeout=120)
        self._headers = {"Authorization": f"Bearer {farm.token}"} if farm.token else {}

    def ask(self, box: Box, question: str) -> float:
        """Seconds until the whole answer was there."""
        tail = QUESTIONS[question].format(before=box.count - 1, last=box.count)
        path = f"/v1/mailboxes/{box.id}/{tail}"
        began = time.perf_counter()
        self._connection.request("GET", path, headers=self._headers)
        answer = self._connection.getresponse()
        body = answer.read()
        took = time.perf_counter() - began
        found = len(json.loads(body)["messages"])
        wanted = {"nobody": 0, "wait new": 1, "wait sender": 1, "wait none": 0}.get(question, 50)
        if answer.status != (408 if question == "wait none" else 200) or found != wanted:
            raise SystemExit(f"{path} was answered {answer.status} with {found} messages, not {wanted}: {body[:300]!r}")
        return took


def cpu(process: int) -> float:
    """Seconds a process has run, all threads."""
    tasks = Path(f"/proc/{process}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def several(
    farm: Farmed, reader: Reader, boxes: Sequence[Box], question: str, times: int
) -> list[tuple[list[float], float]]:
    """For each mailbox the seconds of each request, and of CPU for one; they are asked in turn, five at a time."""
    found: list[tuple[list[float], float]] = [([], 0.0) for _ in boxes]
    for box in boxes:
        reader.ask(box, question)
    done = 0
    until = time.monotonic() + 20
    while done < times and (done < 5 or time.monotonic() < until):
        for number, box in enumerate(boxes):
            before = cpu(farm.process)
            took = [reader.ask(box, question) for _ in range(5)]
            found[number][0].extend(took)
            found[number] = found[number][0], found[number][1] + cpu(farm.process) - before
        done += 5
    return [(took, used / len(took)) for took, used in found]


def measure(store: str, many: int, times: int) -> list[tuple[object, ...]]:
    """The rows of one store."""
    gc.disable()
    with STORES[store]() as farm:
        with Farm(farm.url, farm.token) if farm.token else Farm(farm.url) as sdk:
            small, large = (
                Box(made.id, made.address, count)
                for made, count in ((sdk.create_mailbox(), SMALL), (sdk.create_mailbox(), many))
            )
        farm.fill(small)
        reader = Reader(farm)
        alone = {question: several(farm, reader, [small], question, times // 2)[0] for question in QUESTIONS}
        began = time.monotonic()
        farm.fill(large)
        report.tell(f"{store}: {many:,} messages were put there in {time.monotonic() - began:.0f} s")
        reader = Reader(farm)  # the connection has been idle for longer than it is kept
        rows: list[tuple[object, ...]] = []
        for question in QUESTIONS:
            others = report.Others()
            (few, few_cpu), (lots, lots_cpu) = several(farm, reader, [small, large], question, times)
            one, two = percentiles(few), percentiles(lots)
            row = (
                store, question, percentiles(alone[question][0])["p50"], one["p50"], one["p99"], two["p50"], two["p99"],
                two["p50"] / one["p50"], few_cpu * 1e3, lots_cpu * 1e3, others.cores(),
            )  # fmt: skip
            report.tell("  ".join(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row))
            rows.append(row)
        return rows


def _targets(rows: Sequence[Sequence[Any]], many: int) -> list[dict[str, Any]]:
    """What the rows of each store say of what is aimed at."""
    found = []
    for store in STORES:
        mine = {row[1]: row for row in rows if row[0] == store}
        if mine:
            most, worst = max((row[7], name) for name, row in mine.items())
            took = mine["list"][5]
            found.append(
                {
                    "what": f"{store}: list of 50, list by sender, wait: {SMALL:,} and {many:,} stored",
                    "target": "p50 within 1.5 ×, list ≤ 5 ms",
                    "moonshot": "2 ms",
                    "measured": f"{most:.2f} × ({worst}); list {took:.1f} ms",
                    "met": bool(most <= 1.5 and took <= 5),
                }
            )
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = report.options(__doc__, turns=1)
    parser.add_argument("--only", default="sqlite,postgres", help="which stores, parted by commas")
    parser.add_argument("--many", type=int, default=0, help="messages of the large mailbox (1,000,000; quick: 50,000)")
    given = parser.parse_args(argv)
    many, times = given.many or (50_000 if given.quick else 1_000_000), 50 if given.quick else 200
    end_on_sigterm()
    WORK.mkdir(parents=True, exist_ok=True)
    facts = report.machine()
    report.Patience(given.patience).wait()
    rows = [row for store in given.only.split(",") for row in measure(store, many, times)]
    bars = [(f"{row[0]}, {row[1]}", float(str(row[5]))) for row in rows]
    picture = chart.bars(f"A request to a mailbox of {many:,} messages, p50", "ms", bars)
    quick = given.quick or given.only != "sqlite,postgres"
    report.save_rows("lists", quick, facts, HEAD, rows, picture, _targets(rows, many))
    return 0


if __name__ == "__main__":
    sys.exit(main())
