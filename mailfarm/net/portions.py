"""Portions: what one client has sent too much of is worked on a part at a time, in the passes of the reactor to come.

A segment holds ten thousand commands, and an answer to each would hold everybody else up for a twentieth of a second;
twenty clients that do so, for a second.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.logger import Logger

AT_ONCE: Final = 300
"""Lines, or blocks of content, in a portion."""

_log = Logger()


class Portions:
    """Who has more to be worked on; each is there once."""

    __slots__ = ("_reactor", "_waiting")

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._waiting: dict[Callable[[], None], None] = {}

    def __contains__(self, go_on: Callable[[], None]) -> bool:
        return go_on in self._waiting

    def add(self, go_on: Callable[[], None]) -> None:
        """Call ``go_on`` in the next pass, once, however often it was asked for."""
        if not self._waiting:
            self._reactor.callLater(0, self._next)
        self._waiting[go_on] = None

    def _next(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for go_on in waiting:
            try:
                go_on()
            except Exception:  # or nobody would call the others again
                _log.failure("what a client has sent could not be worked on")
