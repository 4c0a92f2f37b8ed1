"""Someone who watches a mailbox through cuts: over the WebSocket, or by one wait after the other.

A process of its own, with the plan as JSON on its standard input::

    watching.py < plan.json       prints one line when it watches; a second line on standard input is the number of
                                  messages there are; it goes on until it has seen as many, and prints what it saw

``how`` is ``websocket`` (/v1/events, which goes on after the last change it saw) or ``wait`` (the SDK's ``wait_for``).
``addresses`` are tried in turn for the host of the URL. What is counted: ``cuts``, the connections that ended;
``seen``, the messages; ``missing`` and ``twice``, by change number; ``errors``, what a user would have seen;
``longest`` the seconds from a cut to being there again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from mailfarm.sdk import Farm, FarmError, WaitTimeout

_SILENCE = 15.0
"""Seconds without a frame, though we asked for one, after which a WebSocket counts as cut."""


class WebSocket:
    """Text frames there and back, as JSON (RFC 6455, no extensions). ``server`` is (address, port)."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, url: str, server: tuple[str, int], headers: dict[str, str], cafile: str = "") -> WebSocket:
        """Connect and shake hands. Raises OSError (ConnectionError if it is refused), EOFError."""
        parts = urlsplit(url)
        context = ssl.create_default_context(cafile=cafile or None) if parts.scheme in ("https", "wss") else None
        reader, writer = await asyncio.open_connection(
            *server, ssl=context, server_hostname=parts.hostname if context else None, limit=1 << 22
        )
        key = base64.b64encode(os.urandom(16)).decode()
        lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", "Upgrade: websocket", "Connection: Upgrade"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}", *(f"{k}: {v}" for k, v in headers.items())]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = await reader.readline()
        while (await reader.readline()).strip():
            pass
        if b" 101 " not in status:
            writer.transport.abort()
            raise ConnectionRefusedError(f"the WebSocket was answered {status.decode().strip() or 'nothing'}")
        return cls(reader, writer)

    def say(self, form: Any) -> None:
        """Send one message."""
        self._frame(0x1, json.dumps(form).encode())

    async def hear(self) -> Any:
        """The next message; pings are answered. Raises EOFError and OSError at the end."""
        while True:
            first, second = await self._reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", await self._reader.readexactly(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", await self._reader.readexactly(8))
            data = await self._reader.readexactly(size)
            kind = first & 0xF
            if kind == 0x1:
                return json.loads(data)
            if kind == 0x8:
                raise ConnectionResetError(f"closed: {data[:2].hex()} {data[2:].decode('utf-8', 'replace')}")
            if kind == 0x9:
                self._frame(0xA, data)

    def close(self) -> None:
        """Hang up, without a goodbye that somebody would have to wait for."""
        self._writer.transport.abort()

    def _frame(self, kind: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | kind]) + (bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size))
        self._writer.write(head + bytes(4) + data)  # a mask of zeros: it hides nothing, and nothing needs hiding


class Seen:
    """What was seen, by change number or id, and for how long nothing could be."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self.numbers: list[int] = []
        self.cuts = 0
        self.longest = 0.0
        self.errors: list[str] = []
        self.wanted: int | None = None
        self.deadline = 0.0
        self._cut_at = 0.0

    def cut(self) -> None:
        """The connection has ended."""
        self.cuts += 1
        self._cut_at = self._cut_at or time.monotonic()

    def there(self) -> None:
        """Connected."""
        if self._cut_at:
            self.longest = max(self.longest, time.monotonic() - self._cut_at)
        self._cut_at = 0.0

    def done(self) -> bool:
        """All was seen, or it is too late."""
        if self.wanted is None:
            return False
        return len(set(self.numbers)) >= self.wanted or time.monotonic() > self.deadline

    def hear_the_end(self) -> None:
        """Wait for the line that says how many there are."""
        line = sys.stdin.readline()
        self.deadline = time.monotonic() + self._patience
        self.wanted = int(line) if line.strip() else 0

    def form(self) -> dict[str, Any]:
        """The JSON that is printed."""
        different = set(self.numbers)
        return {
            "seen": len(self.numbers),
            "missing": max((self.wanted or 0) - len(different), 0),
            "twice": len(self.numbers) - len(different),
            "in_order": self.numbers == sorted(self.numbers),
            "cuts": self.cuts,
            "longest": round(self.longest, 2),
            "errors": self.errors[:20],
        }


async def _websocket(plan: dict[str, Any], seen: Seen) -> None:
    url, cursor, turn, told = plan["url"].rstrip("/") + "/v1/events", plan["after"], 0, False
    port = urlsplit(url).port or (443 if url.startswith("https") else 80)
    headers = {"Authorization": f"Bearer {plan['token']}"} if plan["token"] else {}
    while not seen.done():
        server = (plan["addresses"][turn % len(plan["addresses"])], port)
        socket_: WebSocket | None = None
        try:
            socket_ = await asyncio.wait_for(WebSocket.open(url, server, headers, plan["cafile"]), 5)
            await socket_.hear()  # hello
            socket_.say({"op": "subscribe", "mailbox": plan["mailbox"], "after": cursor})
            last = asked = time.monotonic()
            while not seen.done():
                now = time.monotonic()
                if now - last > _SILENCE:  # a machine without power says nothing
                    raise TimeoutError
                if now - asked > _SILENCE / 3:
                    socket_.say({"op": "ping"})
                    asked = now
                try:
                    async with asyncio.timeout(0.5):
                        heard = await socket_.hear()
                except TimeoutError:
                    continue
                last = time.monotonic()
                if heard["type"] == "subscribed":
                    seen.there()
                    if not told:
                        print("watching", flush=True)
                        told = True
                elif heard["type"] == "filed":
                    seen.numbers.append(heard["seq"])
                    cursor = max(cursor, heard["seq"])
                elif heard["type"] in ("problem", "resync"):
                    seen.errors.append(json.dumps(heard)[:300])
        except (OSError, EOFError, TimeoutError):
            seen.cut()
            turn += 1
            await asyncio.sleep(0.1)
        finally:
            if socket_ is not None:
                socket_.close()


def _wait(plan: dict[str, Any], seen: Seen) -> None:
    with Farm(plan["url"], plan["token"] or None) as farm:
        inbox = farm.mailbox(plan["mailbox"])
        after = plan["after"]
        print("watching", flush=True)
        while not seen.done():
            try:
                mail = inbox.wait_for(timeout=3, after=after)
            except WaitTimeout:
                continue
            except FarmError as error:
                seen.cut()
                seen.errors.append(f"{type(error).__name__}: {error}"[:300])
                time.sleep(0.2)
                continue
            seen.there()
            after = mail.seq
            seen.numbers.append(mail.seq)


@contextlib.contextmanager
def resolve(host: str, addresses: list[str]) -> Iterator[None]:
    """Let ``host`` be ``addresses`` in this process; the lab has no DNS."""
    before = socket.getaddrinfo

    def found(name: Any, *given: Any, **named: Any) -> Any:
        if name not in (host, host.encode()):
            return before(name, *given, **named)
        return [each for address in addresses for each in before(address, *given, **named)]

    socket.getaddrinfo = found
    try:
        yield
    finally:
        socket.getaddrinfo = before


def main() -> int:
    """Read the plan, watch, print what was seen."""
    plan = json.loads(sys.stdin.readline())
    if plan["cafile"]:
        os.environ["SSL_CERT_FILE"] = plan["cafile"]
    seen = Seen(plan["patience"])
    threading.Thread(target=seen.hear_the_end, daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        if plan["how"] == "websocket":
            asyncio.run(_websocket(plan, seen))
        else:
            with resolve(urlsplit(plan["url"]).hostname or "", plan["addresses"]):
                _wait(plan, seen)
    print(json.dumps(seen.form()), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
