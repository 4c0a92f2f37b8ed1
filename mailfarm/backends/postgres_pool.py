"""A pool of connections to PostgreSQL that outlives its server.

Connections are made when someone waits for one, at most ``size``, and closed again after a minute without work, all
but one. One that breaks is forgotten, and so is everything about its server: as soon as that answers again, the next
who asks gets a new connection. Nothing has to be restarted.

Who asks waits at most ``wait`` seconds, in line, and then hears why: all are busy, or PostgreSQL does not answer. Once
it has not answered for that long, each failed try to connect ends the waiting of all, so that an outage costs each
caller a moment and not the whole time. The line has an end, too: one more than ``most_waiting`` is refused at once.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable, SchemaMismatch

from .postgres_address import Server
from .postgres_link import Link

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_log = Logger()


class Pool:
    """``answer`` and ``connect`` are the seconds one statement and one try to connect may take. ``reactor`` is an
    IReactorTime, IReactorFDSet and IReactorThreads."""

    def __init__(
        self,
        server: Server,
        reactor: Any,
        *,
        size: int,
        wait: float,
        answer: float,
        connect: float = 4.0,
        most_waiting: int = 2_000,
        idle: float = 60.0,
    ) -> None:
        self._server = server
        self._reactor = reactor
        self._size = size
        self._wait = wait
        self._answer = answer
        self._connect = connect
        self._most_waiting = most_waiting
        self._idle_time = idle
        self._idle: list[Link] = []
        self._busy: set[Link] = set()
        self._connecting: Deferred[None] | None = None
        self._waiting: deque[Deferred[Link]] = deque()
        self._pause = 0.0
        self._retry: Any = None
        self._tidy: Any = None
        self._stopped = False
        self._emptied: list[Deferred[None]] = []
        self._away_since: float | None = None
        self._why = ""

    @property
    def idle(self) -> int:
        """Connections at rest."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Connections at work."""
        return len(self._busy)

    @property
    def waiting(self) -> int:
        """Those who wait for a connection."""
        return len(self._waiting)

    @property
    def away(self) -> str:
        """Why PostgreSQL could not be reached the last time; empty while it can."""
        return self._why if self._away_since is not None else ""

    def start(self) -> None:
        """Make the first connection, in the background."""
        self._stopped = False
        self._grow(1)

    async def stop(self) -> None:
        """Take no more work, and close when what is under way has ended, which it does within its time limits."""
        self._stopped = True
        for timer in (self._retry, self._tidy):
            if timer is not None and timer.active():
                timer.cancel()
        while self._waiting:
            self._waiting.popleft().errback(DatabaseUnavailable("the database is closed"))
        while self._idle:
            self._idle[-1].end()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._busy:
            emptied: Deferred[None] = Deferred()
            self._emptied.append(emptied)
            await emptied

    async def take(self) -> Link:
        """A connection, to be given back. Raises DatabaseUnavailable."""
        if self._stopped:
            raise DatabaseUnavailable("the database is closed")
        if not self._waiting:
            while self._idle:
                link = self._idle.pop()
                if link.resting:
                    self._busy.add(link)
                    return link
                link.end("it was not at rest")
        if len(self._waiting) >= self._most_waiting:
            raise DatabaseUnavailable(f"{len(self._waiting)} already wait for the database")
        waiter: Deferred[Link] = Deferred()
        self._waiting.append(waiter)
        timer = self._reactor.callLater(self._wait, self._give_up, waiter)
        self._grow(1)
        try:
            return await waiter
        except CancelledError:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            raise
        finally:
            if timer.active():
                timer.cancel()

    def suspect(self) -> None:
        """A connection was found dead or dumb: those at rest are not trusted any more, either."""
        while self._idle:
            self._idle[-1].end("its server did not answer on another connection")

    def give(self, link: Link) -> None:
        """Give a connection back. One that has ended, or is in the middle of something, is forgotten."""
        if link not in self._busy:
            return
        if not link.resting:
            link.end("it was not at rest")  # and _ended comes here
            return
        self._busy.discard(link)
        self._hand_out(link)

    def _hand_out(self, link: Link) -> None:
        if self._stopped:
            link.end()
            self._check_emptied()
        elif self._waiting:
            self._busy.add(link)
            self._waiting.popleft().callback(link)
        else:
            link.idle_since = self._reactor.seconds()
            self._idle.append(link)
            if self._tidy is None or not self._tidy.active():
                self._tidy = self._reactor.callLater(self._idle_time, self._close_idle)

    def _close_idle(self) -> None:
        before = self._reactor.seconds() - self._idle_time
        for link in [link for link in self._idle if link.idle_since <= before]:
            if len(self._idle) + len(self._busy) > 1:
                link.end("it was idle")
        if len(self._idle) + len(self._busy) > 1 and not self._stopped:
            self._tidy = self._reactor.callLater(self._idle_time, self._close_idle)

    def _give_up(self, waiter: Deferred[Link]) -> None:
        if waiter not in self._waiting:
            return
        self._waiting.remove(waiter)
        waiter.errback(self._unavailable())

    def _unavailable(self) -> DatabaseUnavailable:
        if not self._busy:
            why = self._why or f"no connection within {self._wait:g} s"
            return DatabaseUnavailable(f"{self._server} cannot be used: {why}")
        text = f"{len(self._busy)} of {self._size} connections to {self._server} were busy for {self._wait:g} s"
        more = f", and there cannot be more: {self._why}" if self._why else ""
        return DatabaseUnavailable(text + more)

    def _ended(self, link: Link) -> None:
        self._busy.discard(link)
        if link in self._idle:
            self._idle.remove(link)
        self._check_emptied()
        if self._waiting:
            self._grow(1)

    def _check_emptied(self) -> None:
        if self._stopped and not self._busy:
            while self._emptied:
                self._emptied.pop().callback(None)

    # ---- connecting: one at a time, as a server that has just come back has enough to do

    def _grow(self, wanted: int) -> None:
        resting = self._retry is not None and self._retry.active()
        if self._stopped or self._connecting is not None or resting:
            return
        if len(self._idle) + len(self._busy) < self._size and wanted > 0:
            self._connecting = Deferred.fromCoroutine(self._open())
            self._connecting.addBoth(self._opened)

    async def _open(self) -> None:
        errors: list[str] = []
        try:
            for way in await self._server.ways(self._reactor, self._connect):
                link = Link(self._reactor, answer=self._answer, on_end=self._ended)
                try:
                    await link.open(way, self._connect)
                except (DatabaseUnavailable, SchemaMismatch) as error:
                    errors.append(str(error))
                    continue
                self._reached()
                self._hand_out(link)
                return
        except DatabaseUnavailable as error:
            errors.append(str(error))
        self._failed("; ".join(dict.fromkeys(errors)))

    def _opened(self, result: Any) -> None:
        self._connecting = None
        if result is not None and not result.check(CancelledError):
            _log.failure("connecting to the database failed", failure=result)
            self._failed("a mistake of mailfarm's own, see its log")
        self._grow(len(self._waiting))

    def _reached(self) -> None:
        self._pause = 0.0
        self._why = ""
        if self._away_since is not None:
            away = self._reactor.seconds() - self._away_since
            _log.info("{server} answers again, after {away:.1f} s", server=str(self._server), away=away)
            self._away_since = None

    def _failed(self, why: str) -> None:
        now = self._reactor.seconds()
        if self._away_since is None and not self._busy and not self._idle:
            self._away_since = now
            _log.warn("{server} cannot be used: {why}", server=str(self._server), why=why)
        self._why = why
        self._pause = min(max(2 * self._pause, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._retry = self._reactor.callLater(self._pause, self._again)
        if self._away_since is not None and now - self._away_since >= self._wait:
            while self._waiting:
                self._waiting.popleft().errback(self._unavailable())

    def _again(self) -> None:
        # also with nobody waiting: the first who asks after an outage should not have to find out that it is over
        self._grow(1 if self._away_since is not None else len(self._waiting))
