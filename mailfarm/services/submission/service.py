"""The service: its settings, what its sessions share, where it listens and how it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailfarm.accounts.allowance import SetOf, again
from mailfarm.accounts.guesses import Guesses
from mailfarm.accounts.limit_sets import WITHOUT_A_FILE, LimitSets
from mailfarm.config import Address, SubmissionSettings
from mailfarm.errors import ConfigurationError
from mailfarm.ids import Ids
from mailfarm.inbound.accept import Accept, Intake
from mailfarm.inbound.capture import DefaultMailbox
from mailfarm.inbound.pressure import Pressure
from mailfarm.inbound.refusals import Refusals
from mailfarm.inbound.shares import Shares
from mailfarm.net.clients import Door
from mailfarm.net.incoming_room import IncomingRoom
from mailfarm.net.lookups import lookup_counter
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.tls import ServerTls
from mailfarm.ports import Bus, Database, Limiter
from mailfarm.smtp.config import MECHANISMS
from mailfarm.smtp.server import Deadlines, ServerConfig

from .directory import Directory
from .login import Login
from .session import SubmissionSession

SERVICE: Final = "submission"


class Submission:
    """The service. ``default`` is where open capture files what has no mailbox of its own. ``clock`` gives
    microseconds; ``folder`` takes large content while it comes in. ``plain_auth``: the capture port takes AUTH without
    TLS; None: if it is on loopback."""

    def __init__(
        self,
        *,
        settings: SubmissionSettings,
        hostname: str,
        max_size: int,
        default: DefaultMailbox,
        queue: Intake,
        database: Database,
        bus: Bus,
        limiter: Limiter,
        ids: Ids,
        clock: Callable[[], int],
        reactor: Any,
        registry: CollectorRegistry,
        tls: ServerTls | None = None,
        folder: Path | None = None,
        plain_auth: bool | None = None,
        limits: LimitSets = WITHOUT_A_FILE,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - frozen
        caps: Caps = Caps(),  # noqa: B008 - frozen
    ) -> None:
        self.log = Logger(namespace="mailfarm.submission")
        self.default = default
        room = IncomingRoom(folder, largest=max_size)

        def pause(seconds: float) -> Awaitable[None]:
            return deferLater(reactor, seconds)

        pressure = Pressure(SERVICE, reactor.seconds, registry, lambda text: self.log.warn("{text}", text=text))
        try:
            self.accept = Accept(queue, ids, clock, hostname, self.trouble, pressure, room.check, pause)
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_HOSTNAME: {error}"]) from None
        self.refusals = Refusals(bus, ids, clock, SERVICE)
        client = limits.client
        set_of = SetOf(limits, database)

        def may_come(network: str) -> bool:
            return pressure.may_come("")  # whose mail it is AUTH will say

        self.door = Door(SERVICE, hostname, limiter, client.connections, client.sessions, again, may_come)
        self.shares = Shares(SERVICE, limiter, limits, set_of)
        counter = lookup_counter(registry, SERVICE)
        self.directory = Directory(database, bus, ids, default, reactor, clock, counter)
        guesses = Guesses(SERVICE, limiter, client.failed_auth, client.failed_auth_of_a_user)
        self.login = Login(database, bus, guesses, set_of, reactor, clock, counter)
        self._listeners: dict[str, Listener] = {}
        metrics = SMTPMetrics(registry, SERVICE)
        capture_plain = settings.capture is not None and (
            settings.capture.loopback if plain_auth is None else plain_auth
        )

        def listen(name: str, address: Address | None, *, auth_needed: bool, starttls: bool, implicit: bool) -> None:
            if address is None:
                return
            setting = f"MAILFARM_SUBMISSION_{name.upper()}"
            if tls is None and (starttls or implicit):
                raise ConfigurationError(
                    [f"{setting}: this port needs a certificate; set MAILFARM_CERTIFICATE and MAILFARM_KEY, or off"]
                )
            try:
                config = ServerConfig(
                    hostname=hostname,
                    max_size=max_size,
                    max_recipients=settings.max_recipients,
                    starttls=starttls,
                    auth=MECHANISMS,
                    auth_without_tls=not auth_needed and capture_plain,
                    normalize=settings.normalize,
                    deadlines=deadlines,
                )
            except ValueError as error:
                raise ConfigurationError([f"MAILFARM_SUBMISSION_MAX_RECIPIENTS, MAILFARM_MAX_SIZE: {error}"]) from None
            factory = SMTPFactory(
                config,
                lambda connection: SubmissionSession(self, connection, auth_needed),
                reactor,
                metrics,
                log=self.log,
                caps=caps.with_sessions(settings.max_connections),
                tls=tls if starttls or implicit else None,
                implicit_tls=implicit,
                room=room,
            )
            self._listeners[name] = Listener(
                address, factory, setting=setting, proxy_from=settings.proxy_from, proxy_v1=settings.proxy_v1
            )

        listen("capture", settings.capture, auth_needed=False, starttls=settings.capture_starttls, implicit=False)
        listen("starttls", settings.starttls, auth_needed=True, starttls=True, implicit=False)
        listen("tls", settings.tls, auth_needed=True, starttls=False, implicit=True)

    @property
    def listening(self) -> dict[str, Address]:
        """Where it listens, once started, by "capture", "starttls" and "tls"."""
        return {name: listener.address for name, listener in self._listeners.items()}

    async def start(self) -> None:
        """Listen. Raises ConfigurationError; then no port is open."""
        await self.directory.start()
        await self.login.start()
        for listener in self._listeners.values():
            try:
                await listener.start()
            except ConfigurationError:
                await self.stop(0)
                raise

    async def stop(self, grace: float = 25.0) -> None:
        """Drain: running transactions have ``grace`` seconds, all ports together."""
        for listener in self._listeners.values():
            await listener.stop_listening()
        for ended in [listener.factory.drain(grace) for listener in self._listeners.values()]:
            await ended
        self.directory.stop()
        self.login.stop()

    def trouble(self, what: str, error: Exception) -> None:
        """Log what a client is not told."""
        self.log.error("{what}: {error!r}", what=what, error=error)
