"""A worker of its own: takes one entry from the queue of a Redis URL, says its id, and when it is told to go on tries
to extend, fail and end it."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from redis_house import Working
from twisted.internet.defer import Deferred
from twisted.internet.task import react

from mailfarm.errors import LeaseLost


async def main(url, lease):
    async with Working(url) as queue:
        (attempt,) = await queue.take(1, lease, 30.0)
        print(attempt.spooled.id, flush=True)
        sys.stdin.readline()
        for work in (lambda: queue.extend(attempt.fence, 60.0), lambda: queue.fail(attempt.fence, "no")):
            try:
                await work()
                print("held")
            except LeaseLost:
                print("LeaseLost")
        await queue.done([attempt.fence])
        print("done")


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(main(sys.argv[1], float(sys.argv[2]))))
