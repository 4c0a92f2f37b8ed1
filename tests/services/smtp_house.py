"""mx and submission in front of the real embedded backends, for tests."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet import reactor

from mailfarm.accounts.secret import new_secret
from mailfarm.accounts.store import Account, create_credential, ensure_account
from mailfarm.backends.memory import MemoryBus, MemoryLimiter
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.backends.sqlite_queue import Queue
from mailfarm.config import Address, MxSettings, SubmissionSettings
from mailfarm.events import Refused
from mailfarm.ids import Ids
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.mailbox import Mailbox, NewMailbox
from mailfarm.net.smtp_server import Caps
from mailfarm.net.tls import KeyPair, ServerTls, dev_certificate
from mailfarm.ports import Spooled
from mailfarm.services.mx import Mx
from mailfarm.services.submission import DefaultMailbox, Submission
from mailfarm.smtp.server import Deadlines

FREE = Address("127.0.0.1", 0)
HOST = "mx.mailfarm.test"
ALL = (ip_network("127.0.0.0/8"),)


class House:
    """Backends of one's own; a clock that can be set forward."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ahead = 0
        self.ids = Ids(self.clock, os.urandom)
        self.engine = Engine(None, clock=self.clock, deliver=reactor.callFromThread)
        self.queue = Queue(self.engine, "inbound", self.ids, self.clock, reactor=reactor)
        self.database: Any = Database(self.engine)
        self.bus = MemoryBus()
        self.limiter = MemoryLimiter(time.monotonic)
        self.domains = Domains(("mailfarm.test", "münchen.example"))
        self.refused: list[Refused] = []
        self.pair: KeyPair = dev_certificate(folder / "tls", HOST, datetime.now(UTC))
        self.tls = ServerTls(self.pair)
        self.registry = CollectorRegistry()
        self.running: list[Any] = []
        self.account: Account
        self.inbox: Mailbox

    def clock(self) -> int:
        return time.time_ns() // 1000 + self.ahead

    async def begin(self) -> None:
        self.account = await self.database.unit(lambda tx: ensure_account(tx, self.ids, "dev"))
        self.inbox = await self.mailbox("inbox@mailfarm.test")
        await self.bus.subscribe("refused", self.refused.append)

    @property
    def default(self) -> DefaultMailbox:
        return DefaultMailbox(self.account.id, "inbox@mailfarm.test")

    async def mailbox(self, address: str | None = None, account: str = "", **new: Any) -> Mailbox:
        domains = Domains(self.domains.names, any=True)
        wanted = NewMailbox(address, **new)
        made, _ = await self.database.unit(
            lambda tx: store.create(tx, self.ids, account or self.account.id, wanted, domains)
        )
        return made

    async def another_account(self, name: str = "other") -> str:
        account = await self.database.unit(lambda tx: ensure_account(tx, self.ids, name))
        return str(account.id)

    async def credential(self, name: str, **rest: Any) -> str:
        """Make a credential; its secret."""
        secret = new_secret(os.urandom)
        account = rest.pop("account", self.account.id)
        await self.database.unit(
            lambda tx: create_credential(tx, self.ids, account, secret.verifier, name=name, **rest)
        )
        return secret.text

    async def mx(self, **rest: Any) -> Mx:
        settings = rest.pop("settings", None) or MxSettings(listen=FREE)
        return await self._start(
            Mx,
            rest,
            settings=settings,
            domains=self.domains,
            owner=lambda domain: self.account.id if domain in self.domains.names else "",
            default=self.default,
        )

    async def submission(self, **rest: Any) -> Submission:
        settings = rest.pop("settings", None) or SubmissionSettings(capture=FREE, starttls=FREE, tls=FREE)
        return await self._start(Submission, rest, settings=settings, default=self.default)

    async def _start(self, service: Any, rest: dict[str, Any], **own: Any) -> Any:
        start = rest.pop("start", True)
        made = service(
            **{
                "hostname": HOST,
                "max_size": 20 * 1024 * 1024,
                "queue": self.queue,
                "database": self.database,
                "bus": self.bus,
                "limiter": self.limiter,
                "ids": self.ids,
                "clock": self.clock,
                "reactor": reactor,
                "registry": self.registry,
                "tls": self.tls,
                "folder": self.folder,
                "caps": Caps(sweep=0.05),
                "deadlines": Deadlines(),
                **own,
                **rest,
            }
        )
        if start:
            await made.start()
        self.running.append(made)
        return made

    async def spooled(self, count: int = 1) -> list[tuple[Spooled, bytes]]:
        """Take so many entries from the queue, with their content."""
        found: list[tuple[Spooled, bytes]] = []
        while len(found) < count:
            attempts = await self.queue.take(count - len(found), 60.0, wait=10.0)
            assert attempts, f"{len(found)} of {count} came"
            for attempt in attempts:
                data = b"".join([chunk async for chunk in attempt.spooled.content.chunks()])
                found.append((attempt.spooled, data))
            await self.queue.done([attempt.fence for attempt in attempts])
        return found

    async def end(self) -> None:
        for service in self.running:
            await service.stop(0)
        await self.engine.close()


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    made = House(folder)
    try:
        await made.begin()
        yield made
    finally:
        await made.end()
