"""Whether a process may keep more in its local spool: its caps on mails and octets, and the room on the disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mailfarm.errors import QueueFull, QueueUnavailable

from .spool_folder import free, on_disk

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_AGE: Final = 1.0  # seconds for which a look at the disk is good


class SpoolRoom:
    """Caps on mails and on octets, in blocks of 4 KiB, and a ``reserve`` of octets on the disk of ``path``. ``seconds``
    is a steady clock."""

    def __init__(
        self, path: Path, seconds: Callable[[], float], *, max_octets: int, max_entries: int, reserve: int
    ) -> None:
        self.entries = 0
        """Mails kept, those under way included."""
        self._octets = 0
        self._path = path
        self._seconds = seconds
        self._max_octets = max_octets
        self._max_entries = max_entries
        self._reserve = reserve
        self._looked: float | None = None
        self._free = 0
        self._files = 0

    def take(self, entries: int, octets: int) -> None:
        """So much is kept from now on; or, where they are negative, no more."""
        self.entries += entries
        self._octets += octets
        self._free -= octets
        self._files -= entries

    def check(self, size: int) -> None:
        """Whether ``size`` octets (0: unknown) would find room. Raises QueueFull, QueueUnavailable."""
        octets = on_disk(size)
        if self.entries >= self._max_entries:
            raise QueueFull(f"no queue takes mail, and the spool holds {self.entries} mails, which is its cap")
        if self._octets + octets > self._max_octets:
            raise QueueFull(f"no queue takes mail, and the spool holds {self._octets} octets of {self._max_octets}")
        now = self._seconds()
        if self._looked is None or now - self._looked >= _AGE:
            try:
                self._free, self._files = free(self._path)
            except OSError as error:
                raise QueueUnavailable(f"{self._path} is gone: {error.strerror}") from None
            self._looked = now
        if self._free - octets < self._reserve:
            raise QueueFull(
                f"no queue takes mail, and {self._free} octets are left in {self._path}, of which {self._reserve} are "
                "kept in reserve"
            )
        if self._files <= 0:
            raise QueueFull(f"no queue takes mail, and {self._path} has no room for another file")


def translated(error: OSError, path: Path) -> QueueFull | QueueUnavailable:
    """What an error of the disk means for who brings mail."""
    why = error.strerror or os.strerror(error.errno or 0)
    if error.errno in FULL:
        return QueueFull(f"no queue takes mail, and the disk of {path} is full: {why}")
    return QueueUnavailable(f"no queue takes mail, and it cannot be kept in {path}: {why}")
