"""What happens now, for who watches: how many faults have begun, of how many, and about how long the rest takes."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .campaign import Group

SETTING_UP = 12.0
"""Seconds until a target is there and mail flows, about."""
JUDGING = 0.15
"""Seconds of reading all mail at the end for each second in which mail came in, about."""


class Progress:
    """One line that changes on a terminal, else a line each: ``812.4 s  37 of 312, 41 min left  kill-mx: …``."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._began = time.monotonic()
        self._place = ""

    def at(self, ahead: Ahead) -> None:
        """Something has begun, or has ended."""
        self._place = f"{ahead.begun} of {ahead.of}, {roughly(ahead.left)} left  "

    def tell(self, line: str) -> None:
        """Show it."""
        stamp = f"{time.monotonic() - self._began:7.1f} s  {self._place}{line}"
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r\x1b[K{stamp[:width]}", end="", file=sys.stderr, flush=True)
        else:
            print(stamp, file=sys.stderr, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


class Ahead:
    """How far all targets have come: each is to come, or has had so many of its faults begun, or is judged."""

    def __init__(self, groups: Sequence[Group], beside: int) -> None:
        self._groups = groups
        self._beside = beside
        self._begun = [0] * len(groups)
        self._judged = [False] * len(groups)

    def begins(self, number: int, fault: int) -> None:
        """The target ``number`` comes to its fault ``fault``; each is counted from 0."""
        self._begun[number] = fault + 1

    def ends(self, number: int) -> None:
        """This target is judged, or will not be."""
        self._judged[number] = True

    @property
    def begun(self) -> int:
        """Faults that have begun."""
        return sum(self._begun)

    @property
    def of(self) -> int:
        """Faults altogether."""
        return sum(len(group.schedule) for group in self._groups)

    @property
    def left(self) -> float:
        """Seconds until all are judged, about: what is left, on as many targets at a time as there are, and no less
        than the longest of them takes."""
        each = [
            group.lasts(begun)
            for group, begun, judged in zip(self._groups, self._begun, self._judged, strict=True)
            if not judged
        ]
        return max(sum(each) / self._beside, max(each, default=0.0))


def roughly(seconds: float) -> str:
    """As nobody knows it better: ``40 s``, ``12 min``."""
    return f"{max(round(seconds, -1), 10):.0f} s" if seconds < 95 else f"{seconds / 60:.0f} min"
