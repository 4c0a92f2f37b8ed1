"""A talk with PostgreSQL through libpq, on a txpostgres connection that rests meanwhile.

What psycopg2 cannot say (``postgres_libpq``) is said here, piece by piece, as the socket lets it: a talk stands in the
connection's ``Watch`` in place of the connection until all is said and heard.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import psycopg2
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .postgres_libpq import Answer, Libpq, Lost, Result


class Talk(ABC):
    """``done`` fires with ``outcome()`` when ``hear`` says that all has been heard. ``link`` is the connection."""

    def __init__(self, link: Any) -> None:
        self.done: Deferred[Any] = Deferred()
        self.libpq = Libpq(link.pollable())
        self._link = link
        self._reactor = link.reactor
        self._fault: Failure | None = None

    @abstractmethod
    def begin(self) -> None:
        """Say the first words."""

    @abstractmethod
    def hear(self) -> bool:
        """All that was said has been sent: hear what is there, say more. Whether all is said and heard."""

    @abstractmethod
    def outcome(self) -> Any:
        """What ``done`` fires with; a Failure goes the other way."""

    def start(self) -> None:
        """Begin."""
        self._link.cursorRunning(self)
        self._go_on(self.begin)

    # ---- what the connection's Watch calls

    def doRead(self) -> None:
        """Something came."""
        self._go_on(self.libpq.consume)

    def doWrite(self) -> None:
        """There is room for more."""
        self._go_on(lambda: None)

    def connectionLost(self, reason: Failure) -> None:
        """The connection was closed under it."""
        self._finish(self._fault or reason)

    # ----

    def _go_on(self, step: Callable[[], None]) -> None:
        over = sent = False
        try:
            step()
            while not over and (sent := self.libpq.flush()) and not self.libpq.busy:
                over = self.hear()
        except Lost as error:
            self._link.end(str(error))  # and that comes to connectionLost
            return
        except Exception as error:  # what was said or heard in part is of no use to anybody else
            self._fault = Failure()
            self._link.end(f"what was said on it was not understood: {error}")
            return
        if sent:
            self._reactor.removeWriter(self)
        else:
            self._reactor.addWriter(self)
        if over:
            self._finish(self.outcome())
        else:
            self._reactor.addReader(self)

    def _finish(self, outcome: Any) -> None:
        if not self.done.called:
            self._link.cursorFinished(self)
            self.done.callback(outcome)


def error_of(result: Answer | Result) -> psycopg2.Error:
    """What psycopg2 would have raised."""
    error: Any = _error_class(result.code)(result.text)  # the stubs do not know what else one can do with it
    error.__setstate__({"pgcode": result.code})
    error.diag = SimpleNamespace(message_primary=result.text, constraint_name=result.constraint or None)
    return error


@lru_cache(64)
def _error_class(code: str) -> Any:
    try:
        known = psycopg2.errors.lookup(code)
    except KeyError:
        known = psycopg2.DatabaseError
    return type(known.__name__, (known,), {"diag": None})  # psycopg2's own diag can only be what libpq gave it
