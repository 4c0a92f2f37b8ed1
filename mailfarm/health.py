"""``mailfarm health``: ask the service on this machine whether it serves. What a container's health check runs.

One line says what was answered; the exit code is 0 when the service serves, 1 when it starts, stops or does not answer.
It runs every few seconds in every container, so it loads next to nothing, not even the settings.
"""

import os
import socket
import sys

NAME = "MAILFARM_STATUS_LISTEN"
DEFAULT = "127.0.0.1:8080"
TIMEOUT = 3.0
EVERYWHERE = {"": ("127.0.0.1", "::1"), "::": ("127.0.0.1", "::1"), "0.0.0.0": ("127.0.0.1",)}
"""Where to ask what listens on every address."""


def health() -> int:
    """The exit code."""
    host, _, port = os.environ.get(NAME, DEFAULT).rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65536:
        return _tell(f"{NAME}: there is no address with a port to ask at")
    host = host.removeprefix("[").removesuffix("]")
    reason = ""
    for place in EVERYWHERE.get(host, (host,)):
        try:
            head, _, body = _ask(place, int(port)).partition(b"\r\n\r\n")
        except OSError as error:
            reason = reason or f"port {port} of {place} does not answer: {error.strerror or error}"
            continue
        said = body.decode("utf-8", "replace").strip()[:300]
        if head.split(b" ")[1:2] == [b"200"]:
            print(said)
            return 0
        return _tell(said or "it answers, and not as mailfarm does")
    return _tell(reason)


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
