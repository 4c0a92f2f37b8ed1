"""When a queue's server could last not be worked with.

A worker cannot hold on to what it has while the server is away, or refuses to write because its replica is missing. A
lease that ends for that reason says nothing about the entry, so it does not count as a try.
"""

from __future__ import annotations

from collections.abc import Callable

_SECOND = 1_000_000


class Outage:
    """What this process has seen of it; ``seconds`` is a steady clock. What never worked yet was no outage: a process
    that starts must not excuse the end of the one before it."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._working = False
        self._began: float | None = None
        self._ended = 0.0

    def worked(self) -> None:
        """An answer."""
        self._working = True

    def failed(self) -> None:
        """None, or a refusal."""
        if self._working:
            self._working = False
            self._began = self._seconds()
        self._ended = self._seconds()

    @property
    def span(self) -> tuple[int, int]:
        """How many µs ago it began and was last seen; (-1, -1) when there was none."""
        if self._began is None:
            return -1, -1
        now = self._seconds()
        return int((now - self._began) * _SECOND), int((now - self._ended) * _SECOND)
