"""The one cookie there is: a browser's session (RFC 6265).

``HttpOnly``, so that no script reads it; ``SameSite=Strict``, so that no other site's page makes a request with it;
over HTTPS ``Secure`` and named ``__Host-…``, so that no neighbouring host can set it. Over plain HTTP, which only a
developer's own machine should see, a browser would not keep it under that name. So both names are read there, and over
HTTPS that one alone: under the plain name a neighbour could give a visitor a session of the neighbour's own.
"""

from __future__ import annotations

import re
from typing import Final

from .hosts import LOOPBACK, split_host

PLAIN: Final = "mailfarm-session"
SECURE: Final = "__Host-mailfarm-session"
_VALUE = re.compile(r"[0-9A-Za-z_]{1,100}", re.ASCII)


def over_https(
    *, origin: str | None, proxied: bool | None = None, tls: bool = False, host: str | None = None, fetch: bool = False
) -> bool | None:
    """Whether a browser speaks HTTPS with us, or with the proxy in front. None if that cannot be told.

    ``origin`` is its Origin header, which a page cannot forge; ``proxied`` what a proxy that is believed says; ``host``
    the Host header. ``fetch``: there is a Sec-Fetch-Site header, which browsers send where a page can be trusted, and
    that is over HTTPS and to their own machine (Fetch Metadata §2).
    """
    if origin is not None:
        return origin.startswith("https://")
    if proxied is not None:
        return proxied
    if tls:
        return True
    name = split_host(host or "")
    if name is not None and name[0] in LOOPBACK:
        return False
    return True if fetch else None


def session_of(header: str | None, *, https: bool | None) -> str:
    """The session in a Cookie header, the secure one if there are both; empty if there is none."""
    found: dict[str, str] = {}
    for pair in (header or "").split(";"):
        name, equals, value = pair.strip().partition("=")
        if equals and name in (PLAIN, SECURE) and _VALUE.fullmatch(value):
            found.setdefault(name, value)
    return found.get(SECURE) or ("" if https else found.get(PLAIN, ""))


def given(session: str, seconds: int, *, secure: bool) -> str:
    """The Set-Cookie value that gives a session for so many seconds."""
    return f"{_cookie(session, secure)}; Max-Age={seconds}"


def taken(*, secure: bool) -> str:
    """The Set-Cookie value that takes it back."""
    return f"{_cookie('', secure)}; Max-Age=0"


def _cookie(value: str, secure: bool) -> str:
    name, more = (SECURE, "; Secure") if secure else (PLAIN, "")
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{more}"
