"""A database of one's own with an account in it, and mail to file there: for tests of what works through a ``Tx``."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest_twisted
from servers import set_clock, shifted_url
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from mailfarm import ports
from mailfarm.accounts import store as accounts
from mailfarm.backends.memory import MemoryBus
from mailfarm.backends.postgres_database import PostgresDatabase
from mailfarm.backends.sqlite_database import Database
from mailfarm.backends.sqlite_engine import Engine
from mailfarm.events import Person
from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.mailboxes import events, filing, messages, store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.content import Parsed
from mailfarm.mailboxes.filing import Filing, ToFile, to_file
from mailfarm.mailboxes.mailbox import Mailbox, NewMailbox
from mailfarm.mailboxes.match import ALL, Criteria
from mailfarm.mailboxes.packing import Packer
from mailfarm.ports import Origin, Spooled, Tx

SECOND = 1_000_000
TABLES = ("mailbox", "message", "content", "content_chunk", "event", "credential")


class Bytes:
    """Content in memory."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.closed = False

    @property
    def size(self) -> int:
        return len(self.data)

    async def chunks(self) -> Any:
        for start in range(0, len(self.data), 256 * 1024):
            yield self.data[start : start + 256 * 1024]

    def close(self) -> None:
        self.closed = True


class House:
    """``url`` is a Postgres database's (fixture ``postgres_database``), or empty for SQLite. ``engine`` is SQLite's in
    any case: for a queue."""

    def __init__(self, url: str = "") -> None:
        self.url = self._url = url
        self._ahead = 0.0
        self.ids = Ids(self.clock, os.urandom)
        self.engine = Engine(None, clock=self.clock, deliver=reactor.callFromThread)
        self._postgres = PostgresDatabase(shifted_url(url), reactor) if url else None
        self.database: ports.Database = self._postgres or Database(self.engine)
        self.bus = MemoryBus()
        self.account = ""
        self.domains = Domains()
        self.failures: list[BaseException] = []

    @property
    def ahead(self) -> float:
        """How far the clock is ahead, in seconds."""
        return self._ahead

    @ahead.setter
    def ahead(self, seconds: float) -> None:
        self._ahead = seconds
        if self._url:
            set_clock(self._url, seconds)

    def clock(self) -> int:
        return int((time.time() + self.ahead) * SECOND)

    async def open(self) -> House:
        self.account = await self.new_account("dev")
        return self

    async def close(self) -> None:
        if self._postgres is not None:
            await self._postgres.stop()
        await self.engine.close()

    def spawn(self, coroutine: Any) -> None:
        """Run a coroutine; what it raises is kept in ``failures``."""
        Deferred.fromCoroutine(coroutine).addErrback(lambda failure: self.failures.append(failure.value))

    def unit(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        late = work is filing.file  # as the service does
        return self.database.unit(lambda tx: work(tx, *args, **kwargs), late=late)

    def read(self, work: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return self.database.read(lambda tx: work(tx, *args, **kwargs))

    async def new_account(self, name: str) -> str:
        return (await self.unit(accounts.ensure_account, self.ids, name)).id

    async def mailbox(self, account: str | None = None, **asked: Any) -> Mailbox:
        made, _ = await self.unit(store.create, self.ids, account or self.account, NewMailbox(**asked), self.domains)
        return made

    async def find(self, mailbox: Mailbox) -> Mailbox:
        return await self.read(store.find, mailbox.account, mailbox.id)

    def item(
        self,
        *mailboxes: Mailbox,
        content: bytes = b"Subject: s\r\n\r\nhello\r\n",
        sender: str = "app@example.org",
        recipients: Sequence[str] = (),
        **parsed: Any,
    ) -> ToFile:
        addresses = recipients or [mailbox.address for mailbox in mailboxes]
        envelope = Envelope(sender, tuple(Recipient(address) for address in addresses))
        origin = Origin("mx", "192.0.2.1", 25, "client.example", "ESMTP")
        ids = tuple(mailbox.id for mailbox in mailboxes)
        trace = b"Received: from client.example\r\n"
        spooled = Spooled(
            self.ids.new(), self.account, self.clock(), envelope, origin, ids, trace, b"h" * 32, Bytes(content)
        )
        parsed.setdefault("subject", "s")
        parsed.setdefault("from_", Person("App", "app@example.org"))
        return to_file(Packer(), spooled, Parsed(**parsed), content)

    def file(self, *items: ToFile) -> Deferred[Filing]:
        return self.unit(filing.file, self.ids, items)

    async def send(self, mailbox: Mailbox, **parsed: Any) -> str:
        """File one message and tell the bus; its id."""
        filed = (await self.file(self.item(mailbox, **parsed))).filed
        for event in filed:
            self.bus.publish(event.mailbox, event)
        return filed[0].message.id

    async def list(self, mailbox: Mailbox, criteria: Criteria = ALL, **asked: Any) -> messages.Page:
        return await self.read(messages.list_, mailbox.account, mailbox.id, criteria, **asked)

    async def events(self, mailbox: Mailbox, after: int = 0, limit: int = 1000) -> Sequence[Any]:
        return (await self.read(events.after, mailbox.account, mailbox.id, after, limit))[0]

    async def mark(self, mailbox: Mailbox, which: Sequence[str] | None, seen: bool = True) -> Any:
        return await self.unit(messages.mark, self.ids, mailbox.account, mailbox.id, which, seen)

    async def delete(self, mailbox: Mailbox, which: Sequence[str] | None) -> Any:
        changes = await self.unit(messages.delete, self.ids, mailbox.account, mailbox.id, which)
        for event in changes:
            self.bus.publish(event.mailbox, event)
        return changes

    async def counts(self) -> dict[str, int]:
        """The number of rows in each table that belongs to mailboxes."""

        async def count(tx: Tx) -> dict[str, int]:
            return {table: (await tx.rows(f"select count(*) from {table}"))[0][0] for table in TABLES}

        return await self.database.read(count)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """Wait until ``condition()`` is true and return what it gave; TimeoutError after ``seconds``."""
    deadline = reactor.seconds() + seconds
    while not (value := condition()):
        if reactor.seconds() > deadline:
            raise TimeoutError(f"not so within {seconds} s")
        turn: Deferred[None] = Deferred()
        reactor.callLater(0.002, turn.callback, None)
        await turn
    return value


@pytest_twisted.async_yield_fixture
async def house(database_url):
    """For a conftest: a house with a database of its own."""
    made = await House(database_url).open()
    yield made
    await made.close()
    assert not made.failures
