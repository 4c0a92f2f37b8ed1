"""Who really asks, when a proxy of ours stands in front: X-Forwarded-For and X-Forwarded-Proto.

Each proxy adds the address it was asked from at the right end of X-Forwarded-For. So the list is read from the right,
for as long as who added an entry is believed, and the first address that is no proxy of ours is the client. What stands
further left anybody may have written. Who is not listed is the client itself, whatever it says.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any, Final

LONGEST: Final = 100
"""Entries looked at; a longer list is nothing that our proxies make."""


class Forwarded:
    """``trusted`` are the networks of our proxies."""

    def __init__(self, trusted: Iterable[IPv4Network | IPv6Network] = ()) -> None:
        self._trusted = tuple(trusted)

    def client(self, peer: str, fields: Sequence[str]) -> str:
        """The real client's address. ``peer`` is whom the connection is with, ``fields`` the X-Forwarded-For lines in
        the order they came."""
        client = _plain(peer)
        if not self._trusted:
            return client
        for entry in reversed(",".join(fields).split(",")[-LONGEST:]):
            if not self._believes(client):
                break
            address = _address(entry)
            if address is None:
                break  # what cannot be read was written by nobody we believe: stay with the last one that was
            client = address
        return client

    def https(self, peer: str, fields: Sequence[str]) -> bool | None:
        """Whether the proxy was asked over HTTPS; ``fields`` are the X-Forwarded-Proto lines. None if it does not say,
        or is not believed."""
        entries = [entry.strip().lower() for entry in ",".join(fields).split(",") if entry.strip()]
        return entries[-1] in ("https", "wss") if entries and self._believes(_plain(peer)) else None

    def _believes(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self._trusted)


def _plain(peer: str) -> str:
    # an IPv6 socket that takes IPv4 too says ::ffff:192.0.2.1
    peer = peer.partition("%")[0]
    return peer[7:] if peer.lower().startswith("::ffff:") and "." in peer else peer


def _address(entry: str) -> str | None:
    """``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1``, ``[2001:db8::1]:80``; None for anything else."""
    text = entry.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        ip: Any = ip_address(_plain(text))
    except ValueError:
        return None
    return str(ip)
