"""What waits in one folder of the local spool: in order, and past those that hold everybody up.

A mail that the queue does not take though it has room for others, or that the disk does not give, is tried ``TRIES``
times where it stands. Then those behind it go past it. It is kept, and tried again after growing pauses for as long as
it takes: a person can give the queue more memory, or the file its rights back. Nothing here does I/O.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from mailfarm.ports import CHUNK

TRIES: Final = 5
"""How often a mail is tried before others go past it: half a second apart, for what passes by itself."""
FIRST_PAUSE: Final = 10.0
"""Seconds until it is tried again then. The pauses double."""
LONGEST_PAUSE: Final = 600.0
"""Up to this."""


@dataclass(slots=True)
class Passed:
    """A mail that others go past: its octets on the disk, why, when it is tried again, and the pause before that."""

    octets: int
    why: str
    due: float
    pause: float


class Waiting:
    """``mails`` are (number, octets on the disk), the oldest first. Times are those of a steady clock, in seconds."""

    def __init__(self, mails: Iterable[tuple[int, int]] = ()) -> None:
        self._line = deque(mails)
        self.passed: dict[int, Passed] = {}
        """By number, the one that was tried last at the end."""
        self._tried: tuple[int, int] = (0, 0)  # the mail that holds others up, and how often it was tried

    def __len__(self) -> int:
        return len(self._line) + len(self.passed)

    @property
    def in_line(self) -> int:
        """Mails that nobody goes past."""
        return len(self._line)

    @property
    def octets(self) -> int:
        """Of all, on the disk."""
        return sum(octets for _, octets in self._line) + sum(each.octets for each in self.passed.values())

    @property
    def first(self) -> int | None:
        """The first one in line."""
        return self._line[0][0] if self._line else None

    @property
    def oldest(self) -> int | None:
        """The number of the oldest of all."""
        return min((number for number in (self.first, *self.passed) if number is not None), default=None)

    def append(self, number: int, octets: int) -> None:
        """One more, the newest."""
        self._line.append((number, octets))

    def window(self, most: int, octets: int) -> list[tuple[int, int]]:
        """The first ones in line: ``most`` of them and so many octets at most, or a large one alone."""
        wanted: list[tuple[int, int]] = []
        for number, size in self._line:
            octets -= size
            large = size > CHUNK  # a queue stores it in pieces and its entry last: others would overtake it
            if wanted and (large or octets < 0 or len(wanted) == most):
                break
            wanted.append((number, size))
            if large:
                break
        return wanted

    def due(self, now: float) -> tuple[int, int] | None:
        """One that others went past and that may be tried again; the one that has waited longest for it."""
        number = min(self.passed, key=lambda number: self.passed[number].due, default=None)
        if number is None or self.passed[number].due > now:
            return None
        return number, self.passed[number].octets

    def refused(self, number: int, why: str, now: float, most: int = TRIES) -> float:
        """It was tried in vain, and others go past it after ``most`` times. The seconds until it is tried again then;
        0 when nobody goes past it yet, or it is not here any more."""
        passed = self.passed.get(number)
        if passed is not None:
            passed.pause = min(2 * passed.pause, LONGEST_PAUSE)
            passed.why, passed.due = why, now + passed.pause
            return passed.pause
        tries = self._tried[1] + 1 if self._tried[0] == number else 1
        self._tried = (number, tries)
        if tries < most:
            return 0.0
        for at, (other, octets) in enumerate(self._line):
            if other == number:
                del self._line[at]
                self.passed[number] = Passed(octets, why, now + FIRST_PAUSE, FIRST_PAUSE)
                return FIRST_PAUSE
        return 0.0

    def forget(self, numbers: Collection[int]) -> list[int]:
        """They are here no more: the octets of each that was."""
        left = set(numbers)
        found = [self.passed.pop(number).octets for number in tuple(left) if number in self.passed]
        later = []
        while len(found) < len(left) and self._line:
            number, octets = self._line.popleft()
            if number in left:
                found.append(octets)
            else:
                later.append((number, octets))
        self._line.extendleft(reversed(later))
        return found
