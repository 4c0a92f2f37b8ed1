#!/usr/bin/env python3
"""Many WebSocket clients in one process, which follow one mailbox: what ``push.py`` counts frames with.

    bench/audience.py PORT TOKEN MAILBOX CLIENTS DEAF

``DEAF`` of the clients subscribe and then read nothing. Says ``{"ready": CLIENTS}`` on standard output; for each number
on a line of standard input, it waits until every client that reads has had so many frames more, and says when the first
and the last of them came (``time.monotonic``), and whether all have had the same octets.
"""

from __future__ import annotations

import base64
import json
import os
import resource
import select
import socket
import sys
import time
from typing import Any

_AT_ONCE = 50
_PATIENCE = 60.0


class Client:
    """One connection, which reads without blocking."""

    __slots__ = ("_buffer", "frames", "heard", "socket")

    def __init__(self, port: int, token: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.sendall(
            f"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n".encode()
        )
        self._buffer = b""
        self.frames = 0
        self.heard = b""

    def begin(self, mailbox: str) -> None:
        """Subscribe, as soon as the handshake is done."""
        while b"\r\n\r\n" not in self._buffer:
            self._buffer += self._received()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise SystemExit(f"a WebSocket was refused: {head!r}")
        text = json.dumps({"op": "subscribe", "mailbox": mailbox}).encode()
        self.socket.sendall(bytes([0x81, 0x80 | len(text)]) + bytes(4) + text)  # a mask of zeros

    def subscribed(self) -> None:
        """Wait until it is."""
        while b'"subscribed"' not in self._buffer:
            self._buffer += self._received()
        self._buffer = b""
        self.socket.setblocking(False)

    def _received(self) -> bytes:
        data = self.socket.recv(65536)
        if not data:
            raise SystemExit("the server hung up")
        return data

    def read(self) -> None:
        """Take what is there, and count the frames that are whole."""
        try:
            data = self._received()
        except BlockingIOError:
            return
        buffer = self._buffer + data
        while len(buffer) >= 4:
            size = buffer[1] & 0x7F
            whole = 2 + size if size < 126 else 4 + int.from_bytes(buffer[2:4], "big")
            if len(buffer) < whole:
                break
            if buffer[0] == 0x81:
                self.frames += 1
                self.heard += buffer[:whole]
            buffer = buffer[whole:]
        self._buffer = buffer


def connect(port: int, token: str, mailbox: str, count: int) -> list[Client]:
    """So many clients that follow the mailbox, some of them at a time."""
    clients: list[Client] = []
    while len(clients) < count:
        some = [Client(port, token) for _ in range(min(_AT_ONCE, count - len(clients)))]
        for client in some:
            client.begin(mailbox)
        for client in some:
            client.subscribed()
        clients += some
    return clients


def listen(poll: Any, by_number: dict[int, Client], frames: int) -> dict[str, Any]:
    """Until all have so many frames: when, and whether they were the same."""
    waiting = len(by_number)
    first = last = 0.0
    deadline = time.monotonic() + _PATIENCE
    while waiting and time.monotonic() < deadline:
        for number, _ in poll.poll(0.5, 512):
            client = by_number[number]
            had = client.frames
            client.read()
            if client.frames > had:
                last = time.monotonic()
                first = first or last
                if had < frames <= client.frames:
                    waiting -= 1
    heard = {client.heard for client in by_number.values()}
    for client in by_number.values():
        client.frames, client.heard = 0, b""
    return {"first": first, "last": last, "missing": waiting, "same": len(heard) == 1}


def main() -> None:
    """See above."""
    port, token, mailbox, count, deaf = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = connect(port, token, mailbox, count)
    poll = select.epoll()
    by_number = {client.socket.fileno(): client for client in clients[deaf:]}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    print(json.dumps({"ready": count}), flush=True)
    for line in sys.stdin:
        print(json.dumps(listen(poll, by_number, int(line))), flush=True)


if __name__ == "__main__":
    main()
