"""Embedded or cluster, decided here and nowhere else, by URL.

========================  ==============================  =======================================
setting                   empty                           a URL
========================  ==============================  =======================================
MAILFARM_DATABASE_URL     SQLite, in the data folder      Postgres
MAILFARM_QUEUE_URL        the same SQLite                 Redis, a shard for each URL
MAILFARM_CACHE_URL        memory, in this process         Redis: the bus and the limiter
========================  ==============================  =======================================

MAILFARM_SPOOL, a folder, is where mail waits while no shard on Redis takes it.

Where queue and database are the same SQLite and one process accepts and files, mail is filed in the transaction that
accepts it (``inbound/embedded.py``); the queue takes only what cannot go that way.

The modules of a backend, and the drivers below them, are loaded only where it is used.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from shutil import rmtree
from socket import gethostname
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from mailfarm.backends.memory import MemoryBus, MemoryLimiter
from mailfarm.config import Settings
from mailfarm.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    QueueFull,
    QueueRefuses,
    QueueUnavailable,
    Temporary,
)
from mailfarm.ids import Ids
from mailfarm.net.http import Check
from mailfarm.ports import Bus, Database, Limiter, Tx

from .background import clock, nothing
from .steps import Step

if TYPE_CHECKING:
    from mailfarm.backends.spool_disk import DiskSpool
    from mailfarm.inbound.embedded import Gathering

DATABASE = "mailfarm.sqlite"
QUEUE = "inbound"

_log = Logger()


class Stores:
    """The stores a process ``uses``, some of database, queue, spool and cache, and how they start and stop; and those
    that it only ``shows``, which may be away without it being any less ready.

    ``name`` is the command's. ``folder`` keeps data; None keeps nothing. Making it opens SQLite, where that is used:
    raises DatabaseUnavailable (in use, locked), SchemaMismatch, ConfigurationError.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path | None,
        ids: Ids,
        reactor: Any,
        registry: CollectorRegistry,
        *,
        name: str,
        uses: Collection[str],
        shows: Collection[str] = (),
    ) -> None:
        farm = settings.farm
        self._farm = farm
        self._spool_size = settings.spool.size
        self._name = name
        self._ids = ids
        self._reactor = reactor
        self._registry = registry
        self._postgres: Any = None
        self._first_look = float("inf")
        self.folder: Path | None = folder
        self.steps: list[Step] = []
        """In the order of their start."""
        self.checks: dict[str, Check] = {}
        """Whether each answers."""
        self.hints: set[str] = set()
        """Those of ``checks`` without which everything goes on."""
        self.database: Database = None  # type: ignore[assignment]  # who does not use it never asks
        self.queue: Any = None
        self.spool: DiskSpool | None = None
        """Where mail waits while no shard of the queue takes it."""
        self.gathering: Gathering | None = None
        """The database, where the queue is in the same file: then mail can be filed without the queue."""
        self.bus: Bus = MemoryBus()
        self.limiter: Limiter = MemoryLimiter(clock=time.monotonic)
        here = {"database": not farm.database_url, "queue": not farm.queue_url, "cache": not farm.cache_url}
        try:
            if any(here[use] for use in ("database", "queue") if use in uses):
                self._sqlite({use for use in uses if here.get(use)})
            elif name == "dev":
                self._own_folder()
            if "database" in uses and farm.database_url:
                self._shared_database()
            if farm.queue_url and ("queue" in uses or "queue" in shows):
                self._shared_queue()
                if "queue" not in uses:
                    self.hints.add("queue")
            if "cache" in uses and farm.cache_url:
                self._shared_cache()
            if "spool" in uses and farm.spool:
                self._local_spool(Path(farm.spool))
        except ValueError as error:  # a URL or a file that only who uses it could find wrong
            raise ConfigurationError([str(error)]) from None

    async def look(self) -> None:
        """Whether there is all without which nothing can be served. Raises Temporary: not yet; SchemaMismatch.

        With a spool that is not the queue, unless its server is there and refuses: that is for somebody to mend.
        """
        if self._postgres is not None:
            try:
                await self._postgres.check_schema()
            except Temporary as error:
                raise Temporary(f"the database: {error}") from None
        if self.queue is not None and "queue" not in self.hints:
            try:
                await self.queue.admit(0)
            except QueueFull:
                pass  # it is there
            except QueueUnavailable as error:
                if self.spool is None or isinstance(error, QueueRefuses) or not self._waited():
                    raise Temporary(f"the queue: {error}") from None
                _log.warn("it begins without the queue: {error}", error=str(error))

    def _waited(self) -> bool:
        """Whether the queue had the time it has for an answer, since the first look."""
        now: float = self._reactor.seconds()
        self._first_look = min(self._first_look, now)
        return now - self._first_look >= self._farm.store_timeout

    # ---- embedded

    def _sqlite(self, uses: Collection[str]) -> None:
        from mailfarm.backends.sqlite_database import Database as SqliteDatabase
        from mailfarm.backends.sqlite_engine import Engine
        from mailfarm.backends.sqlite_queue import Queue as SqliteQueue

        path = None if self.folder is None else self.folder / DATABASE
        engine = Engine(path, clock=clock, deliver=self._reactor.callFromThread)
        self.folder = engine.path.parent
        # patient: it always ends what it was given, for that is what 250 was said for
        self.steps.append(Step("sqlite", nothing, engine.close, patient=True))
        if "database" in uses:
            self.database = database = SqliteDatabase(engine)
            self.checks["database"] = self._database_answers
            self.gathering = database if "queue" in uses else None
        if "queue" in uses:
            queue = SqliteQueue(
                engine,
                QUEUE,
                self._ids,
                clock,
                reactor=self._reactor,
                reserve=self._farm.reserve,
                max_entries=self._farm.backlog,
                holder=_holder(),
            )
            self.queue = queue
            self.checks["queue"] = queue.depth

    def _own_folder(self) -> None:
        """``dev`` on shared stores keeps its certificate somewhere all the same."""
        if self.folder is None:
            self.folder = temporary = Path(tempfile.mkdtemp(prefix="mailfarm-"))

            async def forget() -> None:
                await deferToThread(rmtree, temporary, ignore_errors=True)

            self.steps.append(Step("folder", nothing, forget, patient=True))
        else:
            self.folder.mkdir(0o700, parents=True, exist_ok=True)

    # ---- shared

    def _shared_database(self) -> None:
        from mailfarm.backends.postgres_database import PostgresDatabase

        self.database = self._postgres = PostgresDatabase(
            self._farm.database_url,
            self._reactor,
            password=self._farm.database_password,
            registry=self._registry,
            name=f"mailfarm {self._name}",
        )
        self.checks["database"] = self._database_answers
        self.steps.append(Step("database", self._postgres.start, self._postgres.stop))

    def _link(self, url: str, name: str, password: str, connections: int = 1) -> Any:
        from mailfarm.backends.redis_link import RedisLink

        farm = self._farm
        link = RedisLink(
            url,
            self._reactor,
            password=password,
            ca=farm.redis_ca,
            timeout=farm.store_timeout,
            connections=connections,
            name=name,
        )
        self.steps.append(Step(name, link.start, link.stop))
        return link

    def _shared_queue(self) -> None:
        from mailfarm.backends.redis_queue import RedisQueue

        farm = self._farm
        takes_mail = self._name in ("mx", "submission", "dev")
        shards = []
        for number, url in enumerate(farm.queue_url, 1):
            name = "queue" if len(farm.queue_url) == 1 else f"queue shard {number}"
            link = self._link(url, name, farm.queue_password, 3)  # puts, takes and large content
            shards.append(
                RedisQueue(
                    link,
                    QUEUE,
                    self._ids,
                    clock,
                    self._reactor,
                    self._registry,
                    max_entries=farm.backlog,
                    holder=_holder(),
                    max_wait=farm.backlog_age,
                    max_size=farm.max_size if takes_mail else 0,
                )
            )
        if len(shards) == 1:
            self.queue = shards[0]
        else:
            from mailfarm.backends.redis_shards import ShardedQueue

            self.queue = ShardedQueue(shards)
        self.checks["queue"] = self.queue.depth
        self.steps.append(Step("queue", self.queue.start, self.queue.stop))

    def _shared_cache(self) -> None:
        from mailfarm.backends.redis_bus import RedisBus
        from mailfarm.backends.redis_limiter import RedisLimiter

        link = self._link(self._farm.cache_url, "cache", self._farm.cache_password)
        local = MemoryLimiter(clock=time.monotonic)
        limiter = RedisLimiter(link, local, self._reactor, self._registry)
        bus = RedisBus(link, self._reactor, self._registry)
        self.limiter, self.bus = limiter, bus

        async def cache_answers() -> None:
            await link.command("PING")

        self.checks["cache"] = cache_answers
        self.hints.add("cache")
        self.steps += [Step("limiter", limiter.start, limiter.stop), Step("bus", bus.start, bus.stop)]

    def _local_spool(self, folder: Path) -> None:
        from mailfarm.backends.spool_disk import DiskSpool

        farm = self._farm
        self.spool = spool = DiskSpool(
            folder,
            f"{self._name}-{self._ids.new()}",
            self._reactor,
            self._registry,
            clock,
            max_octets=self._spool_size,
            max_entries=farm.backlog,
            reserve=farm.reserve,
        )
        self.checks["spool"] = spool.is_empty
        self.hints.add("spool")
        self.steps.append(Step("spool", spool.start, spool.stop))

    async def _database_answers(self) -> None:
        reading = Deferred.fromCoroutine(self._read())
        if self._postgres is not None and self._postgres.away:
            reading.addErrback(lambda failure: None)  # it asks all the same: that is how the pool finds it back
            raise DatabaseUnavailable(self._postgres.away)
        await reading

    async def _read(self) -> None:
        await self.database.read(_select_one)


def _holder() -> str:
    """This process as an operator finds it: in a container the host is that."""
    return f"{''.join(gethostname().split())[:60]}/{os.getpid()}"


async def _select_one(tx: Tx) -> None:
    await tx.row("select 1")
