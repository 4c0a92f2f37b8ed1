"""Clients as limits see them: by address, and by network for IPv6, where one client has 2^64 addresses.

Clients on loopback are not limited by address: on a developer's machine everybody is 127.0.0.1, and behind a proxy
nobody is.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any

_IPV6_PREFIX = 64


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
