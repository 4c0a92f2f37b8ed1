"""Which names we answer to, and which web pages may talk to us.

A page anywhere on the web can make its visitor's browser send requests to 127.0.0.1. What it cannot do is choose their
Host (unless its own name is made to point at us: DNS rebinding), leave out their Origin where the browser sends one,
or change their Sec-Fetch headers. So all three are checked on every request, HTTP and WebSocket alike.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?)\.?(?::([0-9]{1,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def split_host(text: str) -> tuple[str, str] | None:
    """A Host header's name, lower case and without a final dot, and its port or ``""`` (RFC 9110 §7.2). None if it is
    not one."""
    found = _HOST.fullmatch(text.strip().lower())
    return None if found is None else (found[1], found[2] or "")


class Hosts:
    """The names by which we may be reached. Any port will do: which one a container or proxy maps is not ours to know.

    ``names`` are added to the loopback names; an IPv6 address may be given with or without brackets.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._names = set(LOOPBACK)
        for name in names:
            bracketed = f"[{name}]" if ":" in name and not name.startswith("[") else name
            self._names.add(bracketed.lower().rstrip("."))

    def ours(self, host: str | None) -> bool:
        """Whether a request with this Host header is meant for us."""
        parts = split_host(host or "")
        return parts is not None and parts[0] in self._names

    def same_origin(self, origin: str, host: str) -> bool:
        """Whether ``origin`` (RFC 6454 §7) is the one of a page we served under ``host``.

        The scheme may be http or https whatever we see ourselves: TLS may end at a proxy in front of us. Another port
        of the same machine is another origin, and so is ``null``.
        """
        scheme, _, rest = origin.strip().partition("://")
        theirs, ours = split_host(rest), split_host(host)
        if theirs is None or ours is None or scheme not in _DEFAULT_PORTS:
            return False
        default = _DEFAULT_PORTS[scheme]
        return theirs[0] == ours[0] and (theirs[1] or default) == (ours[1] or default)
