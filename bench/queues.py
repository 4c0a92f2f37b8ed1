#!/usr/bin/env python3
"""How much mail a second the queue takes and gives: on Redis that syncs always, 1 and 2 shards, and on SQLite.

    .venv/bin/python bench/queues.py [--quick] [--folder /where/the/disk/is]

Through the Queue port in one process, nothing else in it: no SMTP, no parsing, no filing. Content is random, so nothing
compresses. A *putter* puts, waits for the answer, and puts again, as a session does. *Taking* is one worker that takes
batches of 100 and ends them. CPU is per message, ours and that of all the servers; they share the machine with us.
Entries a call are those that one server call put, and so one fsync; *hand over* is from the answer to a put until a
worker that was waiting holds the entry, one at a time.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import report
from children import WORK
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mailfarm.backends.queue_content import Stored, Whole
from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.backends.redis_shards import ShardedQueue
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Origin, Spooled

LEASE = 60.0
HEAD = (
    "queue",
    "size",
    "putters",
    "puts/s",
    "p50 ms",
    "p99 ms",
    "entries a call",
    "put CPU µs",
    "servers' CPU µs",
    "taken and ended/s",
    "hand over p50 ms",
    "p99 ms",
)


def clock() -> int:
    return time.time_ns() // 1000


IDS = Ids(clock, os.urandom)


def mail(content: bytes) -> Spooled:
    """Spooled mail; large content is read in chunks."""

    async def load(number: int) -> bytes:
        return content[number * CHUNK : (number + 1) * CHUNK]

    return Spooled(
        IDS.new(),
        IDS.new(),
        clock(),
        Envelope("sender@example.com", (Recipient("inbox@mailfarm.test"),)),
        Origin("mx", "192.0.2.1", 40000, "client.example.com", "ESMTP"),
        (IDS.new(),),
        b"Received: from client.example.com\r\n",
        sha256(content).digest(),
        Whole(content) if len(content) <= CHUNK else Stored(len(content), load),
    )


class Server:
    """A redis-server that syncs before it answers."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = f"redis-server --bind 127.0.0.1 --port {port} --appendonly yes --appendfsync always".split()
        command += ["--dir", str(folder), "--save", "", "--maxmemory-policy", "noeviction"]
        self.url = f"redis://127.0.0.1:{port}"
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)

    def cpu(self) -> float:
        """Seconds of CPU it has used, its threads too."""
        words = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


class Measured:
    """A queue under measurement."""

    def __init__(self, name: str, queue: Any, servers: Sequence[Server], registry: CollectorRegistry | None) -> None:
        self.name, self.queue = name, queue
        self._servers, self._registry = servers, registry

    def servers_cpu(self) -> float:
        return sum(server.cpu() for server in self._servers)

    def put_calls(self) -> tuple[float, float]:
        """Calls that put, and the entries in them, so far."""
        if self._registry is None:
            return 0.0, 0.0
        samples = [sample for metric in self._registry.collect() for sample in metric.samples]
        return (
            sum(s.value for s in samples if s.name == "mailfarm_queue_put_entries_count"),
            sum(s.value for s in samples if s.name == "mailfarm_queue_put_entries_sum"),
        )


@contextmanager
def folder(where: str | None) -> Iterator[Path]:
    WORK.mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="queues-", dir=where or WORK))
    try:
        yield path
    finally:
        shutil.rmtree(path)


async def on_redis(shards: int, where: Path, work: Callable[[Measured], Awaitable[None]]) -> None:
    registry = CollectorRegistry()
    with ExitStack() as ending:
        servers = [Server(where / f"redis-{number}") for number in range(shards)]
        for server in servers:
            ending.callback(server.end)
        links = [RedisLink(server.url, reactor, connections=3) for server in servers]
        for link in links:
            await link.start()
            if not await link.ready(20.0):
                raise SystemExit(f"{link} does not answer: {link.why}")
        queues = [RedisQueue(link, "inbound", IDS, clock, reactor, registry) for link in links]
        queue = ShardedQueue(queues) if shards > 1 else queues[0]
        await queue.start()
        name = "Redis" if shards == 1 else f"Redis, {shards} shards"
        await work(Measured(name, queue, servers, registry))
        await queue.stop()
        for link in links:
            await link.stop()


async def on_sqlite(where: Path, work: Callable[[Measured], Awaitable[None]]) -> None:
    engine = Engine(where / "bench.sqlite", clock=clock, deliver=reactor.callFromThread)
    await work(Measured("SQLite", Queue(engine, "inbound", IDS, clock, reactor=reactor), (), None))
    await engine.close()


async def row(under: Measured, size: int, putters: int, count: int) -> tuple[object, ...]:
    """A row of the table."""
    mails = [mail(os.urandom(size)) for _ in range(count)]
    left = iter(mails)
    waits: list[float] = []

    async def putter() -> None:
        for spooled in left:
            began = time.monotonic()
            await under.queue.put(spooled)
            waits.append(time.monotonic() - began)

    calls, entries = under.put_calls()
    began, ours, theirs = time.monotonic(), time.process_time(), under.servers_cpu()
    await gatherResults([Deferred.fromCoroutine(putter()) for _ in range(putters)])
    put_took, ours, theirs = time.monotonic() - began, time.process_time() - ours, under.servers_cpu() - theirs
    calls, entries = under.put_calls()[0] - calls, under.put_calls()[1] - entries
    began = time.monotonic()
    ended = 0
    while ended < count:
        attempts = await under.queue.take(100, LEASE, 5.0)
        for attempt in attempts:
            async for _ in attempt.spooled.content.chunks():
                pass
        await under.queue.done([attempt.fence for attempt in attempts])
        ended += len(attempts)
    take_took = time.monotonic() - began
    handed = sorted([await hand_over(under, size) for _ in range(min(count, 200))])
    waits.sort()
    return (
        under.name,
        f"{size // 1024:,} KB",
        putters,
        count / put_took,
        waits[count // 2] * 1e3,
        waits[count * 99 // 100] * 1e3,
        entries / calls if calls else None,
        ours / count * 1e6,
        theirs / count * 1e6 if theirs else None,
        count / take_took,
        handed[len(handed) // 2] * 1e3,
        handed[len(handed) * 99 // 100] * 1e3,
    )


async def hand_over(under: Measured, size: int) -> float:
    """Seconds from the answer to a put until a waiting worker holds the entry."""
    taking = Deferred.fromCoroutine(taken(under))
    await under.queue.put(mail(os.urandom(size)))
    answered = time.monotonic()
    attempts, at = await taking
    await under.queue.done([attempt.fence for attempt in attempts])
    return max(0.0, at - answered)


async def taken(under: Measured) -> tuple[Any, float]:
    attempts = await under.queue.take(1, LEASE, 30.0)
    return attempts, time.monotonic()


async def main(options: argparse.Namespace) -> None:
    facts = report.machine()
    cases = [(4096, 50, 20_000), (4096, 1, 1_000), (4096, 400, 20_000), (1024 * 1024, 10, 200)]
    if options.quick:
        cases = [(4096, 50, 3_000), (1024 * 1024, 10, 30)]
    rows: list[tuple[object, ...]] = []

    async def work(under: Measured) -> None:
        for size, putters, count in cases:
            rows.append(await row(under, size, putters, count))
            print("  ".join(str(round(v, 2) if isinstance(v, float) else v) for v in rows[-1]), flush=True)

    for shards in (1, 2):
        with folder(options.folder) as where:
            await on_redis(shards, where, work)
    with folder(options.folder) as where:
        await on_sqlite(where, work)
    text = f"{report.about(facts)}\n\n{report.table(HEAD, rows)}"
    form = {"machine": facts, "rows": [list(row) for row in rows], "head": HEAD}
    print(report.save("queues", options.quick, form, text))
    print(text)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer messages")
    parser.add_argument("--folder", default=None, help="where the stores are kept (default: .make/bench)")
    arguments = parser.parse_args()
    react(lambda _: Deferred.fromCoroutine(main(arguments)))
