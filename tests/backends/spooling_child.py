"""Keeps mail in a local spool and says so, until it is killed: run by the tests of the spool.

spooling_child.py FOLDER FLIGHT [SIZE]  says "K <id> <sha256>" for each mail that is kept, FLIGHT at a time, and
                                        "E <why>" when one could not be, which ends it
spooling_child.py FOLDER adopt          says "A <number of mails>" when it has looked
"""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from spooled_samples import IDS, clock, spooled
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from mailfarm.backends.spool_disk import DiskSpool

folder, how = Path(sys.argv[1]), sys.argv[2]
SIZES = [int(size) for size in sys.argv[3:]] or [0, 100, 3000, 70_000, 400_000]
spool = DiskSpool(
    folder, f"mx-{IDS.new()}", reactor, CollectorRegistry(), clock, max_octets=1 << 40, max_entries=1 << 40, reserve=0
)


def say(*words: object) -> None:
    os.write(1, " ".join(map(str, words)).encode() + b"\n")


async def keep() -> None:
    dice = random.Random()
    while True:
        size = dice.choice(SIZES)
        mail = spooled(dice.randbytes(size))
        await spool.put(mail)
        say("K", mail.id, mail.sha256.hex())


async def main() -> None:
    await spool.start()
    if how == "adopt":
        say("A", spool.depth[0])
        return
    for _ in range(int(how)):
        Deferred.fromCoroutine(keep()).addErrback(lambda failure: (say("E", failure.value), os._exit(3)))


Deferred.fromCoroutine(main()).addErrback(lambda failure: (say("E", failure.value), os._exit(3)))
reactor.run()
