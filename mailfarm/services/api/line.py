"""The line before the API where it shares its process with listeners: one request at a time, and mail in between.

In each of its passes a reactor works on all that has come in. A mail takes four passes or five; while fifty clients ask
as fast as they are answered there are fifty requests in each pass, and the mail takes the time of two hundred. So here
one request is worked on at a time, and the next one begins in a later pass, after a moment (``REST``) in which nothing
is begun: what has come in meanwhile goes first. The API answers as many as before, for it is one interpreter that
answers all of them.

A request gives way to the next one while it only waits: a wait or an event stream when it begins to, one that changes
something as soon as its change waits for the disk, where changes share a sync; any other after ``PATIENCE``, since it
reads much or its client reads slowly.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Final

from prometheus_client import CollectorRegistry, Gauge
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred

from mailfarm.net.problems import Problem

PATIENCE: Final = 0.01
"""Seconds."""
REST: Final = 0.2
"""Of the time that the request before has taken."""
MOST: Final = 1_000
"""Requests in line; one more is answered 503."""


class Line:
    """``reactor`` is an IReactorTime."""

    def __init__(self, reactor: Any, registry: CollectorRegistry) -> None:
        self._reactor = reactor
        self._waiting: deque[Deferred[None]] = deque()
        self._at_work: object | None = None
        self._resting: Any = None
        gauge = Gauge("mailfarm_api_in_line", "Requests that wait until it is their turn", registry=registry)
        gauge.set_function(self.__len__)

    def __len__(self) -> int:
        return len(self._waiting)

    async def answer(self, request: Any, work: Callable[[], Any]) -> Any:
        """What ``work`` gives, which answers ``request``, when its turn has come. Raises what it raises; Problem: busy.
        ``request.give_way`` is what it may call when it only waits from now on."""
        if self._at_work is not None or self._waiting or self._resting is not None:
            await self._stand_in_line()
        mine = self._at_work = object()
        began = self._reactor.seconds()

        def give_way() -> None:
            if self._at_work is mine:
                self._at_work = None
                if self._waiting:
                    rest = REST * (self._reactor.seconds() - began)
                    self._resting = self._reactor.callLater(rest, self._call)

        request.give_way = give_way
        patience = self._reactor.callLater(PATIENCE, give_way)
        try:
            working = maybeDeferred(work)
            if request.method not in (b"GET", b"HEAD"):
                give_way()
            return await working
        finally:
            if patience.active():
                patience.cancel()
            give_way()

    async def _stand_in_line(self) -> None:
        if len(self._waiting) >= MOST:
            raise Problem("busy", f"{MOST} requests wait already", headers={"Retry-After": "1"})
        turn: Deferred[None] = Deferred()
        self._waiting.append(turn)
        try:
            await turn
        except CancelledError:  # its client has gone
            self._waiting.remove(turn)
            raise

    def _call(self) -> None:
        self._resting = None
        if self._waiting:
            self._waiting.popleft().callback(None)
