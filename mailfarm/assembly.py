"""The composition root: the one place where rooms are put together, and where embedded or cluster is decided.

``mailfarm dev`` is every service in one process on the embedded backends. It starts from the store outwards, so that
nothing is taken in before there is a place for it, and stops from the listeners inwards, so that what was taken in is
finished or safe.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from . import __version__
from .accounts import store as accounts
from .accounts.token import SCOPES
from .backends.memory import MemoryBus, MemoryLimiter
from .backends.sqlite_database import Database
from .backends.sqlite_engine import Engine
from .backends.sqlite_queue import Queue
from .config import Address, Settings
from .errors import ConfigurationError, MailfarmError
from .ids import Ids
from .inbound.capture import DefaultMailbox, ensure_default
from .mailboxes.addresses import Domains
from .mailboxes.feed import Feeds
from .net.http import Status
from .net.tls import KeyPair, ServerTls, dev_certificate
from .ports import Tx
from .services.api import Api
from .services.inbound import Inbound
from .services.live import Live
from .services.mx import Mx
from .services.submission import Submission
from .services.sweep import Sweep

ACCOUNT = "dev"
DATABASE = "mailfarm.sqlite"
LOOK = 2.0
"""Seconds between two looks for changes the bus did not tell of."""

_log = Logger()


@dataclass(slots=True)
class Step:
    """Something that is started, and stopped in the opposite order."""

    name: str
    start: Callable[[], Awaitable[object]]
    stop: Callable[[], Awaitable[object]]


class Farm:
    """Every service in one process, on SQLite and memory. ``folder`` keeps its data; None keeps nothing.

    Making it opens the database: raises DatabaseUnavailable (in use, locked), SchemaMismatch.
    """

    def __init__(self, settings: Settings, folder: Path | None, reactor: Any) -> None:
        self.settings = settings
        self._reactor = reactor
        self._grace = settings.farm.grace
        self._started: list[Step] = []
        self._hurried: Deferred[None] = Deferred()
        self.ids = Ids(clock, os.urandom)
        self.registry = CollectorRegistry()
        path = None if folder is None else folder / DATABASE
        self.engine = Engine(path, clock=clock, deliver=reactor.callFromThread)
        self.folder = self.engine.path.parent
        self.database = Database(self.engine)
        self.bus = MemoryBus()
        self.limiter = MemoryLimiter(clock=time.monotonic)
        self.queue = Queue(
            self.engine,
            "inbound",
            self.ids,
            clock,
            reactor=reactor,
            reserve=settings.farm.reserve,
            max_entries=settings.farm.backlog,
        )
        self.feeds = Feeds(self.database, self.bus, spawn)
        self.domains = Domains(
            tuple(name for name in settings.farm.domains if name != "*"), any="*" in settings.farm.domains
        )
        self.status = Status(self.registry, {"database": self._database_answers, "queue": self.queue.depth}, reactor)
        self.account = ""
        self.tls: ServerTls
        self.mx: Mx
        self.submission: Submission
        self.api: Api

    async def start(self) -> None:
        """Start everything. Raises MailfarmError, in one sentence a line, and has stopped what was started then."""
        try:
            await self._begin()
        except BaseException:
            await self.stop()
            raise

    async def _begin(self) -> None:
        settings = self.settings
        self._started.append(Step("database", _nothing, self.engine.close))
        self.account = await self.database.unit(self._furnish)
        inbox = DefaultMailbox(self.account, f"inbox@{self.domains.default}")
        await ensure_default(self.database, self.bus, self.ids, inbox)
        self.tls = ServerTls(self._key_pair())
        incoming = self.folder / "incoming"
        incoming.mkdir(mode=0o700, exist_ok=True)
        looking = LoopingCall(lambda: spawn(self._look()))
        looking.clock = self._reactor

        async def look_from_now_on() -> None:
            looking.start(LOOK, now=False)

        async def look_no_more() -> None:
            looking.stop()

        common: dict[str, Any] = {
            "database": self.database,
            "bus": self.bus,
            "ids": self.ids,
            "reactor": self._reactor,
            "registry": self.registry,
        }
        inbound = Inbound(settings=settings.inbound, queue=self.queue, clock=clock, **common)
        sweep = Sweep(settings=settings.sweep, **common)
        web: dict[str, Any] = {
            "database": self.database,
            "bus": self.bus,
            "feeds": self.feeds,
            "spawn": spawn,
            "reactor": self._reactor,
            "registry": self.registry,
            "account": None if settings.api.auth == "token" else self.account,
            "hosts": settings.api.hosts,
        }
        live = Live(
            incident=self.ids.new,
            max_connections=settings.live.max_connections,
            heartbeat=settings.live.heartbeat,
            **web,
        )
        websocket: Any = live.resource  # zope.interface, which mypy does not see through
        self.api = Api(
            endpoints=[_endpoint(self._reactor, settings.api.listen)] if settings.api.listen else [],
            ids=self.ids,
            domains=self.domains,
            random=os.urandom,
            version=__version__,
            inbox=f"inbox@{self.domains.default}",
            smtp=lambda: self.where()["smtp"],
            max_waits=settings.api.max_waits,
            grace=min(5.0, self._grace),
            status=self.status,
            websocket=websocket,
            web=_web(),
            **web,
        )
        smtp: dict[str, Any] = {
            **common,
            "hostname": settings.farm.hostname,
            "max_size": settings.farm.max_size,
            "queue": self.queue,
            "limiter": self.limiter,
            "clock": clock,
            "tls": self.tls,
            "folder": incoming,
        }
        self.submission = Submission(settings=settings.submission, default=inbox, **smtp)
        self.mx = Mx(
            settings=settings.mx,
            domains=self.domains,
            owner=lambda domain: self.account,
            default=inbox,
            **smtp,
        )
        await self._bring_up(
            Step("inbound", inbound.start, inbound.stop),
            Step("sweep", sweep.start, sweep.stop),
            Step("feeds", look_from_now_on, look_no_more),
            Step("live", live.start, live.stop),
            Step("api", self._serve_http, self.api.stop),
            Step("listeners", self._listen, self._drain),
        )

    async def _serve_http(self) -> None:
        try:
            await self.api.start()
        except CannotListenError as error:
            why = getattr(error.socketError, "strerror", None) or str(error.socketError)
            raise ConfigurationError(
                [
                    f"cannot listen on {self.settings.api.listen}: {why}. Stop what holds it, or set "
                    "MAILFARM_API_LISTEN to another address"
                ]
            ) from None

    async def _listen(self) -> None:
        await self.submission.start()
        try:
            await self.mx.start()
        except BaseException:
            await self.submission.stop(0.0)
            raise

    async def _drain(self) -> None:
        """Both at once, or the grace would pass twice."""
        both = [Deferred.fromCoroutine(service.stop(self._grace)) for service in (self.submission, self.mx)]
        await gatherResults(both, consumeErrors=True)

    async def _bring_up(self, *steps: Step) -> None:
        for step in steps:
            if self.status.stopping:
                return
            await step.start()
            self._started.append(step)

    async def stop(self) -> None:
        """Stop everything, the listeners first. What fails to stop is logged and does not keep the rest from it."""
        self.status.stop()
        while self._started:
            step = self._started.pop()
            stopped = Deferred.fromCoroutine(_stop(step))
            # the database always ends what it was given: that is what 250 was said for
            await (stopped if step.name == "database" else _first(stopped, self._hurried))

    def hurry(self) -> None:
        """Wait for nobody any more: sessions, requests and waits are cut."""
        if not self._hurried.called:
            self._hurried.callback(None)

    def reload(self) -> None:
        """Read the certificate again, for new connections."""
        self.tls.reload()

    def where(self) -> dict[str, Any]:
        """What listens where, as ``mailfarm dev --json`` says it."""
        http = self.api.listening[0] if self.api.listening else None
        return {
            "http": f"http://{Address(http.host, http.port)}" if http else None,
            "smtp": {word: str(listening) for word, listening in self.submission.listening.items()},
            "mx": next((str(listening) for listening in self.mx.listening.values()), None),
            "data": str(self.folder),
        }

    async def _furnish(self, tx: Tx) -> str:
        """The account and its first token."""
        account = (await accounts.ensure_account(tx, self.ids, ACCOUNT)).id
        token = self.settings.api.first_token
        if token and await accounts.find_token(tx, token) is None:
            await accounts.create_token(tx, self.ids, account, token, name="first", scopes_=SCOPES)
        return account

    def _key_pair(self) -> KeyPair:
        farm = self.settings.farm
        if farm.certificate:
            return KeyPair(Path(farm.certificate), Path(farm.key))
        return dev_certificate(self.folder, farm.hostname, datetime.now(UTC))

    async def _look(self) -> None:
        try:
            await self.feeds.look()
        except MailfarmError as error:
            _log.warn("could not look for changes: {error}", error=str(error))

    async def _database_answers(self) -> None:
        await self.database.read(_select_one)


async def _stop(step: Step) -> None:
    try:
        await step.stop()
    except Exception:
        _log.failure("{name} did not stop as it should", name=step.name)


def _first(one: Deferred[None], other: Deferred[None]) -> Deferred[None]:
    """Fires with whichever fires first; neither is cancelled."""
    first: Deferred[None] = Deferred()

    def fired(result: None) -> None:
        if not first.called:
            first.callback(None)

    one.addCallback(fired)
    other.addCallback(fired)
    return first


async def _select_one(tx: Tx) -> None:
    await tx.row("select 1")


async def _nothing() -> None:
    return None


def clock() -> int:
    """Microseconds since 1970, UTC."""
    return time.time_ns() // 1000


def spawn(coroutine: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in the background; what it raises is logged."""
    Deferred.fromCoroutine(coroutine).addErrback(lambda failure: _log.failure("a background task failed", failure))


def _endpoint(reactor: Any, address: Address) -> Any:
    kind = TCP6ServerEndpoint if ":" in address.host else TCP4ServerEndpoint
    host = "127.0.0.1" if address.host == "localhost" else address.host
    return kind(reactor, address.port, backlog=1024, interface=host)


def _web() -> Path:
    return Path(str(resources.files("mailfarm") / "web"))
