"""What a handshake hears that is refused: a problem (RFC 9457), as over HTTP."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

import orjson

from mailfarm.net.problems import MEDIA_TYPE, RETRY_AFTER, Problem

_NAMES: Final = {
    401: "unauthenticated",
    403: "foreign-origin",
    421: "wrong-host",
    429: "too-many-requests",
    503: "too-many-connections",
}


def denial(code: int, reason: str) -> bytes:
    """The response. Nothing of the request gets into a header."""
    name = "unavailable" if reason.startswith("the database") else _NAMES.get(code, "bad-request")
    body = orjson.dumps(Problem(name, reason, status=code).document())
    headers = "WWW-Authenticate: Bearer\r\n" if code == 401 else ""
    headers += "Upgrade: websocket\r\n" if code == 426 else ""
    headers += f"Retry-After: {RETRY_AFTER}\r\n" if code in (429, 503) else ""
    phrase = HTTPStatus(code).phrase if code in HTTPStatus._value2member_map_ else "Refused"
    head = (
        f"HTTP/1.1 {code} {phrase}\r\nContent-Type: {MEDIA_TYPE}\r\nContent-Length: {len(body)}\r\n{headers}"
        "X-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
