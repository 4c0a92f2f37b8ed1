"""Long work in pieces: between two of them everybody else's turn comes.

::

    for some in pieces:
        work(some)
        await turns.next()

One piece is worked on in each pass of the reactor, whoever's it is: ten who have much to do hold nobody up for longer
than one does, and each goes on in its turn.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import Deferred


class Turns:
    """The line of those who have more to do."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._line: deque[Deferred[None]] = deque()

    def next(self) -> Deferred[None]:
        """Fires in a later pass of the reactor."""
        turn: Deferred[None] = Deferred()
        self._line.append(turn)
        if len(self._line) == 1:
            self._reactor.callLater(0, self._call)
        return turn

    def _call(self) -> None:
        turn = self._line[0]
        if len(self._line) > 1:
            self._reactor.callLater(0, self._call)
        self._line.popleft()
        if not turn.called:  # it is, if it was cancelled
            turn.callback(None)
