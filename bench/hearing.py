"""A Redis subscriber that costs next to nothing: it counts what is announced, and on request notes when each came."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Sequence

_IDS = re.compile(rb'"message_id":"<?([^"@>]+)@')
SILENCE = 10.0
"""Seconds without an announcement after which none is expected."""
_FILED = b'"type":"filed"'


class Hearing:
    """Listens in a thread to ``channels``, for as long as the context lasts.

    ``count`` is how many filed messages were announced and ``last`` when the newest was (monotonic). With ``noting``
    on, ``times`` has the moment for each Message-ID's left side. ``cores`` is where the thread runs."""

    def __init__(self, port: int, channels: Sequence[str], cores: list[int]) -> None:
        self.count = 0
        self.last = 0.0
        self.noting = False
        self.times: dict[str, float] = {}
        self._cores = cores
        self._socket = socket.create_connection(("127.0.0.1", port), 5)
        self._socket.sendall(b"SUBSCRIBE %b\r\n" % " ".join(channels).encode())
        if not self._socket.recv(4096):
            raise ConnectionError("Redis hung up on the subscriber")
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._listen, name="hearing", daemon=True)

    def __enter__(self) -> Hearing:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._socket.close()

    def wait(self, count: int, seconds: float) -> bool:
        """Whether so many have been announced, within so long and without ten seconds of silence."""
        began = time.monotonic()
        while self.count < count:
            now = time.monotonic()
            if now - began > seconds or now - max(began, self.last) > SILENCE:
                return False
            time.sleep(0.01)
        return True

    def _listen(self) -> None:
        os.sched_setaffinity(0, self._cores)
        rest = b""
        while data := self._receive():
            now = time.monotonic()
            data = rest + data
            end = data.rfind(b"\n") + 1  # events have no line ends in them: a message is whole at one
            whole, rest = data[:end], data[end:]
            found = whole.count(_FILED)
            if not found:
                continue
            if self.noting:
                for one in _IDS.findall(whole):
                    self.times.setdefault(one.decode(), now)
            self.last = now
            self.count += found

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(1 << 18)
        except OSError:
            return b""
