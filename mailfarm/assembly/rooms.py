"""The services, each made of just what it needs. Making one opens nothing: see ``farm`` for when they start.

A service's module is loaded when it is made: mx by itself has neither a web framework nor WebSockets in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry

from mailfarm import __version__
from mailfarm.accounts.limit_sets import LimitSets
from mailfarm.config import Address, Settings
from mailfarm.ids import Ids
from mailfarm.inbound.accept import Intake
from mailfarm.inbound.capture import DefaultMailbox
from mailfarm.inbound.spooling import SpoolingIntake
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.feed import Feeds
from mailfarm.net.fast_tcp import FastEndpoint
from mailfarm.net.tls import ServerTls

from .background import clock, spawn
from .stores import Stores

if TYPE_CHECKING:
    from mailfarm.services.api import Api
    from mailfarm.services.inbound import Inbound
    from mailfarm.services.live import Live
    from mailfarm.services.mx import Mx
    from mailfarm.services.spool import Spool
    from mailfarm.services.submission import Submission
    from mailfarm.services.sweep import Sweep


@dataclass(frozen=True, slots=True)
class Rooms:
    """What services are made of. ``tls`` and ``incoming`` (a folder for large content) may be None; ``grace`` is
    seconds. ``stuck`` is told why the process should end."""

    settings: Settings
    stores: Stores
    ids: Ids
    reactor: Any
    registry: CollectorRegistry
    domains: Domains
    limits: LimitSets
    feeds: Feeds
    default: DefaultMailbox
    tls: ServerTls | None
    incoming: Path | None
    grace: float
    stuck: Callable[[str], None]

    def intake(self, inbound: Inbound | None) -> Intake:
        """Where mail goes that is accepted: to be filed at once where this process has all for it, else the queue,
        with the local spool in front of it if there is one."""
        if self.stores.gathering is None or inbound is None:
            spool = self.stores.spool
            intake: Intake = self.stores.queue if spool is None else SpoolingIntake(self.stores.queue, spool)
            return intake
        from mailfarm.inbound.embedded import FilingIntake

        return FilingIntake(
            queue=self.stores.queue,
            database=self.stores.gathering,
            bus=self.stores.bus,
            ids=self.ids,
            host=inbound,
        )

    def mx(self, intake: Intake) -> Mx:
        """Raises ConfigurationError."""
        from mailfarm.services.mx import Mx

        account = self.default.account
        return Mx(
            settings=self.settings.mx, domains=self.domains, owner=lambda domain: account, queue=intake, **self._smtp
        )

    def submission(self, intake: Intake) -> Submission:
        """Raises ConfigurationError."""
        from mailfarm.services.submission import Submission

        return Submission(settings=self.settings.submission, queue=intake, **self._smtp)

    def inbound(self) -> Inbound:
        from mailfarm.services.inbound import Inbound

        queue, stuck = self.stores.queue, self.stuck
        return Inbound(settings=self.settings.inbound, queue=queue, clock=clock, stuck=stuck, **self._common)

    def spool(self) -> Spool:
        """Only where ``stores`` has one."""
        from mailfarm.services.spool import Spool

        assert self.stores.spool is not None
        return Spool(disk=self.stores.spool, queue=self.stores.queue, reactor=self.reactor)

    def sweep(self) -> Sweep:
        from mailfarm.services.sweep import Sweep

        return Sweep(settings=self.settings.sweep, **self._common)

    def live(self, status: Any) -> Live:
        """``status`` is a resource with the pages about the process, or None."""
        from mailfarm.services.live import Live

        live = self.settings.live
        return Live(
            endpoints=_endpoints(self.reactor, live.listen),
            incident=self.ids.new,
            max_connections=live.max_connections,
            heartbeat=live.heartbeat,
            status=status,
            **self._web,
        )

    def api(self, status: Any, websocket: Any, smtp: Callable[[], Mapping[str, str]], *, shared: bool) -> Api:
        """``websocket`` is what `live` has in this process, or None; ``smtp`` says where mail is captured; ``shared``
        whether this process has listeners."""
        from mailfarm.services.api import Api

        api = self.settings.api
        return Api(
            endpoints=_endpoints(self.reactor, api.listen),
            ids=self.ids,
            domains=self.domains,
            random=os.urandom,
            version=__version__,
            inbox=self.default.address,
            queue=self.stores.queue,
            clock=clock,
            smtp=smtp,
            max_waits=api.max_waits,
            shared=shared,
            max_connections=api.max_connections,
            grace=min(5.0, self.grace),
            status=status,
            websocket=websocket,
            web=Path(str(resources.files("mailfarm") / "web")),
            **self._web,
        )

    @property
    def _common(self) -> dict[str, Any]:
        return {
            "database": self.stores.database,
            "bus": self.stores.bus,
            "ids": self.ids,
            "reactor": self.reactor,
            "registry": self.registry,
        }

    @property
    def _smtp(self) -> dict[str, Any]:
        farm = self.settings.farm
        return {
            **self._common,
            "hostname": farm.hostname,
            "max_size": farm.max_size,
            "limiter": self.stores.limiter,
            "limits": self.limits,
            "clock": clock,
            "tls": self.tls,
            "folder": self.incoming,
            "default": self.default,
        }

    @property
    def _web(self) -> dict[str, Any]:
        api = self.settings.api
        return {
            "database": self.stores.database,
            "bus": self.stores.bus,
            "feeds": self.feeds,
            "spawn": spawn,
            "reactor": self.reactor,
            "registry": self.registry,
            "account": None if api.auth == "token" else self.default.account,
            "hosts": api.hosts,
            "limiter": self.stores.limiter,
            "limits": self.limits,
            "forwarded_from": api.forwarded_from,
        }


def endpoint(reactor: Any, address: Address) -> Any:
    """Where to listen, for HTTP."""
    return FastEndpoint(reactor, "127.0.0.1" if address.host == "localhost" else address.host, address.port)


def _endpoints(reactor: Any, address: Address | None) -> list[Any]:
    return [] if address is None else [endpoint(reactor, address)]
