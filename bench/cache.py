#!/usr/bin/env python3
"""What the cache costs: charges and places a second, and how long an event takes from publish to hear.

    .venv/bin/python bench/cache.py [--url redis://host:6379] [--seconds 2] [--quick]

One process, one connection for calls and one to hear on; without ``--url``, a redis-server of its own on loopback that
keeps nothing. A *caller* charges, waits for the answer and charges again, as a session does; the key is one of 10,000.
CPU is per call of a caller, ours and that of Redis. Everything in here shares the machine with Redis. ``others`` is how
many cores other programs used meanwhile: a row in which that is more than 0.3 is measured again, up to --turns times.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import chart
import report
from children import ROOT
from prometheus_client import CollectorRegistry
from stores import folder
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater, react

from mailfarm.backends.memory import MemoryLimiter
from mailfarm.backends.redis_bus import RedisBus
from mailfarm.backends.redis_limiter import RedisLimiter
from mailfarm.backends.redis_link import RedisLink
from mailfarm.events import Event, Filed, Person, Summary
from mailfarm.limits import Limit, Quota
from mailfarm.ports import Charge

sys.path.insert(0, str(ROOT / "tests"))

from servers import Redis

reactor: Any = _reactor  # to mypy it is a module
KEYS = 10_000
HEAD = ("what", "callers", "a second", "p50 ms", "p99 ms", "our CPU µs", "CPU of Redis µs", report.OTHERS)


async def redis_cpu(link: RedisLink) -> float:
    """Seconds of CPU that Redis has used."""
    said = (await link.command("INFO", "cpu")).decode()
    words = dict(line.split(":") for line in said.split() if ":" in line)
    return float(words["used_cpu_sys"]) + float(words["used_cpu_user"])


@dataclass(frozen=True, slots=True)
class Effort:
    """How long each row is measured, in seconds, and how often one that others disturb."""

    seconds: float
    turns: int
    patience: report.Patience


async def measure(
    link: RedisLink, what: str, callers: int, effort: Effort, call: Callable[[], Awaitable[Any]], rest: float = 0.0
) -> Sequence[Any]:
    """A row of the table. ``rest`` is how long each call rests, in seconds: it is no part of what it took."""
    kept = report.Calmest(HEAD, effort.turns, effort.patience)
    while kept.wanted:
        kept.add(await once(link, what, callers, effort.seconds, call, rest))
    return kept.row


async def once(
    link: RedisLink, what: str, callers: int, seconds: float, call: Callable[[], Awaitable[Any]], rest: float
) -> tuple[object, ...]:
    waits: list[float] = []
    others, began, cpu, theirs = report.Others(), time.monotonic(), time.process_time(), await redis_cpu(link)
    until = began + seconds

    async def caller() -> None:
        now = time.monotonic()
        while True:  # once at least, however busy the machine is
            start = now
            await call()
            now = time.monotonic()
            waits.append(now - start - rest)
            if now >= until:
                return

    await gatherResults([Deferred.fromCoroutine(caller()) for _ in range(callers)])
    took, ours = time.monotonic() - began, time.process_time() - cpu
    used, cores = await redis_cpu(link) - theirs, others.cores()
    waits.sort()
    count = len(waits)
    middle, most = waits[count // 2] * 1e3, waits[count * 99 // 100] * 1e3
    return what, callers, count / took, middle, most, ours / count * 1e6, used / count * 1e6, cores


def filed(number: int) -> Event:
    """An event of the usual size."""
    who = (Person("Some Body", "somebody@example.org"),)
    summary = Summary(
        f"{number:026}", "m" * 26, number, time.time_ns() // 1000, "sender@example.com", ("somebody@example.org",),
        Person("Shop", "shop@example.com"), who, (), "Your order has been sent", "Dear customer, " * 12,
        f"<{number}@example.com>", 4000, 0,
    )  # fmt: skip
    return Filed(f"{number:026}", "a" * 26, "m" * 26, number, time.time_ns() // 1000, summary)


async def limits(link: RedisLink, effort: Effort) -> list[Sequence[Any]]:
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
        rows.append(await measure(link, "charge, one key", callers, effort, one))
        rows.append(await measure(link, "charge, three", callers, effort, three))
    for callers in (1, 100):
        rows.append(await measure(link, "hold and release", callers, effort, place))
    assert not limiter.local
    await limiter.stop()
    return rows


async def telling(link: RedisLink, effort: Effort) -> list[Sequence[Any]]:
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
        await deferLater(reactor, 0.005)

    rows = [await measure(link, "publish to hear", callers, effort, told) for callers in (1, 10, 100, 1000)]
    rows.append(await measure(link, "the same, then rest 5 ms", 1, effort, paced, rest=0.005))
    await bus.stop()
    return rows


async def run(loop: Any, url: str, effort: Effort, quick: bool) -> None:
    """Measure, print the table, and keep it."""
    facts = report.machine()
    link = RedisLink(url, loop, name="cache")
    await link.start()
    if not await link.ready(10):
        raise SystemExit(f"{link} does not answer: {link.why}")
    rows = await limits(link, effort) + await telling(link, effort)
    await link.stop()
    rates = [(f"{what}, {callers} callers", rate) for what, callers, rate, *_ in rows if callers == 100]
    report.save_rows("cache", quick, facts, HEAD, rows, chart.bars("Asked of the cache", "a second", rates))


def main() -> None:
    """Print the table."""
    parser = report.options(__doc__)
    parser.add_argument("--url", default="", help="a Redis to measure; one of its own otherwise")
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each row is measured (2; quick: 0.3)")
    given = parser.parse_args()
    seconds, turns = given.seconds or (0.3 if given.quick else 2.0), given.turns or (1 if given.quick else 3)
    effort = Effort(seconds, turns, report.Patience(given.patience))

    def begin(loop: Any, url: str) -> Deferred[None]:
        return Deferred.fromCoroutine(run(loop, url, effort, given.quick))

    if given.url:
        react(begin, (given.url,))
    else:
        with folder(None) as where, Redis(where, "--appendonly", "no") as redis:
            react(begin, (redis.url,))


if __name__ == "__main__":
    main()
