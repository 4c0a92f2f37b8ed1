"""A worker that takes so many entries a second from a queue on Redis, and forgets them: ``slow_worker.py URL PACE``."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater, react

from mailfarm.backends.redis_link import RedisLink
from mailfarm.backends.redis_queue import RedisQueue
from mailfarm.ids import Ids

STEP = 0.1


def clock() -> int:
    return time.time_ns() // 1000


async def work(url: str, pace: float) -> None:
    loop: Any = reactor
    link = RedisLink(url, loop, connections=3)
    queue = RedisQueue(link, "inbound", Ids(clock, os.urandom), clock, loop, CollectorRegistry())
    await link.start()
    await queue.start()
    await link.ready(30.0)
    owed, last = 0.0, loop.seconds()
    while True:
        await deferLater(loop, STEP)
        now = loop.seconds()
        owed, last = min(owed + pace * (now - last), 2 * STEP * pace), now
        if owed >= 1:
            attempts = await queue.take(int(owed), 60.0)
            owed -= len(attempts)
            await queue.done([attempt.fence for attempt in attempts])


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(work(sys.argv[1], float(sys.argv[2]))))
