"""Where PostgreSQL is: a URL as libpq knows it, and the addresses behind its host names.

libpq resolves names while everything waits, and tries the next address only after a long time, so names are resolved
here, in a thread, and each address is tried by itself (``hostaddr``; ``host`` stays what the certificate is held
against).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

import psycopg2
from psycopg2.extensions import parse_dsn
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from mailfarm.errors import ConfigurationError, DatabaseUnavailable

_OURS = {
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "15000",
    "gssencmode": "disable",  # its look-ups of tickets block
}
"""What a URL may set otherwise. A server whose machine has died is noticed within 25 seconds also while idle."""


@dataclass(frozen=True, slots=True)
class Server:
    """A database as a URL names it. ``options`` are libpq's, without host, port and password."""

    hosts: tuple[tuple[str, str], ...]
    options: dict[str, str]
    password: str = field(repr=False)

    @classmethod
    def parse(cls, url: str, password: str = "", name: str = "mailfarm") -> Server:
        """``postgresql://user@host:5432/database?sslmode=…``. A ``password`` goes before one in the URL; ``name`` is
        shown in pg_stat_activity. Raises ConfigurationError, whose text repeats nothing of the URL."""
        try:
            if not url.startswith(("postgresql://", "postgres://")):
                raise ValueError("it must begin with postgresql://")
            found: dict[str, str] = parse_dsn(url)
        except (ValueError, psycopg2.Error) as error:
            reason = str(error) if isinstance(error, ValueError) else "it is not a URL as libpq reads one"
            raise ConfigurationError([f"the database's URL cannot be used: {reason}"]) from None
        password = password or found.pop("password", "")
        found.pop("password", None)
        hosts = found.pop("host", "").split(",")
        ports = found.pop("port", "").split(",")
        if len(ports) == 1:
            ports *= len(hosts)
        if len(ports) != len(hosts):
            raise ConfigurationError([f"the database's URL has {len(hosts)} hosts and {len(ports)} ports"])
        # a standby is passed over here, see Link; libpq would not do so for connections that do not block
        found.pop("target_session_attrs", None)
        options = {**_OURS, "application_name": name, **found, "client_encoding": "UTF8"}
        return cls(tuple((host, port or "5432") for host, port in zip(hosts, ports, strict=True)), options, password)

    def __str__(self) -> str:
        where = ",".join(f"{host or 'the local socket'}:{port}" for host, port in self.hosts)
        return f"PostgreSQL at {where}"

    async def ways(self, reactor: Any, within: float) -> list[dict[str, str]]:
        """The arguments of ``psycopg2.connect``, one set for each address, in the order to try them. Raises
        DatabaseUnavailable when no name can be resolved."""
        found: list[dict[str, str]] = []
        errors: list[str] = []
        for host, port in self.hosts:
            base = {**self.options, "port": port}
            if self.password:
                base["password"] = self.password
            if not host or host.startswith(("/", "@")) or "hostaddr" in base:
                found.append({**base, "host": host} if host else base)
                continue
            try:
                addresses = [str(ip_address(host))]
            except ValueError:
                try:
                    addresses = await _resolve(reactor, host, int(port), within)
                except Exception as error:
                    errors.append(f"{host} cannot be resolved ({error})")
                    continue
            found += [{**base, "host": host, "hostaddr": address} for address in addresses]
        if not found:
            raise DatabaseUnavailable("; ".join(errors))
        return found

    def blocking(self, timeout: float) -> dict[str, str]:
        """The same for a connection that may block, as libpq sees to all of it then."""
        hosts, ports = zip(*self.hosts, strict=True)
        made = {**self.options, "port": ",".join(ports), "connect_timeout": str(max(2, int(timeout)))}
        if any(hosts):
            made["host"] = ",".join(hosts)
        if self.password:
            made["password"] = self.password
        return made | {"target_session_attrs": "read-write"}


def _resolve(reactor: Any, host: str, port: int, timeout: float) -> Deferred[list[str]]:
    def look_up() -> list[str]:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))

    looked_up: Deferred[list[str]] = deferToThreadPool(reactor, reactor.getThreadPool(), look_up)
    return looked_up.addTimeout(timeout, reactor)
