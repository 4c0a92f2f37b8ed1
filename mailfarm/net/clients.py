"""Clients as limits see them: by address, and by network for IPv6, where one client has 2^64 addresses.

Clients on loopback are not limited by address: on a developer's machine everybody is 127.0.0.1, and behind a proxy
nobody is.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from mailfarm.limits import Limit
from mailfarm.mail.reply import Reply
from mailfarm.ports import Charge, Limiter

from .smtp_session import Answer

_IPV6_PREFIX = 64

CONNECTIONS: Final = Limit(600, 60)
"""Connections a client may begin: so many in so many seconds."""
TOO_OFTEN: Final = Reply(421, "4.7.0", "Too many connections from your network; try again in a minute", close=True)


def client_key(client: str) -> str:
    """The address for IPv4, its /64 for IPv6, so that a limiter's key cannot be changed at will."""
    ip = _ip(client)
    return str(ip_network((ip, _IPV6_PREFIX), strict=False)) if isinstance(ip, IPv6Address) else str(ip)


def on_loopback(client: str) -> bool:
    """Whether the client is on this machine."""
    return bool(_ip(client).is_loopback)


def _ip(client: str) -> Any:
    ip = ip_address(client.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


class Door:
    """Greets a client, unless it knocks too often. One for a service."""

    def __init__(self, service: str, hostname: str, limiter: Limiter, limit: Limit = CONNECTIONS) -> None:
        self._key = f"{service}:connect:"
        self._limiter = limiter
        self._limit = limit
        self._welcome = Reply(220, "", f"{hostname} ESMTP mailfarm")

    def answer(self, client: str) -> Answer:
        """220, or 421 4.7.0."""
        return self._welcome if on_loopback(client) else self._count(client)

    async def _count(self, client: str) -> Reply:
        refusal = await self._limiter.charge([Charge(self._key + client_key(client), self._limit)])
        return self._welcome if refusal is None else TOO_OFTEN
