#!/usr/bin/env python3
"""What the cache costs: charges and places a second, and how long an event takes from publish to hear.

    .venv/bin/python bench/cache.py [--url redis://host:6379] [--seconds 2] [--quick]

One process, one connection for calls and one to hear on; without ``--url``, a redis-server of its own on loopback that
keeps nothing. A *caller* charges, waits for the answer and charges again, as a session does; the key is one of 10,000.
CPU is per call of a caller, ours and that of Redis. Everything in here shares the machine with Redis.
"""

from __future__ import annotations

import argparse
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import report
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
from mailfarm.events import Event, Filed, Person, Summary
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

KEYS = 10_000
HEAD = ("what", "callers", "a second", "p50 ms", "p99 ms", "our CPU µs", "CPU of Redis µs")


@contextmanager
def server() -> Iterator[str]:
    """A redis-server of one's own: its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tempfile.mkdtemp(prefix="mailfarm-bench-")
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", folder, "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


async def redis_cpu(link: RedisLink) -> float:
    """Seconds of CPU that Redis has used."""
    said = (await link.command("INFO", "cpu")).decode()
    words = dict(line.split(":") for line in said.split() if ":" in line)
    return float(words["used_cpu_sys"]) + float(words["used_cpu_user"])


async def measure(
    link: RedisLink, what: str, callers: int, seconds: float, call: Callable[[], Awaitable[Any]]
) -> tuple[object, ...]:
    """A row of the table."""
    waits: list[float] = []
    began, cpu, theirs = time.monotonic(), time.process_time(), await redis_cpu(link)
    until = began + seconds

    async def caller() -> None:
        while (start := time.monotonic()) < until:
            await call()
            waits.append(time.monotonic() - start)

    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(callers)])
    took, ours = time.monotonic() - began, time.process_time() - cpu
    used = await redis_cpu(link) - theirs
    waits.sort()
    count = len(waits)
    middle, most = waits[count // 2] * 1e3, waits[count * 99 // 100] * 1e3
    return what, callers, count / took, middle, most, ours / count * 1e6, used / count * 1e6


def filed(number: int) -> Event:
    """An event of the usual size."""
    who = (Person("Some Body", "somebody@example.org"),)
    summary = Summary(
        f"{number:026}", "m" * 26, number, time.time_ns() // 1000, "sender@example.com", ("somebody@example.org",),
        Person("Shop", "shop@example.com"), who, (), "Your order has been sent", "Dear customer, " * 12,
        f"<{number}@example.com>", 4000, 0,
    )  # fmt: skip
    return Filed(f"{number:026}", "a" * 26, "m" * 26, number, time.time_ns() // 1000, summary)


async def limits(link: RedisLink, seconds: float) -> list[tuple[object, ...]]:
    """Rates, quotas and places."""
    limiter = RedisLimiter(link, MemoryLimiter(time.monotonic), reactor, CollectorRegistry(), timeout=10.0)
    await limiter.start()
    often, day = Limit(1_000_000, 60.0), Quota(1_000_000_000)

    def key() -> str:
        return f"mx:connect:{random.randrange(KEYS)}"

    async def one() -> None:
        await limiter.charge([Charge(key(), often)])

    async def three() -> None:
        name = key()
        await limiter.charge([Charge(name, often), Charge(name, Limit(1_000_000, 3600.0)), Charge(name, day)])

    async def place() -> None:
        hold = await limiter.hold(key(), 100)
        assert hold is not None
        hold.release()

    rows = []
    for callers in (1, 10, 100, 1000):
        rows.append(await measure(link, "charge, one key", callers, seconds, one))
        rows.append(await measure(link, "charge, three", callers, seconds, three))
    for callers in (1, 100):
        rows.append(await measure(link, "hold and release", callers, seconds, place))
    assert not limiter.local
    await limiter.stop()
    return rows


async def telling(link: RedisLink, seconds: float) -> list[tuple[object, ...]]:
    """From publish to hear, through Redis and back into this process."""
    bus = RedisBus(link, reactor, CollectorRegistry())
    await bus.start()
    await link.ready(10)
    waiting: dict[str, Deferred[None]] = {}
    await bus.subscribe("box", lambda event: waiting.pop(event.id).callback(None))
    number = 0

    async def told() -> None:
        nonlocal number
        number += 1
        event = filed(number)
        heard: Deferred[None] = Deferred()
        waiting[event.id] = heard
        bus.publish("box", event)
        await heard

    async def paced() -> None:
        await told()
        await deferLater(reactor, 0.005)  # type: ignore[arg-type]

    rows = [await measure(link, "publish to hear", callers, seconds, told) for callers in (1, 10, 100, 1000)]
    row = await measure(link, "the same, then rest 5 ms", 1, seconds, paced)
    rows.append((*row[:3], row[3] - 5, row[4] - 5, *row[5:]))  # type: ignore[operator]
    await bus.stop()
    return rows


async def run(loop: Any, url: str, seconds: float, quick: bool) -> None:
    """Measure, print the table, and keep it."""
    facts = report.machine()
    link = RedisLink(url, loop, name="cache")
    await link.start()
    assert await link.ready(10), link.why
    rows = await limits(link, seconds) + await telling(link, seconds)
    await link.stop()
    text = report.table(HEAD, rows)
    print(text)
    print(report.about(facts))
    report.save("cache", quick, {"machine": facts, "rows": rows}, text)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--url", default="", help="a Redis to measure; one of its own otherwise")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long each row is measured")
    parser.add_argument("--quick", action="store_true", help="do not keep the result")
    options = parser.parse_args()

    def begin(loop: Any, url: str) -> Deferred[None]:
        return Deferred.fromCoroutine(run(loop, url, options.seconds, options.quick))

    if options.url:
        react(begin, (options.url,))
    else:
        with server() as url:
            react(begin, (url,))


if __name__ == "__main__":
    main()
