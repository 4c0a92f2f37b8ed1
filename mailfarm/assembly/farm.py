"""A process of mailfarm: all services, or one of them, from the stores to the listeners and back.

A service by itself starts when all others of a cluster do, its stores too. It waits for them, for as long as it takes:
nothing is listened on, ``/healthz`` says 503 with what it waits for, and so does the log, every few seconds. Only what
waiting cannot mend ends it: a port in use, a schema newer than this version. See docs/decisions/0009.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.error import CannotListenError
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from mailfarm import __version__
from mailfarm.accounts.limit_sets import WITHOUT_A_FILE, LimitSets
from mailfarm.accounts.limit_sets import read as read_limits
from mailfarm.config import ALL, STORES, Address, Settings
from mailfarm.errors import ConfigurationError, MailfarmError, Temporary
from mailfarm.ids import Ids
from mailfarm.inbound.capture import DefaultMailbox
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.feed import Feeds
from mailfarm.net.http import Status, status_site
from mailfarm.net.tls import KeyPair, ServerTls, dev_certificate
from mailfarm.net.turns import Turns

from .background import clock, spawn
from .furnishing import furnish
from .rooms import Rooms, endpoint
from .steps import Step, Steps
from .stores import Stores

EMBEDDED_ACCOUNT = "dev"
LOOK = 2.0
"""Seconds between two looks for changes the bus did not tell of."""
AGAIN = 0.5
"""Seconds between two looks whether the stores are there, at the start."""
SAY = 5.0
"""Seconds between two lines about it in the log."""

_log = Logger()


class Farm:
    """``services`` in one process. ``folder`` keeps its data; None keeps nothing.

    Making it opens SQLite, where that is used: raises DatabaseUnavailable (in use, locked), SchemaMismatch.
    """

    def __init__(self, settings: Settings, folder: Path | None, reactor: Any, services: Collection[str] = ALL) -> None:
        self.settings = settings
        self.services = frozenset(services)
        self._reactor = reactor
        self._grace = settings.farm.grace
        self._alone = len(self.services) == 1
        self._steps = Steps(reactor)
        self._ends = 0.0
        self.ids = Ids(clock, os.urandom)
        self.registry = _registry()
        self.limits = _limits(settings.farm.limits)
        self.stores = Stores(
            settings,
            folder,
            self.ids,
            reactor,
            self.registry,
            name=next(iter(self.services)) if self._alone else "dev",
            uses={store for word in self.services for store in STORES[word].split()},
            shows={"queue"} if "api" in self.services and settings.farm.queue_url else (),
        )
        self.folder = self.stores.folder
        self.domains = Domains(
            tuple(name for name in settings.farm.domains if name != "*"), any="*" in settings.farm.domains
        )
        self.status = Status(self.registry, self.stores.checks, reactor, hints=self.stores.hints)
        self.status.starting = "it has just begun"
        self._status_at: Address | None = None
        self._status_port: Any = None
        self.stuck: Callable[[str], None] = lambda why: None
        """Told why the process should end: something in it cannot be ended but with it."""
        self.tls: ServerTls | None = None
        self.mx: Any = None
        self.submission: Any = None
        self.api: Any = None
        self.live: Any = None

    async def start(self) -> bool:
        """Start everything; False if it was stopped meanwhile. Raises MailfarmError, in one sentence a line, and has
        stopped what was started then."""
        try:
            await self._begin()
        except BaseException:
            if self.status.stopping:
                return False  # what goes away while we go away is no news
            await self.stop()
            raise
        if self._steps.down:
            return False
        self.status.starting = ""
        return True

    async def _begin(self) -> None:
        if self._alone:
            await self._steps.up(Step("status", self._serve_status, self._stop_status))
        await self._steps.up(*self.stores.steps)
        default = await self._patiently(self._look_and_furnish)
        if default is None:
            return
        self.tls = self._server_tls()
        rooms = Rooms(
            settings=self.settings,
            stores=self.stores,
            ids=self.ids,
            reactor=self._reactor,
            registry=self.registry,
            domains=self.domains,
            limits=self.limits,
            feeds=Feeds(self.stores.database, self.stores.bus, spawn, Turns(self._reactor).next),
            default=default,
            tls=self.tls,
            incoming=self._incoming(),
            grace=self._grace,
            stuck=lambda why: self.stuck(why),
        )
        await self._steps.up(*self._make(rooms))

    async def _look_and_furnish(self) -> DefaultMailbox:
        await self.stores.look()
        inbox = f"inbox@{self.domains.default}"
        if self.services.isdisjoint({"mx", "submission", "api", "live"}):
            return DefaultMailbox("", inbox)  # workers go by what is in the queue and the database
        api, farm = self.settings.api, self.settings.farm
        return await furnish(
            self.stores.database,
            self.stores.bus,
            self.ids,
            account=farm.account if farm.database_url else EMBEDDED_ACCOUNT,
            first_token=api.first_token if "api" in self.services else "",
            inbox=inbox,
        )

    async def _patiently(self, work: Callable[[], Awaitable[DefaultMailbox]]) -> DefaultMailbox | None:
        """What ``work`` gives, tried until it raises nothing temporary; None when the service is stopped."""
        said, said_at = "", 0.0
        while not self._steps.down:
            try:
                return await work()
            except Temporary as error:
                if not self.settings.farm.database_url and not self.settings.farm.queue_url:
                    raise  # SQLite is here or nowhere
                self.status.starting = f"waiting for {error}"
            now = self._reactor.seconds()
            if self.status.starting != said or now - said_at >= SAY:
                _log.warn("{waiting}", waiting=self.status.starting)
                said, said_at = self.status.starting, now
            await self._steps.pause(AGAIN)
        return None

    def _make(self, rooms: Rooms) -> list[Step]:
        """The services' steps, in the order of their start."""
        steps: list[Step] = []
        if self.stores.spool is not None:
            draining = rooms.spool()
            steps.append(Step("spool", draining.start, lambda: draining.stop(self._left())))
        inbound = rooms.inbound() if "inbound" in self.services else None
        if inbound is not None:
            steps.append(Step("inbound", inbound.start, inbound.stop))
        if "sweep" in self.services:
            sweep = rooms.sweep()
            steps.append(Step("sweep", sweep.start, sweep.stop))
        if not self.services.isdisjoint({"api", "live"}):
            looking = LoopingCall(lambda: spawn(self._look(rooms.feeds)))
            looking.clock = self._reactor

            async def look_from_now_on() -> None:
                looking.start(LOOK, now=False)

            async def look_no_more() -> None:
                looking.stop()

            steps.append(Step("feeds", look_from_now_on, look_no_more))
        # metrics and reasons are for us, and these ports for everybody, unless there is no other
        pages = self.status.public() if self._alone and self.settings.farm.status_listen else self.status
        if "live" in self.services:
            self.live = live = rooms.live(pages)
            steps.append(Step("live", self._listening("MAILFARM_LIVE_LISTEN", live.start), live.stop))
        if "api" in self.services:
            websocket: Any = None if self.live is None else self.live.resource
            shared = not self.services.isdisjoint({"mx", "submission"})
            self.api = rooms.api(pages, websocket, lambda: self.where()["smtp"], shared=shared)
            steps.append(Step("api", self._listening("MAILFARM_API_LISTEN", self.api.start), self.api.stop))
        intake = rooms.intake(inbound)
        if "submission" in self.services:
            self.submission = rooms.submission(intake)
        if "mx" in self.services:
            self.mx = rooms.mx(intake)
        if self.mx or self.submission:
            steps.append(Step("listeners", self._listen, self._drain))
        return steps

    async def _listen(self) -> None:
        begun: list[Any] = []
        try:
            for service in self._smtp:
                await service.start()
                begun.append(service)
        except BaseException:
            for service in begun:
                await service.stop(0.0)
            raise

    async def _drain(self) -> None:
        """All at once, or the grace would pass twice."""
        both = [Deferred.fromCoroutine(service.stop(self._grace)) for service in self._smtp]
        await gatherResults(both, consumeErrors=True)

    @property
    def _smtp(self) -> list[Any]:
        return [service for service in (self.submission, self.mx) if service is not None]

    async def stop(self) -> None:
        """Stop everything, the listeners first. What fails to stop is logged and does not keep the rest from it.

        From here on ``/healthz`` says 503. What listens goes on for ``MAILFARM_LINGER`` seconds, so that a proxy has
        seen that and sends nobody any more when the ports close.
        """
        serving = self.status.state == "serving"
        self._ends = self._reactor.seconds() + self.settings.farm.linger + self._grace
        self.status.stop()
        self._steps.go_down()
        if serving and (self._smtp or self.api or self.live):
            await self._steps.pause(self.settings.farm.linger)
        await self._steps.down_all()

    def _left(self) -> float:
        """Seconds of the grace that are left."""
        return max(1.0, self._ends - self._reactor.seconds())

    def hurry(self) -> None:
        """Wait for nobody any more: sessions, requests and waits are cut."""
        self._steps.hurry()

    def reload(self) -> None:
        """Read the certificate again, for new connections."""
        if self.tls is not None:
            self.tls.reload()

    def where(self) -> dict[str, Any]:
        """What listens where, as ``--json`` says it."""
        smtp = {} if self.submission is None else self.submission.listening
        mx = {} if self.mx is None else self.mx.listening
        return {
            "http": _url("http", self.api),
            "smtp": {word: str(listening) for word, listening in smtp.items()},
            "mx": next((str(listening) for listening in mx.values()), None),
            "live": _url("ws", self.live),
            "status": f"http://{self._status_at}" if self._status_at else None,
            "data": None if self.folder is None else str(self.folder),
        }

    async def _serve_status(self) -> None:
        listen = self.settings.farm.status_listen
        if listen is not None:

            async def start() -> None:
                site = status_site(self.status, here_alone=listen.loopback)
                self._status_port = await endpoint(self._reactor, listen).listen(site)

            await self._listening("MAILFARM_STATUS_LISTEN", start)()
            here = self._status_port.getHost()
            self._status_at = Address(here.host, here.port)

    async def _stop_status(self) -> None:
        if self._status_port is not None:
            await self._status_port.stopListening()

    def _listening(self, setting: str, start: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
        """The same, but an address that cannot be taken is a sentence that names the setting."""

        async def listen() -> None:
            try:
                await start()
            except CannotListenError as error:
                why = getattr(error.socketError, "strerror", None) or str(error.socketError)
                where = Address(error.interface or "", error.port)
                raise ConfigurationError(
                    [f"cannot listen on {where}: {why}. Stop what holds it, or set {setting} to another address"]
                ) from None

        return listen

    def _server_tls(self) -> ServerTls | None:
        farm = self.settings.farm
        if self.services.isdisjoint({"mx", "submission"}):
            return None
        if farm.certificate:
            return ServerTls(KeyPair(Path(farm.certificate), Path(farm.key)))
        if self._alone or self.folder is None:
            return None
        return ServerTls(dev_certificate(self.folder, farm.hostname, datetime.now(UTC)))

    def _incoming(self) -> Path | None:
        """The folder for large content while it comes in; None is the system's for temporary files."""
        if self.folder is None or self.services.isdisjoint({"mx", "submission"}):
            return None
        incoming = self.folder / "incoming"
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return incoming

    async def _look(self, feeds: Feeds) -> None:
        try:
            await feeds.look()
        except MailfarmError as error:
            _log.warn("could not look for changes: {error}", error=str(error))


def _url(scheme: str, service: Any) -> str | None:
    listening = [] if service is None else service.listening
    return f"{scheme}://{Address(listening[0].host, listening[0].port)}" if listening else None


def _limits(path: str) -> LimitSets:
    """The limit sets in a file. Raises ConfigurationError."""
    if not path:
        return WITHOUT_A_FILE
    try:
        return read_limits(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigurationError([f"MAILFARM_LIMITS: cannot read {path}: {why}"]) from None


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    build = Gauge("mailfarm_build", "The version that runs", ("version",), registry=registry)
    build.labels(__version__).set(1)
    return registry
