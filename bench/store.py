"""How many messages a second the embedded store takes: put alone, and put, take, file in a unit, done.

    .venv/bin/python bench/store.py [--messages 20000] [--flight 50] [--size 4096] [--folder /where/the/disk/is]

Nothing else runs in the process: no SMTP, no parsing, no readers. Content is random, so nothing compresses. Each line
gives the rate, the median and the 99th percentile of what one caller waited, and the jobs that shared a commit.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from hashlib import sha256
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mailfarm.backends.queue_content import Whole
from mailfarm.backends.sqlite_database import Database, Tx
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import NEVER, Attempt, Origin, Spooled


def clock() -> int:
    return time.time_ns() // 1000


IDS = Ids(clock, os.urandom)


def mail(size: int) -> Spooled:
    content = os.urandom(size)
    return Spooled(
        IDS.new(),
        "account",
        clock(),
        Envelope("sender@example.com", (Recipient("inbox@mailfarm.test"),)),
        Origin("mx", "127.0.0.1", 1025, "client.example.com", "ESMTP"),
        (IDS.new(),),
        b"Received: from client.example.com\r\n",
        sha256(content).digest(),
        Whole(content),
    )


class Meter:
    """Prints one line for what ran between ``start`` and ``stop``."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine, self._name = engine, name
        self._waits: list[float] = []
        self._groups, self._jobs = engine.groups, engine.jobs
        self._began = time.monotonic()
        self._cpu = time.process_time()

    def waited(self, seconds: float) -> None:
        self._waits.append(seconds)

    def stop(self) -> None:
        took = time.monotonic() - self._began
        cpu = time.process_time() - self._cpu
        waits = sorted(self._waits)
        n = len(waits)
        jobs, groups = self._engine.jobs - self._jobs, self._engine.groups - self._groups
        middle, most = waits[n // 2] * 1e3, waits[n * 99 // 100] * 1e3
        print(
            f"{self._name:24} {n / took:8.0f}/s   p50 {middle:6.1f} ms  p99 {most:6.1f} ms  max {waits[-1] * 1e3:6.1f}"
            f" ms  {jobs / max(1, groups):5.1f} jobs a commit   {cpu / n * 1e6:5.0f} us CPU each",
            flush=True,
        )


async def put_all(queue: Queue, mails: list[Spooled], flight: int, meter: Meter) -> None:
    left = iter(mails)

    async def client() -> None:
        for spooled in left:
            began = time.monotonic()
            await queue.put(spooled)
            meter.waited(time.monotonic() - began)

    await gatherResults([Deferred.fromCoroutine(client()) for _ in range(flight)])


async def work(queue: Queue, database: Database, total: int) -> None:
    """A worker that files the next batch while the last one's end is being written."""
    ended = 0
    ending: list[Deferred[None]] = []

    async def file(attempts: list[Attempt]) -> None:
        contents = [b"".join([c async for c in a.spooled.content.chunks()]) for a in attempts]

        async def unit(tx: Tx) -> None:
            await tx.insert("filed", ["spool", "filed_at"], [(a.spooled.id, tx.now) for a in attempts], ignore=True)
            await tx.insert(
                "content",
                ["id", "until", "account", "size", "sha256", "stored_at", "trace", "chunks", "detail", "data"],
                [
                    (
                        s.id,
                        NEVER,
                        "account",
                        s.content.size,
                        s.sha256,
                        tx.now,
                        s.trace,
                        0,
                        300,
                        b"{" + b" " * 299 + data,
                    )
                    for s, data in zip([a.spooled for a in attempts], contents, strict=True)
                ],
            )

        await database.unit(unit)

    while ended < total:
        attempts = list(await queue.take(100, 60.0, 5.0))
        await file(attempts)
        ended += len(attempts)
        ending.append(queue.done([a.fence for a in attempts]))
    await gatherResults(ending)


async def main(options: argparse.Namespace) -> None:
    folder = Path(tempfile.mkdtemp(prefix="bench-store-", dir=options.folder))
    engine = Engine(folder / "bench.sqlite", clock=clock, deliver=reactor.callFromThread)
    database = Database(engine)
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)

    async def account(tx: Tx) -> None:
        await tx.execute("INSERT INTO account VALUES ('account', 'bench', 0)")

    await database.unit(account)
    for _ in range(options.rounds):
        mails = [mail(options.size) for _ in range(options.messages)]
        meter = Meter(engine, "put")
        await put_all(queue, mails, options.flight, meter)
        meter.stop()
        meter = Meter(engine, "take, unit, done")
        began = time.monotonic()
        await work(queue, database, len(mails))
        print(f"{'take, unit, done':24} {len(mails) / (time.monotonic() - began):8.0f}/s", flush=True)
        mails = [mail(options.size) for _ in range(options.messages)]
        meter = Meter(engine, "put + take, unit, done")
        both = Deferred.fromCoroutine(work(queue, database, len(mails)))
        began = time.monotonic()
        await put_all(queue, mails, options.flight, meter)
        await both
        meter.stop()
    log = folder / "bench.sqlite-wal"
    print(f"log {log.stat().st_size >> 20} MiB, database {engine.path.stat().st_size >> 20} MiB")
    await engine.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--flight", type=int, default=50)
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--folder", default=None)
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments)))
