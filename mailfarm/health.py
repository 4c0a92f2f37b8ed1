"""``mailfarm health``: ask the service on this machine whether it serves. What a container's health check runs.

It loads nothing but the standard library and the way an address is written, and needs a tenth of a second. One line
says what was answered; the exit code is 0 when the service serves, 1 when it starts, stops or does not answer.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping

from .config.spelling import Address, address

NAME = "MAILFARM_STATUS_LISTEN"
DEFAULT = "127.0.0.1:8080"
TIMEOUT = 3.0


def health(environ: Mapping[str, str]) -> int:
    """The exit code."""
    try:
        listen = address(environ.get(NAME, DEFAULT))
    except ValueError as error:
        return _tell(f"{NAME}: {error}")
    if listen is None or not listen.port:
        return _tell(f"{NAME}: there is no address to ask at; set one with a port")
    reason = ""
    for host in _hosts(listen):
        try:
            head, _, body = _ask(host, listen.port).partition(b"\r\n\r\n")
        except OSError as error:
            reason = reason or f"{Address(host, listen.port)} does not answer: {error.strerror or error}"
            continue
        said = body.decode("utf-8", "replace").strip()[:300]
        if head.split(b" ")[1:2] == [b"200"]:
            print(said)
            return 0
        return _tell(said or "it answers, and not as mailfarm does")
    return _tell(reason)


def _hosts(listen: Address) -> tuple[str, ...]:
    """Where to ask: what listens on every address is asked on loopback."""
    return {"::": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",)}.get(listen.host, (listen.host,))


def _ask(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), TIMEOUT) as connection:
        connection.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = b""
        while len(answer) < 65_536 and (piece := connection.recv(4096)):
            answer += piece
        return answer


def _tell(reason: str) -> int:
    print(f"mailfarm health: {reason}", file=sys.stderr)
    return 1
