"""The one cookie there is: a browser's session (RFC 6265).

``HttpOnly``, so that no script reads it; ``SameSite=Strict``, so that no other site's page makes a request with it;
over HTTPS ``Secure`` and named ``__Host-…``, so that no neighbouring host can set it. Over plain HTTP, which only a
developer's own machine should see, a browser would not keep it under that name.
"""

from __future__ import annotations

import re
from typing import Final

PLAIN: Final = "mailfarm-session"
SECURE: Final = "__Host-mailfarm-session"
_VALUE = re.compile(r"[0-9A-Za-z_]{1,100}", re.ASCII)


def session_of(header: str | None) -> str:
    """The session in a Cookie header, the secure one if there are both; empty if there is none."""
    found: dict[str, str] = {}
    for pair in (header or "").split(";"):
        name, equals, value = pair.strip().partition("=")
        if equals and name in (PLAIN, SECURE) and _VALUE.fullmatch(value):
            found.setdefault(name, value)
    return found.get(SECURE) or found.get(PLAIN) or ""


def given(session: str, seconds: int, *, secure: bool) -> str:
    """The Set-Cookie value that gives a session for so many seconds."""
    return f"{_cookie(session, secure)}; Max-Age={seconds}"


def taken(*, secure: bool) -> str:
    """The Set-Cookie value that takes it back."""
    return f"{_cookie('', secure)}; Max-Age=0"


def _cookie(value: str, secure: bool) -> str:
    name, more = (SECURE, "; Secure") if secure else (PLAIN, "")
    return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{more}"
