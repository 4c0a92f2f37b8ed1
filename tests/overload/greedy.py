"""Clients that take all they can, and one that is served meanwhile.

::

    table = Table(process)                      # resident memory, before and after, for the test's output
    crowd = Crowd(port, 200, b"EH")             # 200 connections that have each sent this, and read nothing
    crowd.drip(b"L")                            # one octet more on each that is still open
    polite(port, to)                            # a session of its own: connect, EHLO, mail, 250, QUIT; its seconds
"""

from __future__ import annotations

import smtplib
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from running import Process

MAIL = b"Subject: polite\r\n\r\nThe code is 481516.\r\n"
WITHIN = 20.0
"""Seconds in which a polite client must have been served: generous, for machines that have other work."""


def polite(port: int, to: str, source: bytes = b"") -> float:
    """Deliver one mail on a connection of its own. Its seconds; raises what smtplib does, also after ``WITHIN``."""
    began = time.monotonic()
    with smtplib.SMTP(timeout=WITHIN) as smtp:
        smtp.sock = socket.create_connection(("127.0.0.1", port), WITHIN)
        smtp.sock.sendall(source)
        code, text = smtp.getreply()
        assert code == 220, (code, text)
        smtp.sendmail("a@shop.example", [to], MAIL)
    seconds = time.monotonic() - began
    assert seconds < WITHIN
    return seconds


class Crowd:
    """So many connections to a port of this machine. What they say after ``first`` is up to the test. ``each`` is
    called with every new one, and may read. With ``room`` the system takes about so many octets for one that does not
    read, instead of several MiB."""

    def __init__(
        self,
        port: int,
        count: int,
        first: bytes = b"",
        each: Callable[[socket.socket], None] | None = None,
        *,
        room: int = 0,
    ) -> None:
        self.open: list[socket.socket] = []
        for _ in range(count):
            one = socket.socket()
            one.settimeout(WITHIN)
            if room:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
            one.connect(("127.0.0.1", port))
            self.open.append(one)
            if each is not None:
                each(one)
            if first:
                one.sendall(first)

    def drip(self, octet: bytes) -> int:
        """Say one octet more on each that is open. How many are."""
        for one in list(self.open):
            try:
                one.sendall(octet)
            except OSError:
                self.open.remove(one)
                one.close()
        return len(self.open)

    def ended(self) -> int:
        """How many the server has closed, by what is known without waiting."""
        gone = 0
        for one in self.open:
            one.setblocking(False)
            try:
                while data := one.recv(65536):
                    pass
                gone += not data
            except BlockingIOError:
                pass
            except OSError:
                gone += 1
            finally:
                one.settimeout(WITHIN)
        return gone

    def close(self) -> None:
        for one in self.open:
            one.close()
        self.open.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def line(sock: socket.socket) -> bytes:
    """The next reply, whole: its lines."""
    said = b""
    while not (said.endswith(b"\n") and said.splitlines()[-1][3:4] == b" "):
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"closed after {said!r}")
        said += data
    return said


class Flood(threading.Thread):
    """Sends ``words`` again and again on one connection and, with ``reads``, takes the replies; ends when it is cut
    off, has sent ``most`` octets, or on ``stop``. ``sent`` and ``heard`` are octets."""

    def __init__(self, port: int, hello: bytes, words: bytes, *, reads: bool, most: int = 1 << 40) -> None:
        super().__init__(daemon=True)
        self._sock = socket.create_connection(("127.0.0.1", port), WITHIN)
        line(self._sock)
        self._hello, self._words, self._reads, self._most = hello, words, reads, most
        self._stop_it = threading.Event()
        self.sent = self.heard = 0
        self.last = b""
        self.stalled = threading.Event()
        """It could send nothing for a second."""

    def run(self) -> None:
        sock = self._sock
        sock.settimeout(1.0)
        reader = threading.Thread(target=self._read, daemon=True)
        if self._reads:
            reader.start()
        with suppress(ConnectionError):
            sock.sendall(self._hello)
            while not self._stop_it.is_set() and self.sent < self._most:
                try:
                    self.sent += sock.send(self._words)
                except TimeoutError:
                    self.stalled.set()
        if self._reads:
            told = self._stop_it.is_set()  # then nobody waits for what is still on its way
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR if told else socket.SHUT_WR)
            reader.join(6 * WITHIN)

    def _read(self) -> None:
        while True:
            try:
                data = self._sock.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                return
            if not data:
                return
            self.heard += len(data)
            self.last = (self.last + data)[-200:]

    def stop(self) -> None:
        self._stop_it.set()
        self.join(WITHIN)
        self._sock.close()


class Table:
    """Figures of one test, for its output and as its properties. Memory is resident octets of ``process``."""

    def __init__(self, process: Process, tell: Callable[[str, object], None]) -> None:
        self._process = process
        self._tell = tell
        self.before = process.rss()

    def say(self, name: str, value: object) -> None:
        """One row."""
        self._tell(name, value)
        print(f"{name:44} {value}")

    def grown(self, most: int) -> None:
        """The row of memory; fails where it has grown by more than ``most`` octets."""
        grown = self._process.rss() - self.before
        self.say("memory, MiB before, grown by", f"{self.before >> 20}, {grown / 2**20:.1f}")
        assert grown < most, f"grown by {grown >> 20} MiB"
