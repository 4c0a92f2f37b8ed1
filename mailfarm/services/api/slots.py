"""How many waits and event streams may be open at once, together, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from prometheus_client import Gauge

from mailfarm.net.problems import Problem


class Slots:
    """Counts what is open, refuses what is too many, and tells everything open to end when the service stops."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._open: set[Callable[[], None]] = set()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._open)

    @contextmanager
    def take(self, end: Callable[[], None], gauge: Gauge) -> Iterator[None]:
        """Hold a slot. ``end`` is called when the service stops. Raises Problem: too-many-waits, stopping."""
        if self.stopping:
            raise stopping()
        if len(self._open) >= self._most:
            raise Problem(
                "too-many-waits", f"{self._most} waits and event streams are open", headers={"Retry-After": "5"}
            )
        self._open.add(end)
        gauge.inc()
        try:
            yield
        finally:
            self._open.discard(end)
            gauge.dec()

    def stop(self) -> None:
        """End everything that is open."""
        self.stopping = True
        for end in tuple(self._open):
            end()


def stopping() -> Problem:
    """What is told to those whose wait the service's end has ended."""
    return Problem("stopping", "the service is stopping", headers={"Retry-After": "1", "Connection": "close"})
