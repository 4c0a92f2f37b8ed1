"""Identifiers: 26 letters and digits, ordered by the time they were made.

48 bits of milliseconds and 80 random bits in Crockford's base 32, lower case (the layout of a ULID).
Time and randomness are arguments: nothing here looks at a clock.
"""

from __future__ import annotations

from collections.abc import Callable

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]
LENGTH = 26


def new_id(now: int, random: bytes) -> str:
    """An id for ``now`` (microseconds since 1970, UTC) and ten random bytes."""
    number = (now // 1000 & 0xFFFF_FFFF_FFFF) << 80 | int.from_bytes(random[:10], "big")
    pairs = _PAIRS
    return "".join([pairs[number >> shift & 1023] for shift in range(120, -1, -10)])


def is_id(text: str) -> bool:
    """Whether ``text`` has the form of an id."""
    return len(text) == LENGTH and all(c in _ALPHABET for c in text)


class Ids:
    """Makes ids from a clock (microseconds) and a source of randomness (``os.urandom``)."""

    __slots__ = ("_clock", "_random")

    def __init__(self, clock: Callable[[], int], random: Callable[[int], bytes]) -> None:
        self._clock = clock
        self._random = random

    def new(self) -> str:
        """A new id."""
        return new_id(self._clock(), self._random(10))
