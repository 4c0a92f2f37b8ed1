"""A WebSocket's client: text frames there and back, as JSON (RFC 6455, no extensions)."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
from typing import Any
from urllib.parse import urlsplit

from mailfarm.sdk import trust

LARGEST = 1 << 22


class WebSocket:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(
        cls, url: str, headers: dict[str, str], cafile: str = "", server: tuple[str, int] | None = None
    ) -> WebSocket:
        """Connect and shake hands; with ``server`` there, whatever address the URL's host has. Raises OSError
        (ConnectionError if it is refused), EOFError."""
        parts = urlsplit(url)
        context = trust.context(cafile or None) if parts.scheme == "https" else None
        place = server or (parts.hostname or "", parts.port or (443 if context else 80))
        name = parts.hostname if context else None
        reader, writer = await asyncio.open_connection(*place, ssl=context, server_hostname=name, limit=LARGEST)
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
            if size > LARGEST:
                raise ConnectionResetError(f"a frame of {size} octets")
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
