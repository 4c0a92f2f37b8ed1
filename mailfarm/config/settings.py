"""Which settings there are, each with its default, as text, and what it does. See the package."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from .spelling import (
    Address,
    Network,
    address,
    count,
    flag,
    hosts,
    name,
    networks,
    one_of,
    positive,
    seconds,
    size,
    words,
)
from .store_urls import cache_url, database_url, masked, queue_urls


def shown(text: str) -> str:
    """A URL in quotes, its password hidden."""
    return repr(masked(text))


def setting(
    default: str,
    help: str,
    parse: Callable[[str], Any] = str,
    *,
    secret: bool = False,
    show: Callable[[str], str] | None = None,
) -> Any:
    """A field of a settings class. ``default`` is text, as the variable would say it, and goes through ``parse``.
    ``show`` makes of a value what may be told of it, where a part is secret."""
    return field(
        default_factory=lambda: parse(default),
        metadata={"default": default, "help": help, "parse": parse, "secret": secret, "show": show},
        repr=not secret and show is None,
    )


@dataclass(frozen=True, slots=True)
class FarmSettings:
    """What all services share: ``MAILFARM_…``."""

    data: str = setting(
        "",
        "folder for what comes in and, in dev, for the database and certificates; empty: $XDG_DATA_HOME/mailfarm in "
        "dev, a folder in /tmp for a service by itself",
    )
    hostname: str = setting("localhost", "our name in greetings, EHLO and Received")
    domains: tuple[str, ...] = setting(
        "mailfarm.test *", "domains mailboxes may be in, the first for new ones; * allows any other", words
    )
    max_size: int = setting("50M", "largest message, octets", positive(size))
    reserve: int = setting("64M", "free disk space below which mail is answered 452 before DATA, octets", size)
    backlog: int = setting(
        "100000", "entries a queue, or a spool, may hold; beyond it mail is answered 452", positive(count)
    )
    backlog_age: float = setting(
        "60",
        "seconds mail may wait for its filing while workers are at work; beyond it each credential, or network, is let "
        "in with its share and the rest answered 451 4.3.2; 0: only the caps count",
        seconds,
    )
    spool: str = setting(
        "",
        "folder on this machine's disk in which mx and submission keep mail while no shard of the queue takes it, and "
        "from which it goes into the queue later; empty: such mail is answered 451",
    )
    log: str = setting("json", "json (one object a line) or text", one_of("json", "text"))
    log_level: str = setting("info", "debug, info, warn or error", one_of("debug", "info", "warn", "error"))
    grace: float = setting("25", "seconds running transactions may take after SIGTERM", seconds)
    certificate: str = setting("", "PEM file with the TLS certificate chain; empty in dev: one is made")
    key: str = setting("", "PEM file with its private key")
    account: str = setting("main", "the account all is in that has no other; with SQLite it is always dev", name)
    database_url: str = setting(
        "", "where Postgres is, as postgresql://user@host:5432/database; empty: SQLite", database_url, show=shown
    )
    database_password: str = setting("", "password for Postgres", secret=True)
    queue_url: tuple[str, ...] = setting(
        "",
        "where the queue is, as redis://host:6379, rediss://user@host:6379 or redis+sentinel://h1:26379;h2:26379/name; "
        "several, parted by commas, are shards; empty: SQLite",
        queue_urls,
        show=shown,
    )
    queue_password: str = setting("", "password for the queue's Redis, all shards", secret=True)
    cache_url: str = setting(
        "", "the Redis for limits and for telling other processes of changes; empty: memory", cache_url, show=shown
    )
    cache_password: str = setting("", "password for the cache's Redis", secret=True)
    redis_ca: str = setting("", "PEM file with the authority that signed the certificates behind rediss://")
    store_timeout: float = setting(
        "5", "seconds Redis may take for an answer before it counts as away", positive(seconds)
    )
    limits: str = setting("", "TOML file with named sets of limits, one for each account")
    status_listen: Address | None = setting(
        "127.0.0.1:8080",
        "where a service by itself serves /healthz, /readyz and /metrics, or off; dev serves them with the API",
        address,
    )
    linger: float = setting(
        "0", "seconds after SIGTERM for which everything is still accepted while /healthz says 503", seconds
    )
    poll: str = setting(
        "lean",
        "on Linux, lean or stock: how what comes in is handed out; stock is Twisted's own way",
        one_of("lean", "stock"),
    )


@dataclass(frozen=True, slots=True)
class MxSettings:
    """``MAILFARM_MX_…``."""

    listen: Address | None = setting("127.0.0.1:1125", "where to take mail from the internet, or off", address)
    proxy_from: tuple[Network, ...] = setting("", "networks whose connections begin with a PROXY header", networks)
    proxy_v1: bool = setting("no", "also understand version 1 of the PROXY protocol", flag)
    starttls: bool = setting("yes", "offer STARTTLS", flag)
    max_connections: int = setting("10000", "open sessions; above it 421 4.3.2", positive(count))
    max_recipients: int = setting("1000", "recipients a transaction; past it 452 4.5.3", positive(count))
    fold: bool = setting("no", "mail that a client sends again as it never heard our 250 is the first one", flag)


@dataclass(frozen=True, slots=True)
class SubmissionSettings:
    """``MAILFARM_SUBMISSION_…``."""

    capture: Address | None = setting("127.0.0.1:1025", "open capture: no credential needed, or off", address)
    starttls: Address | None = setting("127.0.0.1:1587", "submission with STARTTLS and AUTH, or off", address)
    tls: Address | None = setting("127.0.0.1:1465", "submission with implicit TLS and AUTH, or off", address)
    capture_starttls: bool = setting(
        "no", "offer STARTTLS on the open capture port; many clients then insist on a certificate they trust", flag
    )
    proxy_from: tuple[Network, ...] = setting("", "networks whose connections begin with a PROXY header", networks)
    proxy_v1: bool = setting("no", "also understand version 1 of the PROXY protocol", flag)
    normalize: bool = setting("no", "rewrite bare line feeds of captured mail to CR LF instead of refusing them", flag)
    max_connections: int = setting("10000", "open sessions; above it 421 4.3.2", positive(count))
    max_recipients: int = setting("1000", "recipients a transaction; past it 452 4.5.3", positive(count))


@dataclass(frozen=True, slots=True)
class InboundSettings:
    """``MAILFARM_INBOUND_…``."""

    batch: int = setting("100", "entries taken from the queue at once", positive(count))
    lease: float = setting("60", "seconds until another worker may take an entry", positive(seconds))


@dataclass(frozen=True, slots=True)
class SweepSettings:
    """``MAILFARM_SWEEP_…``."""

    interval: float = setting("5", "seconds between two looks for what has expired", positive(seconds))


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """``MAILFARM_API_…``."""

    listen: Address | None = setting("127.0.0.1:8025", "where to serve HTTP, or off", address)
    hosts: tuple[str, ...] = setting("", "names besides localhost by which browsers may reach us", hosts)
    auth: str = setting("none", "none (loopback only) or token", one_of("none", "token"))
    first_token: str = setting("", "a token made valid at start, with every scope, when auth is token", secret=True)
    max_connections: int = setting("20000", "open connections of HTTP, WebSockets aside; above it 503", positive(count))
    max_waits: int = setting("10000", "waits and event streams open at once; above it 503", positive(count))
    forwarded_from: tuple[Network, ...] = setting("", "networks of proxies whose X-Forwarded-For is believed", networks)


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """``MAILFARM_LIVE_…``."""

    listen: Address | None = setting(
        "off", "where to serve WebSockets, or off: then the API does, if it runs in the same process", address
    )
    max_connections: int = setting(
        "20000", "open WebSockets, and connections on a port of their own; above it 503", positive(count)
    )
    heartbeat: float = setting(
        "30", "seconds between pings; a client silent for two of them is dropped", positive(seconds)
    )


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """``MAILFARM_SPOOL_…``."""

    size: int = setting("1G", "octets a process may keep in the spool; beyond it mail is answered 452", positive(size))


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set."""

    farm: FarmSettings = field(default_factory=FarmSettings)
    mx: MxSettings = field(default_factory=MxSettings)
    submission: SubmissionSettings = field(default_factory=SubmissionSettings)
    inbound: InboundSettings = field(default_factory=InboundSettings)
    sweep: SweepSettings = field(default_factory=SweepSettings)
    api: ApiSettings = field(default_factory=ApiSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    spool: SpoolSettings = field(default_factory=SpoolSettings)


GROUPS: dict[str, type] = get_type_hints(Settings)
"""The settings of the farm and of each service, by its word."""
