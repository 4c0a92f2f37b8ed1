#!/usr/bin/env python3
"""How much mail a second is filed: from a full queue, parsed, packed, committed and announced.

    .venv/bin/python bench/file.py [--quick] [--profile] [--only servers] [--folder /where/the/disk/is]

One ``inbound`` service in this process and nothing else: on SQLite and memory, and on Redis (``appendfsync always``)
and PostgreSQL (``fsync``, ``synchronous_commit``), whose processes share the machine with it. The queue is filled
before the clock starts. Mail is that of ``corpus.py``, in turn for 1 mailbox or for 1,000.

Rates are messages announced on the bus a second. CPU is per message: the worker's, PostgreSQL's, Redis'. *Stored* is
what the database grew by, its indexes included, for each octet of mail. Latency is from the answer to a put until a
subscriber on the bus hears of it, at 100 a second. ``others`` is how many cores other programs used meanwhile: a row in
which that is more than 0.3 is measured again, up to --turns times, and the one least disturbed is kept.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import chart
import psycopg2
import report
from children import ROOT, tree_cpu
from corpus import corpus
from prometheus_client import CollectorRegistry
from stores import IDS, clock, folder, redis_link, redis_queue, spooled
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from mailfarm.accounts import store as accounts
from mailfarm.backends.memory import MemoryBus
from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.postgres_schema import migrate
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import InboundSettings
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.announce import account_topic
from mailfarm.mailboxes.mailbox import NewMailbox
from mailfarm.ports import Tx
from mailfarm.services.inbound import Inbound

sys.path.insert(0, str(ROOT / "tests"))

from servers import Postgres, Redis

reactor: Any = _reactor  # to mypy it is a module
PUTTERS = 200
PACE = 100
PATIENCE = 180.0
CASES = (("4000", 1, 20_000), ("4000", 1000, 20_000), ("mixed", 1000, 4_000), ("1000000", 1, 200))
QUICK = (("4000", 1, 2_000), ("4000", 1000, 2_000))
HEAD = (
    "store", "mail", "mailboxes", "filed/s", "worker CPU µs", "PostgreSQL CPU µs", "Redis CPU µs", "stored", "p50 ms",
    "p99 ms", report.OTHERS,
)  # fmt: skip
TUNING = ("-c", "shared_buffers=512MB", "-c", "max_wal_size=4GB")


@dataclass
class Farm:
    """The stores of one kind, and whose CPU counts."""

    name: str
    queue: Any
    database: Any
    bus: Any
    hearing: Any
    size: Any
    postgres: Postgres | None = None
    redis: Redis | None = None
    account: str = ""
    boxes: list[str] = field(default_factory=list)

    def cpu(self) -> tuple[float, float, float]:
        """Seconds used so far by us, by PostgreSQL and by Redis."""
        return (
            time.process_time(),
            tree_cpu(self.postgres.process.pid) if self.postgres and self.postgres.process else 0.0,
            tree_cpu(self.redis.process.pid) if self.redis and self.redis.process else 0.0,
        )


@asynccontextmanager
async def on_sqlite(where: Path) -> AsyncIterator[Farm]:
    engine = Engine(where / "bench.sqlite", clock=clock, deliver=reactor.callFromThread)
    bus = MemoryBus()

    def size() -> int:
        return sum(path.stat().st_size for path in where.iterdir())

    yield Farm("SQLite", Queue(engine, "inbound", IDS, clock, reactor=reactor), Database(engine), bus, bus, size)
    await engine.close()


@asynccontextmanager
async def on_servers(where: Path) -> AsyncIterator[Farm]:
    for name in ("redis", "postgres"):
        (where / name).mkdir()
    with Redis(where / "redis") as redis, Postgres(where / "postgres", *TUNING) as postgres:
        url = postgres.new_database()
        migrate(url)
        database = PostgresDatabase(url, reactor)
        await database.start()
        async with AsyncExitStack() as links:
            first, *two = [await links.enter_async_context(redis_link(redis.url, reactor)) for _ in range(3)]
            queue = redis_queue(first, reactor, CollectorRegistry())
            buses = [RedisBus(link, reactor, CollectorRegistry()) for link in two]
            running: list[Any] = [queue, *buses]
            for each in running:
                await each.start()
            connection = psycopg2.connect(url)
            connection.autocommit = True
            cursor = connection.cursor()

            def size() -> int:
                cursor.execute("select pg_database_size(current_database())")
                return sum(octets for (octets,) in cursor)

            yield Farm("PostgreSQL + Redis", queue, database, buses[0], buses[1], size, postgres, redis)
            for each in running:
                await each.stop()
            connection.close()
        await database.stop()


async def furnish(farm: Farm, mailboxes: int) -> None:
    async def furnished(tx: Tx) -> None:
        farm.account = (await accounts.ensure_account(tx, IDS, "bench")).id
        for _ in range(mailboxes):
            made, _ = await store.create(tx, IDS, farm.account, NewMailbox(), Domains())
            farm.boxes.append(made.id)

    farm.boxes = []
    await farm.database.unit(furnished)


async def fill(farm: Farm, mails: Sequence[bytes], count: int) -> int:
    """Put ``count`` messages; their octets."""
    left = iter(range(count))
    octets = 0

    async def putter() -> None:
        nonlocal octets
        for number in left:
            content = mails[number % len(mails)]
            octets += len(content)
            await farm.queue.put(spooled(content, farm.account, farm.boxes[number % len(farm.boxes)]))

    await gatherResults([Deferred.fromCoroutine(putter()) for _ in range(PUTTERS)])
    return octets


class Counted:
    """A bus that counts what is announced to accounts and passes everything on."""

    def __init__(self, bus: Any) -> None:
        self._bus = bus
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    def publish_alike(self, events: Any, also: str) -> None:
        self.count += len(events)
        self._bus.publish_alike(events, also)


def worker(farm: Farm, bus: Any) -> Inbound:
    return Inbound(
        settings=InboundSettings(batch=100, lease=60.0),
        queue=farm.queue,
        database=farm.database,
        bus=bus,
        ids=IDS,
        clock=clock,
        reactor=reactor,
        registry=CollectorRegistry(),
    )


async def row(farm: Farm, kind: str, mailboxes: int, count: int, profile: bool) -> tuple[object, ...]:
    """A row of the table."""
    mails = [mail.content for mail in corpus(kind)]
    await furnish(farm, mailboxes)
    octets = await fill(farm, mails, count)
    before, bus = farm.size(), Counted(farm.bus)
    inbound = worker(farm, bus)
    profiler = cProfile.Profile()
    if profile:
        profiler.enable()
    cpu, began, others = farm.cpu(), time.monotonic(), report.Others()
    await inbound.start()
    while bus.count < count:
        await deferLater(reactor, 0.005)
        if time.monotonic() > began + PATIENCE:
            raise SystemExit(f"only {bus.count} of {count} were filed within {PATIENCE:g} s")
    cores = others.cores()
    took, used = time.monotonic() - began, [now - then for now, then in zip(farm.cpu(), cpu, strict=True)]
    if profile:
        profiler.disable()
        pstats.Stats(profiler).sort_stats("tottime").print_stats(35)
    grown = farm.size() - before
    waits = await paced(farm, mails, min(count, 500))
    await inbound.stop()
    return (
        farm.name,
        kind if kind == "mixed" else f"{int(kind) // 1000:,} KB",
        mailboxes,
        count / took,
        used[0] / count * 1e6,
        used[1] / count * 1e6 if farm.postgres else None,
        used[2] / count * 1e6 if farm.redis else None,
        grown / octets if farm.postgres else None,  # the queue is in SQLite's file, too
        waits[len(waits) // 2] * 1e3,
        waits[len(waits) * 99 // 100] * 1e3,
        cores,
    )


async def paced(farm: Farm, mails: Sequence[bytes], count: int) -> list[float]:
    """Seconds from the answer to a put until it is heard that it was filed, sorted."""
    answered: dict[int, float] = {}
    heard: dict[int, float] = {}

    def hear(event: Any) -> None:
        heard[event.message.received_at] = time.monotonic()

    subscription = await farm.hearing.subscribe(account_topic(farm.account), hear)

    async def put(number: int) -> None:
        content = mails[number % len(mails)]
        if len(content) > 100_000:
            content = mails[0][:4000]
        mail = spooled(content, farm.account, farm.boxes[number % len(farm.boxes)])
        await farm.queue.put(mail)
        answered[mail.accepted_at] = time.monotonic()

    putting = []
    began = time.monotonic()
    for number in range(count):
        left = max(0.0, began + number / PACE - time.monotonic())
        await deferLater(reactor, left)
        putting.append(Deferred.fromCoroutine(put(number)))
    await gatherResults(putting)
    ends = time.monotonic() + 30
    while len(heard) < count and time.monotonic() < ends:
        await deferLater(reactor, 0.005)
    subscription.stop()
    return sorted(max(0.0, heard[at] - then) for at, then in answered.items() if at in heard)


async def main(given: argparse.Namespace) -> None:
    facts = report.machine(given.folder)
    turns = given.turns or (1 if given.quick or given.profile else 3)
    rows: list[Sequence[Any]] = []
    patience = report.Patience(given.patience)
    for stores in (on_sqlite, on_servers):
        if given.only not in stores.__name__:
            continue
        for kind, mailboxes, count in QUICK if given.quick else CASES:
            kept = report.Calmest(HEAD, turns, patience)
            while kept.wanted:
                with folder(given.folder) as where:
                    async with stores(where) as farm:
                        kept.add(await row(farm, kind, mailboxes, given.messages or count, given.profile))
            rows.append(kept.row)
    rates = [(f"{name}, {kind}, {boxes:,} mailboxes", rate) for name, kind, boxes, rate, *_ in rows]
    picture = chart.bars("Mail filed by one worker", "a second", rates)
    report.save_rows("file", given.quick or given.profile or bool(given.only), facts, HEAD, rows, picture)


if __name__ == "__main__":
    parser = report.options(__doc__)
    parser.add_argument(
        "--profile", action="store_true", help="show where the worker's time goes; rates are lower then"
    )
    parser.add_argument("--only", default="", choices=("", "sqlite", "servers"), help="one; kept in .make/bench")
    parser.add_argument("--messages", type=int, default=0, help="in each row (200 to 20,000; quick: 2,000)")
    parser.add_argument("--folder", default=None, help="where the stores are kept (default: the system's place)")
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments)))
