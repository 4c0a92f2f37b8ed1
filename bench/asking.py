#!/usr/bin/env python3
"""Who asks an API as fast as it answers: so many connections, each with its next request when it has its answer.

    bench/asking.py HOST:PORT TOKEN SECONDS CONNECTIONS PATH [PATH...]

Each connection asks for the paths in turn. One process with one epoll loop that reads no more of an answer than its
status and its length. Prints one JSON object: ``answered``, answers of
200; ``refused``, others by their status; ``p50_ms`` and ``p99_ms`` of an answer.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections import Counter
from collections.abc import Sequence

from generator import percentiles


class Asker:
    """One connection."""

    def __init__(self, address: tuple[str, int], requests: Sequence[bytes], at: int) -> None:
        self.socket = socket.create_connection(address, 30)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._requests = requests
        self._at = at
        self._head = b""
        self._left = 0
        self.asked = 0.0

    def ask(self) -> None:
        """Send the next request."""
        self._at += 1
        self._head, self._left = b"", 0
        self.asked = time.monotonic()
        self.socket.sendall(self._requests[self._at % len(self._requests)])

    def hear(self) -> str:
        """Take what has come in; the status when the answer is whole, else nothing. Raises ConnectionError."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the API has closed a connection")
        if not self._left:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return ""
            self._head = head
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            self._left = int(length.partition(b":")[2])
            data = body
        self._left -= len(data)
        return "" if self._left else self._head[9:12].decode()


def ask(where: str, token: str, seconds: float, connections: int, paths: Sequence[str]) -> dict[str, object]:
    """Ask for so long; what is printed."""
    host, _, port = where.rpartition(":")
    head = f"HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    requests = [f"GET {path} {head}".encode() for path in paths]
    askers = {}
    poll = select.epoll()
    for number in range(connections):
        asker = Asker((host, int(port)), requests, number)
        askers[asker.socket.fileno()] = asker
        poll.register(asker.socket.fileno(), select.EPOLLIN)
        asker.ask()
    refused: Counter[str] = Counter()
    took: list[float] = []
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for fd, _ in poll.poll(0.5):
            status = askers[fd].hear()
            if status == "200":
                took.append(time.monotonic() - askers[fd].asked)
            elif status:
                refused[status] += 1
            if status:
                askers[fd].ask()
    times = percentiles(took) or {"p50": 0.0, "p99": 0.0}
    return {"answered": len(took), "refused": refused, "p50_ms": times["p50"], "p99_ms": times["p99"]}


if __name__ == "__main__":
    print(json.dumps(ask(sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])))
