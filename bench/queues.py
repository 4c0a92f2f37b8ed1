#!/usr/bin/env python3
"""How much mail a second the queue takes and gives: on Redis that syncs always, 1 and 2 shards, and on SQLite.

    .venv/bin/python bench/queues.py [--quick] [--only redis] [--folder /where/the/disk/is]

Through the Queue port in one process, nothing else in it: no SMTP, no parsing, no filing. Content is random, so nothing
compresses. A *putter* puts, waits for the answer, and puts again, as a session does. *Taking* is one worker that takes
batches of 100 and ends them. CPU is per message, ours and that of all the servers; they share the machine with us.
Entries a call are those that one server call put, and so one fsync; *hand over* is from the answer to a put until a
worker that was waiting holds the entry, one at a time. ``others`` is how many cores other programs used meanwhile: a
row in which that is more than 0.3 is measured again, up to --turns times, and the one least disturbed is kept.

The name has an s because Python puts this folder before its own library: ``import queue`` would find this file, and
Twisted's thread pool imports that.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import chart
import report
from children import ROOT, tree_cpu
from prometheus_client import CollectorRegistry
from stores import IDS, clock, folder, redis_link, redis_queue, spooled
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mailfarm.backends.redis_shards import ShardedQueue
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.ports import Spooled

sys.path.insert(0, str(ROOT / "tests"))

from servers import Redis

reactor: Any = _reactor  # to mypy it is a module
LEASE = 60.0
KB, MB = 1024, 1024 * 1024
CASES = (
    (4 * KB, 50, 1, 20_000),
    (4 * KB, 50, 1000, 20_000),
    (4 * KB, 1, 1, 2_000),
    (4 * KB, 400, 1, 20_000),
    (1 * MB, 10, 1, 200),
)
QUICK = ((4 * KB, 50, 1, 3_000), (1 * MB, 10, 1, 30))
HEAD = (
    "queue", "size", "putters", "mailboxes", "puts/s", "p50 ms", "p99 ms", "entries a call", "put CPU µs",
    "servers' CPU µs", "taken and ended/s", "taking CPU µs", "handed over p50 ms", "handed over p99 ms",
    report.OTHERS,
)  # fmt: skip


class Measured:
    """A queue under measurement."""

    def __init__(self, name: str, queue: Any, servers: Sequence[Redis], registry: CollectorRegistry) -> None:
        self.name, self.queue = name, queue
        self._servers, self._registry = servers, registry

    def servers_cpu(self) -> float:
        """Seconds of CPU they have used."""
        return sum(tree_cpu(server.process.pid) for server in self._servers if server.process)

    def put_calls(self) -> tuple[float, float]:
        """Calls that put, and the entries in them, so far."""
        samples = [sample for metric in self._registry.collect() for sample in metric.samples]
        return (
            sum(s.value for s in samples if s.name == "mailfarm_queue_put_entries_count"),
            sum(s.value for s in samples if s.name == "mailfarm_queue_put_entries_sum"),
        )


@asynccontextmanager
async def on_redis(shards: int, where: Path) -> AsyncIterator[Measured]:
    registry = CollectorRegistry()
    with ExitStack() as ending:
        servers = []
        for number in range(shards):
            (where / f"redis-{number}").mkdir()
            servers.append(ending.enter_context(Redis(where / f"redis-{number}")))
        async with AsyncExitStack() as links:
            made = [await links.enter_async_context(redis_link(server.url, reactor)) for server in servers]
            queues = [redis_queue(link, reactor, registry) for link in made]
            queue = ShardedQueue(queues) if shards > 1 else queues[0]
            await queue.start()
            yield Measured("Redis" if shards == 1 else f"Redis, {shards} shards", queue, servers, registry)
            await queue.stop()


@asynccontextmanager
async def on_sqlite(_: int, where: Path) -> AsyncIterator[Measured]:
    engine = Engine(where / "bench.sqlite", clock=clock, deliver=reactor.callFromThread)
    yield Measured("SQLite", Queue(engine, "inbound", IDS, clock, reactor=reactor), (), CollectorRegistry())
    await engine.close()


async def row(
    under: Measured, size: int, putters: int, mailboxes: int, count: int, seconds: float
) -> tuple[object, ...]:
    """A row of the table."""
    account, boxes = IDS.new(), [IDS.new() for _ in range(mailboxes)]
    mails = iter([spooled(os.urandom(size), account, boxes[number % mailboxes]) for number in range(count)])
    others, before = report.Others(), under.put_calls()
    ours, theirs = time.process_time(), under.servers_cpu()
    waits, put_took = await put_all(under, mails, putters, seconds)
    ours, theirs = time.process_time() - ours, under.servers_cpu() - theirs
    calls, entries = (now - then for now, then in zip(under.put_calls(), before, strict=True))
    count = len(waits)
    taking = time.process_time()
    take_took = await take_all(under, count)
    taking = time.process_time() - taking
    cores = others.cores()
    handed = sorted([await hand_over(under, size) for _ in range(min(count, 200))])
    return (
        under.name,
        f"{size // KB:,} KB",
        putters,
        mailboxes,
        count / put_took,
        waits[count // 2] * 1e3,
        waits[count * 99 // 100] * 1e3,
        entries / calls if calls else None,
        ours / count * 1e6,
        theirs / count * 1e6 if theirs else None,
        count / take_took,
        taking / count * 1e6,
        handed[len(handed) // 2] * 1e3,
        handed[len(handed) * 99 // 100] * 1e3,
        cores,
    )


async def put_all(under: Measured, mails: Any, putters: int, seconds: float) -> tuple[list[float], float]:
    """Put until nothing is left or the time is over: what each waited, sorted, and how long all took."""
    waits: list[float] = []
    start = time.monotonic()

    async def putter() -> None:
        for mail in mails:
            began = time.monotonic()
            await under.queue.put(mail)
            waits.append(time.monotonic() - began)
            if time.monotonic() > start + seconds:
                break

    await gatherResults([Deferred.fromCoroutine(putter()) for _ in range(putters)])
    took = time.monotonic() - start
    waits.sort()
    return waits, took


async def take_all(under: Measured, count: int) -> float:
    """Take and end so many; how long it took."""
    began, ended = time.monotonic(), 0
    while ended < count:
        attempts = await under.queue.take(100, LEASE, 5.0)
        if not attempts:
            raise SystemExit(f"{under.name}: {count} were put, and only {ended} can be taken")
        for attempt in attempts:
            async for _ in attempt.spooled.content.chunks():
                pass
        await under.queue.done([attempt.fence for attempt in attempts])
        ended += len(attempts)
    return time.monotonic() - began


async def hand_over(under: Measured, size: int) -> float:
    """Seconds from the answer to a put until a waiting worker holds the entry."""
    taking = Deferred.fromCoroutine(taken(under))
    mail: Spooled = spooled(os.urandom(size), IDS.new(), IDS.new())
    await under.queue.put(mail)
    answered = time.monotonic()
    attempts, at = await taking
    await under.queue.done([attempt.fence for attempt in attempts])
    return max(0.0, at - answered)


async def taken(under: Measured) -> tuple[Any, float]:
    attempts = await under.queue.take(1, LEASE, 30.0)
    return attempts, time.monotonic()


async def main(given: argparse.Namespace) -> None:
    facts = report.machine(given.folder)
    seconds, turns = given.seconds or (2.0 if given.quick else 15.0), given.turns or (1 if given.quick else 3)
    stores: list[tuple[Callable[..., Any], int]] = [(on_redis, 1), (on_redis, 2), (on_sqlite, 1)]
    rows: list[Sequence[Any]] = []
    patience = report.Patience(given.patience)
    for store, shards in stores:
        if given.only not in store.__name__:
            continue
        for case in QUICK if given.quick else CASES:
            kept = report.Calmest(HEAD, turns, patience)
            while kept.wanted:
                with folder(given.folder) as where:
                    async with store(shards, where) as under:
                        kept.add(await row(under, *case, seconds))
            rows.append(kept.row)
    rates = [
        (f"{name}, {size}, {putters} putters", rate) for name, size, putters, boxes, rate, *_ in rows if boxes == 1
    ]
    picture = chart.bars("Mail put into the queue, durable", "a second", rates)
    report.save_rows("queues", given.quick or bool(given.only), facts, HEAD, rows, picture)


if __name__ == "__main__":
    parser = report.options(__doc__)
    parser.add_argument("--only", default="", choices=("", "redis", "sqlite"), help="one of them; kept in .make/bench")
    parser.add_argument("--seconds", type=float, default=0.0, help="a row puts no longer (15; quick: 2)")
    parser.add_argument("--folder", default=None, help="where the stores are kept (default: the system's place)")
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments)))
