"""The service: its settings, what its sessions share, where it listens and how it stops."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailfarm.accounts.allowance import SetOf, again
from mailfarm.accounts.limit_sets import WITHOUT_A_FILE, LimitSets
from mailfarm.config import Address as ListenAddress
from mailfarm.config import MxSettings
from mailfarm.errors import ConfigurationError
from mailfarm.ids import Ids
from mailfarm.inbound.accept import Accept, Intake
from mailfarm.inbound.capture import DefaultMailbox
from mailfarm.inbound.pressure import Pressure
from mailfarm.inbound.refusals import Refusals
from mailfarm.inbound.shares import Shares
from mailfarm.mail.address import domain_key
from mailfarm.mailboxes.addresses import Domains
from mailfarm.net.clients import Door
from mailfarm.net.incoming_room import IncomingRoom
from mailfarm.net.lookups import lookup_counter
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.tls import ServerTls
from mailfarm.ports import Bus, Database, Limiter
from mailfarm.smtp.server import Deadlines, ServerConfig

from .directory import Directory
from .folding import Folding
from .session import MxSession

SERVICE: Final = "mx"


class Mx:
    """The service. ``domains`` are ours; ``owner`` gives the account that owns a domain, or empty: it may see what was
    refused for addresses there. ``default`` takes mail for a postmaster without a mailbox. ``clock`` gives
    microseconds; ``folder`` takes large content while it comes in."""

    def __init__(
        self,
        *,
        settings: MxSettings,
        hostname: str,
        max_size: int,
        domains: Domains,
        owner: Callable[[str], str],
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
        limits: LimitSets = WITHOUT_A_FILE,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - frozen
        caps: Caps = Caps(),  # noqa: B008 - frozen
    ) -> None:
        self.log = Logger(namespace="mailfarm.mx")
        self.owner = owner
        self.domains = frozenset(domain_key(name) for name in domains.names)
        self.default_domain = domains.default
        room = IncomingRoom(folder, largest=max_size)

        def pause(seconds: float) -> Awaitable[None]:
            return deferLater(reactor, seconds)

        counted = registry if settings.listen is not None else CollectorRegistry()
        pressure = Pressure(SERVICE, reactor.seconds, counted, lambda text: self.log.warn("{text}", text=text))
        try:
            self.accept = Accept(queue, ids, clock, hostname, self._trouble, pressure, room.check, pause)
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_HOSTNAME: {error}"]) from None
        self.refusals = Refusals(bus, ids, clock, SERVICE)
        client = limits.client
        self.door = Door(SERVICE, hostname, limiter, client.connections, client.sessions, again, pressure.may_come)
        self.shares = Shares(SERVICE, limiter, limits, SetOf(limits, database))
        counter = lookup_counter(counted, SERVICE)
        self.folding = Folding(reactor.seconds, registry) if settings.fold and settings.listen is not None else None
        self.directory = Directory(database, bus, ids, default, self.ours, reactor, clock, counter)
        self._listener: Listener | None = None
        if settings.listen is None:
            return
        try:
            config = ServerConfig(
                hostname=hostname,
                max_size=max_size,
                max_recipients=settings.max_recipients,
                starttls=settings.starttls and tls is not None,
                deadlines=deadlines,
            )
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_MX_MAX_RECIPIENTS, MAILFARM_MAX_SIZE: {error}"]) from None
        factory = SMTPFactory(
            config,
            lambda connection: MxSession(self, connection),
            reactor,
            SMTPMetrics(registry, SERVICE),
            log=self.log,
            caps=caps.with_sessions(settings.max_connections),
            tls=tls,
            room=room,
        )
        self._listener = Listener(
            settings.listen,
            factory,
            setting="MAILFARM_MX_LISTEN",
            proxy_from=settings.proxy_from,
            proxy_v1=settings.proxy_v1,
        )

    @property
    def listening(self) -> dict[str, ListenAddress]:
        """Where it listens, once started, by "mx"; empty if it is off."""
        return {} if self._listener is None else {SERVICE: self._listener.address}

    async def start(self) -> None:
        """Listen. Raises ConfigurationError."""
        if self._listener is not None:
            await self.directory.start()
            try:
                await self._listener.start()
            except ConfigurationError:
                self.directory.stop()
                raise

    async def stop(self, grace: float = 25.0) -> None:
        """Drain: running transactions have ``grace`` seconds."""
        if self._listener is not None:
            await self._listener.stop(grace)
        self.directory.stop()

    def ours(self, domain: str) -> bool:
        """Whether mailboxes may be at ``domain``, so that an address there is unknown rather than elsewhere."""
        return domain_key(domain) in self.domains

    def _trouble(self, what: str, error: Exception) -> None:
        self.log.error("{what}: {error!r}", what=what, error=error)
