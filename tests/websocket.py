"""A WebSocket for tests that block: JSON in text frames, there and back (RFC 6455, no extensions)."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit


class WebSocket:
    """Connects at once. Raises ConnectionRefusedError with the status line where it is not let in, TimeoutError."""

    def __init__(self, url: str, token: str = "", seconds: float = 20, **headers: str) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._socket = socket.create_connection((parts.hostname, parts.port or 80), seconds)
        self._file = self._socket.makefile("rb")
        headers = {"Host": parts.netloc, **({"Authorization": f"Bearer {token}"} if token else {}), **headers}
        lines = [f"GET {parts.path} HTTP/1.1", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
        lines += [f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self._file.readline().decode().strip()
        while self._file.readline().strip():
            pass
        if " 101 " not in status:
            self.close()
            raise ConnectionRefusedError(status)

    def say(self, **form: Any) -> None:
        """Send one object."""
        text, mask = json.dumps(form).encode(), os.urandom(4)
        head = bytes([0x81, 0x80 | len(text)]) if len(text) < 126 else struct.pack(">BBH", 0x81, 0xFE, len(text))
        self._socket.sendall(head + mask + bytes(octet ^ mask[i % 4] for i, octet in enumerate(text)))

    def hear(self, kind: str) -> dict[str, Any]:
        """The next object of this type; those of others are passed over. Raises EOFError at the end."""
        while True:
            form: dict[str, Any] = self._frame()
            if form.get("type") == kind:
                return form

    def _frame(self) -> Any:
        while True:
            opcode, size = self._read(2)
            if size == 126:
                (size,) = struct.unpack(">H", self._read(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._read(8))
            data = self._read(size)
            if opcode & 15 == 8:
                raise EOFError(f"closed with {struct.unpack('>H', data[:2])[0] if data else 'no code'}")
            if opcode & 15 == 1:
                return json.loads(data)

    def _read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("the connection ended")
        return data

    def close(self) -> None:
        """End the connection."""
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
