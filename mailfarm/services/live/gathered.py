"""What waits for a client that does not take it, and how much waits for all of them."""

from __future__ import annotations

from collections import deque
from typing import Final

GATHERED: Final = 256 * 1024
"""Octets that are gathered for a client whose transport is full; past it its feeds pause."""
MOST_GATHERED: Final = 1 << 20
"""Past this (answers to what the client itself said, hints) the client is dropped at once."""
PIECE: Final = 64 * 1024
"""Octets written at a time of what was gathered; who takes less in ``slow_after`` seconds is dropped."""
TOGETHER: Final = 64 << 20
"""Octets gathered for all clients. Past it the feeds of each pause for which anything waits; past twice as much each is
dropped for which more than a piece does."""


class Together:
    """Octets that wait for all clients; a frame for many counts for each."""

    __slots__ = ("octets",)

    def __init__(self) -> None:
        self.octets = 0


class Gathered:
    """Frames that wait for one client. ``together`` counts those of all."""

    __slots__ = ("_frames", "octets", "together")

    def __init__(self) -> None:
        self._frames: deque[bytes] = deque()
        self.octets = 0
        self.together = Together()

    def __len__(self) -> int:
        return len(self._frames)

    def add(self, octets: bytes) -> None:
        """One more, or some that go together."""
        self._frames.append(octets)
        self._count(len(octets))

    def piece(self) -> bytes:
        """The first of them, at least a ``PIECE`` if there is as much: gathered no more."""
        piece: list[bytes] = []
        size = 0
        while self._frames and size < PIECE:
            piece.append(self._frames.popleft())
            size += len(piece[-1])
        self._count(-size)
        return b"".join(piece)

    def clear(self) -> None:
        """Forget them."""
        self._frames.clear()
        self._count(-self.octets)

    def _count(self, octets: int) -> None:
        self.octets += octets
        self.together.octets += octets

    @property
    def much(self) -> bool:
        """Whether feeds must pause."""
        return self.octets > GATHERED or (self.octets > 0 and self.together.octets > TOGETHER)

    @property
    def too_much(self) -> bool:
        """Whether the client must go."""
        return self.octets > MOST_GATHERED or (self.octets > PIECE and self.together.octets > 2 * TOGETHER)
