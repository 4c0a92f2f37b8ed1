"""Whether a queue has room: its backlog against its caps, and the disk against its reserve.

A full disk is predictable, so it is answered before the content is sent (RFC 5321 §6.1). Pages that are free inside
the database file count as room: the file never shrinks, and a disk once filled by mail would stay full after the mail
is deleted.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mailfarm.errors import QueueFull, QueueUnavailable

_AGE = 1.0  # seconds for which a measurement is good


class Room:
    """Caps on entries and octets, and a reserve in octets on the disk of the file ``path``. ``seconds`` is a steady
    clock, ``reusable`` is asked for the octets free inside the file and answers some time later by ``found``."""

    def __init__(
        self,
        path: Path,
        seconds: Callable[[], float],
        reusable: Callable[[], None],
        *,
        reserve: int,
        max_entries: int,
        max_octets: int,
    ) -> None:
        self.entries = 0
        self.octets = 0
        self._path = path
        self._seconds = seconds
        self._ask_reusable = reusable
        self._reserve = reserve
        self._max_entries = max_entries
        self._max_octets = max_octets
        self._full_until = 0.0
        self._measured: float | None = None
        self._free = 0
        self._reusable = 0

    def add(self, entries: int, octets: int) -> None:
        """The queue holds so many more, or fewer."""
        self.entries += entries
        self.octets += octets

    def overflowed(self) -> None:
        """A write has just found the disk, or the database's own limit, full: for a second nobody else need try."""
        self._full_until = self._seconds() + _AGE

    def found(self, reusable: int) -> None:
        """So many octets are free inside the database."""
        self._reusable = reusable

    def check_backlog(self, size: int) -> None:
        """Raises QueueFull."""
        if self.entries >= self._max_entries:
            raise QueueFull(f"the queue holds {self.entries} entries, which is its cap")
        if self.octets + size > self._max_octets:
            raise QueueFull(f"the queue holds {self.octets} octets of {self._max_octets}")

    def check_disk(self, size: int) -> None:
        """Raises QueueFull; QueueUnavailable when the file was taken away under us."""
        now = self._seconds()
        if now < self._full_until:
            raise QueueFull("the database has just found no room")
        if self._measured is None or now - self._measured >= _AGE:
            try:
                # The path, not what is open: a file that was deleted takes every write, and all of it is lost.
                disk = os.statvfs(self._path)
            except OSError as error:
                raise QueueUnavailable(f"{self._path} is gone: {error.strerror}") from None
            self._measured = now
            self._free = disk.f_bavail * disk.f_frsize
            self._ask_reusable()
        # Twice the size: for a moment it stands in the queue and in its mailbox. The log always needs real space.
        if self._free < self._reserve // 4 or self._free + self._reusable < self._reserve + 2 * size:
            raise QueueFull(f"{self._free} octets are left on the disk, and {self._reserve} are kept in reserve")
