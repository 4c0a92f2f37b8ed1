"""The service: the Site of the API, where it listens, and how it stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.web.resource import IResource
from twisted.web.resource import Resource as WebResource

from mailfarm.accounts.allowance import SetOf
from mailfarm.accounts.limit_sets import WITHOUT_A_FILE, LimitSets
from mailfarm.ids import Ids
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.feed import Feeds, Spawn
from mailfarm.net.forwarded import Forwarded
from mailfarm.net.hosts import Hosts
from mailfarm.ports import Bus, Database, Limiter
from mailfarm.ports import Queue as QueuePort

from .about import About
from .access import Access
from .content import Contents
from .counting import Counts
from .events import Events
from .guard import guarded_site
from .line import Line
from .mailboxes import Mailboxes
from .messages import Messages
from .openapi import document
from .queue import Queue
from .rates import Rates
from .refusals import RefusalLog, Refusals
from .rest import Rest
from .routes import Resource, operations
from .session import Sessions
from .site import Root, put_together
from .slots import Slots
from .sse import Streams
from .static import Static
from .tokens import Tokens
from .wait import Waits

RESOURCES: tuple[type[Resource], ...] = (
    About,
    Mailboxes,
    Messages,
    Contents,
    Events,
    Waits,
    Refusals,
    Queue,
    Sessions,
    Tokens,
)


def _clock() -> int:
    return time.time_ns() // 1000


class Api:
    """REST and the web inbox.

    ``account`` is whose everything is where nobody signs in; None asks for a token. ``hosts`` are names besides the
    loopback ones. ``websocket`` is mounted at ``/v1/events``; ``web`` is the folder of the inbox.
    ``status`` has pages about the process as children, all or some. ``random`` gives random bytes (``os.urandom``),
    ``spawn`` runs a coroutine in the background. Without a ``limiter`` nothing is limited; ``forwarded_from`` are the
    networks whose X-Forwarded-For is believed. Calling ``feeds.look`` is others' job.
    ``shared``: the process has listeners too, so requests stand in ``line``.
    Without a ``queue`` what is below ``/v1/queue`` answers 503; ``clock`` gives microseconds since 1970.
    """

    def __init__(
        self,
        *,
        endpoints: Sequence[Any],
        database: Database,
        bus: Bus,
        feeds: Feeds,
        spawn: Spawn,
        ids: Ids,
        domains: Domains,
        random: Callable[[int], bytes],
        account: str | None,
        reactor: Any,
        version: str,
        smtp: Callable[[], Mapping[str, str]] = dict,
        inbox: str = "",
        hosts: Sequence[str] = (),
        max_waits: int = 10_000,
        max_connections: int = 20_000,
        grace: float = 5.0,
        registry: CollectorRegistry | None = None,
        status: WebResource | None = None,
        websocket: IResource | None = None,
        web: Path | None = None,
        limiter: Limiter | None = None,
        limits: LimitSets = WITHOUT_A_FILE,
        forwarded_from: Iterable[IPv4Network | IPv6Network] = (),
        queue: QueuePort | None = None,
        shared: bool = False,
        clock: Callable[[], int] = _clock,
    ) -> None:
        self.listening: list[Any] = []
        self._endpoints = endpoints
        self._ports: list[Any] = []
        self._reactor = reactor
        self._grace = grace
        self._slots = Slots(max_waits)
        self._refusals = RefusalLog(bus)
        registry = registry or CollectorRegistry()
        counts = Counts(registry)
        forwarded = Forwarded(forwarded_from)
        rates = Rates(limiter, limits, SetOf(limits, database), forwarded)
        self.access = access = Access(database, bus, account, rates, forwarded, reactor, registry)
        about = About(access, version, lambda: self._slots.stopping, smtp, inbox)
        resources = (
            about,
            Mailboxes(access, database, bus, ids, domains, random),
            Messages(access, database, bus, ids, reactor),
            Contents(access, database, reactor),
            Events(access, database, Streams(access, feeds, self._slots, counts, reactor)),
            Waits(access, database, feeds, spawn, self._refusals, self._slots, counts, reactor),
            Refusals(access, database, self._refusals),
            Queue(access, queue, clock),
            Sessions(access, database, bus, ids, random),
            Tokens(access, database, bus, ids, random),
        )
        pages = {} if status is None else {b"/" + name: page for name, page in status.children.items()}
        self.document = about.document = document(
            operations(resources), version, status=[path.decode() for path in pages], websocket=websocket is not None
        )
        line = Line(reactor, registry) if shared else None
        root = Root(
            Rest(put_together(resources, counts, ids.new, line), ids.new),
            None if web is None else put_together((Static(web),), counts, ids.new),
            websocket,
            pages,
        )
        self.site = guarded_site(
            root, Hosts(hosts), lambda: self._slots.stopping, reactor, most=max_connections, registry=registry
        )

    async def start(self) -> None:
        """Listen. Raises twisted's CannotListenError."""
        await self.access.start()
        await self._refusals.start()
        for endpoint in self._endpoints:
            port = await endpoint.listen(self.site)
            self._ports.append(port)
            self.listening.append(port.getHost())

    async def stop(self) -> None:
        """Listen no more, end waits and streams, let other requests finish within the grace, then close."""
        for port in self._ports:
            await port.stopListening()
        self._ports.clear()
        self._slots.stop()
        await self.site.drain(self._grace)
        self._refusals.stop()
        self.access.stop()
