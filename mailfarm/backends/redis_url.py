"""Redis URLs: where a server is, how to sign in, and which master the sentinels watch.

::

    redis://[user[:password]@]host[:6379][/database]
    rediss://…                                                 the same over TLS, certificate and host name checked
    redis+sentinel://[user@]host[:26379];host…/master[/database]     rediss+sentinel:// likewise

Everything after ``@`` may be shown to anyone; a password never is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

REDIS_PORT = 6379
SENTINEL_PORT = 26379

_SCHEMES = {
    "redis": (False, False),
    "rediss": (True, False),
    "redis+sentinel": (False, True),
    "rediss+sentinel": (True, True),
}
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]*[A-Za-z0-9_.])?)(?::([0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL in its parts. ``hosts`` is one server, or the sentinels of ``master`` when that is not empty."""

    hosts: tuple[tuple[str, int], ...]
    tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    database: int = 0
    master: str = ""

    def with_password(self, password: str) -> RedisUrl:
        """The same with another password; an empty one changes nothing."""
        return replace(self, password=password) if password else self

    def __str__(self) -> str:
        scheme = ("rediss" if self.tls else "redis") + ("+sentinel" if self.master else "")
        hosts = ";".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}/{self.master + '/' if self.master else ''}{self.database}"


def parse(url: str) -> RedisUrl:
    """The parts of ``url``. Raises ValueError with a sentence that quotes nothing secret."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme.lower() not in _SCHEMES:
        raise ValueError(f"a Redis URL begins with one of {', '.join(f'{name}://' for name in _SCHEMES)}")
    tls, sentinel = _SCHEMES[scheme.lower()]
    userinfo, _, place = rest.rpartition("@")
    if "?" in place or "#" in place:
        raise ValueError("a Redis URL has no query and no fragment: settings of their own say the rest")
    names, _, path = place.partition("/")
    user, _, password = userinfo.partition(":")
    hosts = tuple(_host(name, SENTINEL_PORT if sentinel else REDIS_PORT) for name in names.split(";"))
    if len(hosts) > 1 and not sentinel:
        raise ValueError("several hosts parted by ; are sentinels: write redis+sentinel://host;host/master")
    parts = path.split("/") if path else []
    master = ""
    if sentinel:
        master = unquote(parts.pop(0)) if parts else ""
        if not master:
            raise ValueError("a redis+sentinel URL ends with the name of the master, as in /mymaster")
    database = parts.pop(0) if parts else ""
    if parts and parts != [""]:
        raise ValueError(f"there is more in a Redis URL than hosts and a database number, {path!r}")
    if database and not (database.isascii() and database.isdigit() and len(database) < 6):
        raise ValueError(f"a Redis URL ends with the number of a database, not with {database!r}")
    return RedisUrl(hosts, tls, unquote(user), unquote(password), int(database or 0), master)


def _host(name: str, default: int) -> tuple[str, int]:
    found = _HOST.fullmatch(name.strip())
    if found is None:
        raise ValueError(f"{name!r} in a Redis URL is not host or host:port")
    port = int(found[2] or default)
    if not 0 < port < 65536:
        raise ValueError(f"{port} in a Redis URL is not a port: 1 to 65535")
    return found[1].strip("[]"), port
