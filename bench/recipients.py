#!/usr/bin/env python3
"""What a transaction with 100 recipients costs, by how its mailboxes are found.

    .venv/bin/python bench/recipients.py [--seconds 2] [--quick]

mx and submission's open capture in this process, with SQLite; one client on loopback that pipelines MAIL, 100 RCPT and
RSET, again and again. Each row is the median of a transaction.

one by one   each recipient is looked up when its turn comes, and nothing is remembered: what mx and submission did
ahead        those that came in one batch are looked up together
remembered   the same transaction again within five seconds
default      open capture for addresses without a mailbox: looked up together each time, as one may be made any moment
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import chart
import report
from prometheus_client import CollectorRegistry
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import react

from mailfarm.accounts.store import ensure_account
from mailfarm.backends.memory import MemoryBus, MemoryLimiter
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import Address, MxSettings, SubmissionSettings
from mailfarm.ids import Ids
from mailfarm.inbound.capture import DefaultMailbox
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.mailbox import NewMailbox
from mailfarm.net import smtp_protocol
from mailfarm.ports import Tx
from mailfarm.services.mx import Mx
from mailfarm.services.submission import Submission

RECIPIENTS = 100
DOMAINS = Domains(("mailfarm.test",), any=True)
HEAD = ("service", "how", "transactions", "p50 ms", "p99 ms", "CPU ms each", report.OTHERS)


def clock() -> int:
    return time.time_ns() // 1000


class Client(Protocol):
    """Counts the lines it is told, and says when all have come."""

    def __init__(self) -> None:
        self.lines = 0
        self.wanted = 0
        self.waiting: Deferred[None] | None = None

    def dataReceived(self, data: bytes) -> None:
        if b"\r\n5" in data or b"\r\n4" in data:
            raise AssertionError(data)
        self.lines += data.count(b"\r\n")
        if self.waiting is not None and self.lines >= self.wanted:
            waiting, self.waiting = self.waiting, None
            waiting.callback(None)

    def say(self, data: bytes, replies: int) -> Deferred[None]:
        """Send, and wait for so many reply lines."""
        self.waiting = waiting = Deferred[None]()
        self.wanted = self.lines + replies
        transport: Any = self.transport
        transport.write(data)
        return waiting


async def transactions(port: int, name: str, seconds: float, before: Callable[[], None]) -> tuple[object, ...]:
    """Transactions one after another: their number, p50, p99 and CPU in milliseconds."""
    factory: Any = Factory.forProtocol(Client)
    client: Any = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    if not client.lines:
        await client.say(b"", 1)
    await client.say(b"HELO client.test\r\n", 1)
    rcpts = "".join(f"RCPT TO:<{name}{n}@mailfarm.test>\r\n" for n in range(RECIPIENTS))
    batch = f"MAIL FROM:<>\r\n{rcpts}RSET\r\n".encode()
    took: list[float] = []
    others, cpu, until = report.Others(), time.process_time(), time.monotonic() + seconds
    while time.monotonic() < until:
        before()
        began = time.perf_counter()
        await client.say(batch, RECIPIENTS + 2)
        took.append((time.perf_counter() - began) * 1e3)
    cpu = (time.process_time() - cpu) * 1e3 / len(took)
    cores = others.cores()
    client.transport.loseConnection()
    took.sort()
    return len(took), statistics.median(took), took[len(took) * 99 // 100], cpu, cores


async def run(loop: Any, seconds: float, turns: int, patience: report.Patience, quick: bool) -> None:
    """Measure, print the table, and keep it."""
    facts = report.machine()
    ids = Ids(clock, os.urandom)
    engine = Engine(None, clock=clock, deliver=loop.callFromThread)
    database = Database(engine)
    account = (await database.unit(lambda tx: ensure_account(tx, ids, "bench"))).id

    async def furnish(tx: Tx) -> None:
        for n in range(RECIPIENTS):
            await store.create(tx, ids, account, NewMailbox(f"user{n}@mailfarm.test"), DOMAINS)

    await database.unit(furnish)
    await database.unit(lambda tx: store.ensure(tx, ids, account, "inbox@mailfarm.test"))
    with tempfile.TemporaryDirectory() as folder:
        common: dict[str, Any] = {
            "hostname": "mx.test", "max_size": 1 << 20, "queue": Queue(engine, "inbound", ids, clock, reactor=loop),
            "database": database, "bus": MemoryBus(), "limiter": MemoryLimiter(time.monotonic), "ids": ids,
            "clock": clock, "reactor": loop, "folder": Path(folder),
            "default": DefaultMailbox(account, "inbox@mailfarm.test"),
        }  # fmt: skip
        here = Address("127.0.0.1", 0)
        mx = Mx(
            settings=MxSettings(listen=here, starttls=False), domains=DOMAINS, owner=lambda domain: account,
            registry=CollectorRegistry(), **common,
        )  # fmt: skip
        capture = Submission(
            settings=SubmissionSettings(capture=here, starttls=None, tls=None), registry=CollectorRegistry(), **common
        )
        rows: list[Sequence[Any]] = []
        for word, service, of in (("mx", mx, mx), ("submission", capture, capture)):
            await service.start()
            port = next(iter(service.listening.values())).port
            lookups: Any = of.directory.mailboxes
            for how, name, before, ahead in (
                ("one by one", "user", lookups._kept.clear, 0),
                ("ahead", "user", lookups._kept.clear, RECIPIENTS),
                ("remembered", "user", _nothing, RECIPIENTS),
                *([("default, one by one", "any", _nothing, 0)] if service is capture else []),
                *([("default", "any", _nothing, RECIPIENTS)] if service is capture else []),
            ):
                smtp_protocol.MOST = ahead  # type: ignore[misc]  # a constant, for this comparison alone
                kept = report.Calmest(HEAD, turns, patience)
                while kept.wanted:
                    kept.add((word, how, *await transactions(port, name, seconds, before)))
                rows.append(kept.row)
            await service.stop(0)
    await engine.close()
    costs = [(f"{row[0]}, {row[1]}", row[5]) for row in rows]
    picture = chart.bars("CPU of a transaction with 100 recipients", "ms", costs)
    report.save_rows("recipients", quick, facts, HEAD, rows, picture)


def _nothing() -> None:
    """Leave what is remembered."""


def main() -> None:
    """Print the table."""
    parser = report.options(__doc__)
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each row is measured (2; quick: 0.3)")
    given = parser.parse_args()
    seconds, turns = given.seconds or (0.3 if given.quick else 2.0), given.turns or (1 if given.quick else 3)
    patience = report.Patience(given.patience)
    react(lambda loop: Deferred.fromCoroutine(run(loop, seconds, turns, patience, given.quick)))


if __name__ == "__main__":
    main()
