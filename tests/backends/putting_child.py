"""A process to be killed: puts mail, ends some of it, and says on its standard output what was confirmed.

    python putting_child.py DATABASE SEED IN_FLIGHT [unsynced]

Lines: ``P id sha256`` a put was confirmed; ``d id`` an entry is about to be ended; ``D id`` that was confirmed.
Each line is one write, after the Deferred has fired. ``unsynced`` turns fsync off: the control that must fail.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from pathlib import Path

from spooled_samples import IDS, clock, spooled
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.ports import CHUNK


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def main(path: str, seed: str, flight: str, *options: str) -> None:
    engine = Engine(Path(path), clock=clock, deliver=reactor.callFromThread)
    if "unsynced" in options:
        engine._writer.execute("PRAGMA synchronous=OFF")
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    dice = random.Random(int(seed))
    most = int(os.environ.get("PUTS", "1000000"))

    async def put() -> None:
        for number in itertools.count():
            if number * int(flight) >= most:
                return
            mail = spooled(dice.randbytes(dice.choice([10, 1000, 4000, 20_000, 2 * CHUNK + 5])))
            await queue.put(mail)
            say(f"P {mail.id} {mail.sha256.hex()}")

    async def work() -> None:
        while True:
            attempts = list(await queue.take(dice.randint(1, 5), 60.0, 60.0))[::2]
            for attempt in attempts:
                say(f"d {attempt.spooled.id}")
            await queue.done([attempt.fence for attempt in attempts])
            for attempt in attempts:
                say(f"D {attempt.spooled.id}")

    working = [] if "quiet" in options else [Deferred.fromCoroutine(work())]
    await gatherResults([Deferred.fromCoroutine(put()) for _ in range(int(flight))])
    for each in working:
        each.addErrback(lambda _: None)
        each.cancel()
    await engine.close()


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(main(*sys.argv[1:])))
