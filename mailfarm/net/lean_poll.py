"""An epoll reactor that hands out what there is to read without ceremony.

For each event Twisted's own asks the descriptor for its name, puts that into a logging context which only its old log
uses, and passes through seven functions on the way to ``doRead``. A session that sends one command at a time costs four
such events a message. Here a descriptor that is ``LEAN`` is read at once when there is something to read and nothing
else has happened; every other event goes Twisted's way, without the context.

It also has a place for what is to leave together: ``before_waiting``.

Linux only: importing it fails where there is no epoll, and Twisted's default is as good as any there.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from select import EPOLLIN
from typing import Any, Final

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.main import installReactor
from twisted.logger import Logger

_MOST_EVENTS: Final = 1024
"""Events in one pass; the kernel gives out those that are left in the next one, in turn."""

_MOST_ROUNDS: Final = 4
"""How often calls of ``before_waiting`` may lead to more of them in one pass; what comes then is the next one's."""

_log = Logger()


class LeanEPollReactor(EPollReactor):
    """Twisted's, but for the pass itself."""

    def __init__(self) -> None:
        super().__init__()
        self._before: list[Callable[[], object]] = []

    def before_waiting(self, call: Callable[[], object]) -> None:
        """Have it called once, when all of this pass has been worked on and before the reactor waits again. A
        ``callLater(0)`` from a timed call would take a pass of its own."""
        self._before.append(call)

    def doPoll(self, timeout: float | None) -> None:
        """Wait for at most so many seconds (None: any), then work on what has happened."""
        if self._before:
            timeout = self._prepared(timeout)
        selectables: dict[int, Any] = self._selectables
        try:
            most = min(len(selectables), _MOST_EVENTS)
            events = self._poller.poll(-1 if timeout is None else timeout, most)
        except OSError as error:
            if error.errno == errno.EINTR:
                return
            raise
        for fd, event in events:
            selectable = selectables.get(fd)
            if selectable is None:
                continue  # gone in this very pass
            try:
                if event == EPOLLIN and getattr(selectable, "LEAN", False):
                    why = selectable.doRead()
                    if why:
                        self._disconnectSelectable(selectable, why, True)
                else:
                    self._doReadOrWrite(selectable, fd, event)
            except BaseException as error:  # as Twisted does: nothing that a protocol raises ends the loop
                self._cut(selectable, error)

    doIteration = doPoll

    def _prepared(self, timeout: float | None) -> float | None:
        """Make those calls; how long may be waited then."""
        for _ in range(_MOST_ROUNDS):
            calls, self._before = self._before, []
            for call in calls:
                try:
                    call()
                except BaseException:  # as with what a protocol raises
                    _log.failure("What was to be done before waiting failed")
            if not self._before:
                break
        else:
            return 0
        due = self.timeout()  # they may have set timers
        return due if timeout is None else timeout if due is None else min(timeout, due)

    def _cut(self, selectable: Any, error: BaseException) -> None:
        _log.failure("A connection is cut: what came in could not be worked on")
        try:
            self._disconnectSelectable(selectable, error, False)
        except Exception:
            _log.failure("It could not be told that it is cut")


def install() -> bool:
    """Make it the reactor. False when there is one already: whoever imports ``twisted.internet.reactor`` chooses."""
    if "twisted.internet.reactor" in sys.modules:
        return False
    reactor: Any = LeanEPollReactor()
    installReactor(reactor)
    return True
