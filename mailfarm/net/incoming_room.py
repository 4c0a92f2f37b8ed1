"""Where content may be while it comes in: so much of it in memory, and what the folder for the rest has free.

Memory first: content is in memory up to ``IN_ONE`` octets, but that of all sessions together only up to ``IN_MEMORY``.
Past it the next octets go to a file at once. So ten thousand sessions that each hold back their last line cost what
sessions cost (with at most 32 KiB that gather before they are content), whatever they have sent.

The folder is looked at before content is let in, at most once a second. That foresees a full one; what comes in at the
same moment can still fill it, and is answered after its end (``incoming``).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mailfarm.errors import QueueFull

IN_MEMORY: Final = 64 * 1024 * 1024
"""Octets of content in memory, of all sessions of a service together."""
IN_ONE: Final = 2 * 1024 * 1024
"""Octets of one content in memory. A file costs 0.6 ms a megabyte, so the usual attachment goes without."""
_AGE: Final = 1.0  # seconds for which a measurement is good


class IncomingRoom:
    """``folder`` takes what is not kept in memory (None: the system's temporary folder), ``largest`` is the most octets
    a message may have; 0: any. ``seconds`` never goes back."""

    __slots__ = ("_free", "_in_memory", "_largest", "_measured", "_place", "_seconds", "folder", "held")

    def __init__(
        self,
        folder: Path | None = None,
        *,
        largest: int = 0,
        in_memory: int = IN_MEMORY,
        seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self.held = 0
        """Octets in memory now."""
        self._place = folder or Path(tempfile.gettempdir())
        self._largest = largest
        self._in_memory = in_memory
        self._seconds = seconds
        self._measured: float | None = None
        self._free = 0

    def hold(self, octets: int) -> bool:
        """Keep so many more in memory. False when they have to go elsewhere."""
        if self.held + octets > self._in_memory:
            return False
        self.held += octets
        return True

    def give_back(self, octets: int) -> None:
        """So many are in memory no more."""
        self.held -= octets

    def check(self, size: int) -> None:
        """Whether content of ``size`` octets can be kept; 0, which is unknown, stands for the largest that may come.
        Raises QueueFull."""
        wanted = size or self._largest
        if size and size <= IN_ONE and self.held + size <= self._in_memory:
            return
        now = self._seconds()
        if self._measured is None or now - self._measured >= _AGE:
            try:
                disk = os.statvfs(self._place)
            except OSError as error:
                raise QueueFull(f"{self._place}, where content is while it comes in: {error.strerror}") from None
            self._measured = now
            self._free = disk.f_bavail * disk.f_frsize
        if self._free < wanted:
            what = f"{self._free} octets are free in {self._place}, where content is while it comes in"
            raise QueueFull(f"{what}, and {wanted} may come")
