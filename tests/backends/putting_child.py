"""A process to be killed: puts mail, ends some of it, and says on its standard output what was confirmed.

    python putting_child.py DATABASE SEED IN_FLIGHT [unsynced] [filing]

Lines: ``P id sha256`` a put was confirmed; ``d id`` an entry is about to be ended; ``D id`` that was confirmed.
Each line is one write, after the Deferred has fired. ``unsynced`` turns fsync off: the control that must fail.
``filing``: what is put is filed where it can be (``mailfarm/inbound/embedded.py``), and the queue has the rest.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from spooled_samples import IDS, clock, spooled
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from mailfarm.accounts.store import ensure_account
from mailfarm.backends.memory import MemoryBus
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.inbound.embedded import LARGEST, FilingIntake
from mailfarm.mailboxes import store
from mailfarm.ports import CHUNK


class Nobody:
    """Computes in threads, counts nothing. Trouble ends the process: nothing goes by the queue that need not."""

    def compute(self, work: Callable[[], Any]) -> Deferred[Any]:
        return deferToThread(work)

    def count(self, what: str, many: int) -> None: ...

    def trouble(self, what: str, error: BaseException) -> None:
        os.write(2, f"{what}: {error!r}\n".encode())
        os._exit(1)


def say(line: str) -> None:
    os.write(1, line.encode() + b"\n")


async def main(path: str, seed: str, flight: str, *options: str) -> None:
    engine = Engine(Path(path), clock=clock, deliver=reactor.callFromThread)
    if "unsynced" in options:
        # both that sync the log: a checkpoint that comes between a commit and its confirmation does it as well
        for connection in (engine._writer, engine._wal._copier):
            connection.execute("PRAGMA synchronous=OFF")
    queue = Queue(engine, "inbound", IDS, clock, reactor=reactor)
    intake: Any = queue
    leads = {}
    if "filing" in options:
        database = Database(engine)
        account = await database.unit(lambda tx: ensure_account(tx, IDS, "dev"))
        mailbox, _ = await database.unit(lambda tx: store.ensure(tx, IDS, account.id, "inbox@mailfarm.test"))
        intake = FilingIntake(queue=queue, database=database, bus=MemoryBus(), ids=IDS, host=Nobody())
        leads = {"account": account.id, "mailboxes": (mailbox.id,)}
    sizes = [10, 1000, 4000, 20_000, 2 * CHUNK + 5]
    if leads:
        sizes.append(LARGEST + 5)
    dice = random.Random(int(seed))
    most = int(os.environ.get("PUTS", "1000000"))

    async def put() -> None:
        for number in itertools.count():
            if number * int(flight) >= most:
                return
            mail = spooled(dice.randbytes(dice.choice(sizes)))
            await intake.put(replace(mail, **leads))
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
