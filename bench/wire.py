"""Small asyncio clients that cost next to nothing, so that what is measured is the server: HTTP, WebSocket, SMTP.

They speak what the measured servers answer on loopback and no more: HTTP/1.1 with kept connections and bodies of known
length or in chunks, WebSocket text frames without extensions (RFC 6455), SMTP with one command at a time.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

_LIMIT = 64 * 1024 * 1024


class Http:
    """One kept connection. ``get`` and ``send`` return status and body; one request at a time."""

    def __init__(self, base: str) -> None:
        parts = urlsplit(base)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def get(self, path: str) -> tuple[int, bytes]:
        """GET."""
        return await self._ask("GET", path, b"")

    async def send(self, method: str, path: str, form: Any) -> tuple[int, bytes]:
        """Send JSON."""
        return await self._ask(method, path, json.dumps(form).encode())

    async def _ask(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port, limit=_LIMIT)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}:{self._port}\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(head.encode() + b"\r\n" + body)
        status, headers = await _head(self._reader)
        if "chunked" in headers.get("transfer-encoding", ""):
            pieces = []
            while size := int((await self._reader.readline()).split(b";")[0], 16):
                pieces.append(await self._reader.readexactly(size))
                await self._reader.readline()
            await self._reader.readline()
            answer = b"".join(pieces)
        else:
            answer = await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, answer

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class WebSocket:
    """Text frames there and back, as JSON."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, base: str, path: str) -> WebSocket:
        """Connect and shake hands. Raises ConnectionError if the server will not."""
        parts = urlsplit(base)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, limit=_LIMIT)
        key = base64.b64encode(os.urandom(16)).decode()
        writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        status, _ = await _head(reader)
        if status != 101:
            raise ConnectionError(f"the WebSocket was answered {status}")
        return cls(reader, writer)

    def say(self, form: Mapping[str, Any]) -> None:
        """Send one message."""
        self._frame(0x1, json.dumps(form).encode())

    async def hear(self) -> Any:
        """The next message; pings are answered. Raises ConnectionError at the end."""
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
                raise ConnectionError(f"the server closed the WebSocket: {data!r}")
            if kind == 0x9:
                self._frame(0xA, data)

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    def _frame(self, kind: int, data: bytes) -> None:
        size = len(data)
        head = bytes([0x80 | kind]) + (bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size))
        self._writer.write(head + bytes(4) + data)  # a mask of zeros: nobody is in between


class Smtp:
    """One kept session that sends one message after another. Raises ConnectionError for a reply that is not the one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Smtp:
        """Connect and say EHLO."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        session = cls(reader, writer)
        await session._expect(b"220")
        writer.write(b"EHLO load.shop.example\r\n")
        await session._expect(b"250")
        return session

    async def send(self, to: str, wire: bytes) -> float:
        """Send content as it crosses the wire; the loop's time at which 250 was read."""
        steps = ((b"MAIL FROM:<load@shop.example>\r\n", b"250"), (f"RCPT TO:<{to}>\r\n".encode(), b"250"))
        for line, code in (*steps, (b"DATA\r\n", b"354"), (wire, b"250")):
            self._writer.write(line)
            await self._expect(code)
        return asyncio.get_running_loop().time()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()

    async def _expect(self, code: bytes) -> None:
        while True:
            line = await self._reader.readline()
            if not line.startswith(code):
                raise ConnectionError(f"{code.decode()} expected, got {line!r}")
            if line[3:4] != b"-":
                return


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = int((await reader.readline()).split()[1])
    headers = {}
    while (line := await reader.readline()).strip():
        name, _, value = line.decode("latin-1").partition(":")
        headers[name.strip().lower()] = value.strip()
    return status, headers
