"""The connection on which a process hears Redis channels: those it wants, and no others.

What is wanted and what Redis has confirmed are two sets; the difference is sent in batches of at most ``AT_ONCE``
channels, one under way at a time, so that twenty thousand channels after a reconnection neither stall Redis nor fill
the buffer it keeps for us::

    (UN)SUBSCRIBE channel …, PING   ->   a line for each channel, PONG: all of them are confirmed

A connection that does not answer a PING within the link's timeout is dropped. It is opened again within half a second
of Redis being back, and everything wanted is subscribed anew.

What is published on one server is not heard on another. So the connection stays where the link's leads, and the link's
is asked every ``BEAT`` seconds whether that is the master still: one name may lead to master and replica, and a master
that became a replica keeps its connections.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from .redis_link import Lane, RedisAway, RedisLink, RedisRefused

_log = Logger()

AT_ONCE: Final = 500
"""Channels in one command: some tens of kilobytes."""
BEAT: Final = 2.0
"""Seconds between two PINGs, and between two looks at the link's server."""


class Topics:
    """``heard(channel, message)`` is told each message; ``back()`` that the connection is up and everything wanted is
    subscribed; ``lost(why)`` that it is not up, as often as a try to connect fails."""

    def __init__(
        self,
        link: RedisLink,
        reactor: Any,
        *,
        heard: Callable[[bytes, bytes], None],
        back: Callable[[], None],
        lost: Callable[[str], None],
    ) -> None:
        self._link = link
        self._reactor = reactor
        self._heard = heard
        self._back = back
        self._lost = lost
        self._wanted: dict[bytes, None] = {}
        self._confirmed: set[bytes] = set()
        self._changed: dict[bytes, None] = {}
        self._waiting: dict[bytes, list[Deferred[None]]] = {}
        self._connection: Any = None
        self._server = self._of_link = b""  # the servers that this connection and the link's lead to
        self._settling = False
        self._beating: Any = None
        self._lane = Lane(reactor, lambda: link.open(self._pushed), self._opened, self._told)
        link.greet(self._follow)

    def start(self) -> None:
        """Begin to connect."""
        self._lane.start()
        self._beating = self._reactor.callLater(BEAT, self._beat)

    async def stop(self) -> None:
        """Hear nothing more."""
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None
        await self._lane.stop()
        self._release_all()

    def __len__(self) -> int:
        """How many channels Redis has confirmed."""
        return len(self._confirmed)

    def want(self, channel: bytes) -> Deferred[None] | None:
        """Hear a channel. None when it is confirmed already; else fires when it is, or when the connection is lost."""
        self._wanted[channel] = None
        if channel in self._confirmed and channel not in self._changed:
            return None
        confirmed: Deferred[None] = Deferred()
        self._waiting.setdefault(channel, []).append(confirmed)
        self._change(channel)
        return confirmed

    def leave(self, channel: bytes) -> None:
        """Hear a channel no more."""
        del self._wanted[channel]
        self._release(channel)
        self._change(channel)

    def _change(self, channel: bytes) -> None:
        self._changed[channel] = None
        if self._connection is not None and not self._settling:
            self._background(self._settle())

    async def _opened(self, connection: Any) -> None:
        self._server = await _server(connection)
        self._connection = connection
        self._confirmed.clear()
        self._changed = dict.fromkeys(self._wanted)
        try:
            await self._settle()
        except BaseException:
            self._connection = None
            raise
        self._back()

    async def _follow(self, connection: Any) -> None:
        """The link has a connection. One that may lead to another server than ours is followed there."""
        self._of_link = await _server(connection)
        if not self._of_link or self._of_link != self._server:
            self._leave()

    def _leave(self) -> None:
        if self._connection is not None:
            self._connection.drop("another server is the master now")

    def _looked(self, said: bytes) -> None:
        if b"role:slave" in said:
            self._link.look_again("it is a replica now")
        elif self._of_link and self._of_link != self._server:  # opened at the same time, while the name changed
            self._leave()

    async def _settle(self) -> None:
        """Make what Redis has confirmed what is wanted. Raises RedisAway."""
        connection = self._connection
        self._settling = True
        try:
            while self._changed and self._connection is connection:
                batch = list(islice(self._changed, AT_ONCE))
                for channel in batch:
                    del self._changed[channel]
                more = [each for each in batch if each in self._wanted and each not in self._confirmed]
                fewer = [each for each in batch if each not in self._wanted and each in self._confirmed]
                # sent as they are: they have no answer of their own, and PING's comes after all of theirs
                for verb, channels in ((b"SUBSCRIBE", more), (b"UNSUBSCRIBE", fewer)):
                    if channels:
                        connection.tell(verb, *channels)
                self._confirmed.difference_update(fewer)
                if more or fewer:
                    await connection.send("PING")
                self._confirmed.update(more)
                for channel in batch:
                    if channel in self._confirmed:
                        self._release(channel)
        finally:
            self._settling = False

    def _told(self, why: str) -> None:
        if not why:
            return
        self._connection = None
        self._confirmed.clear()
        self._release_all()
        self._lost(why)

    def _release(self, channel: bytes) -> None:
        for waiting in self._waiting.pop(channel, ()):
            waiting.callback(None)

    def _release_all(self) -> None:
        for channel in tuple(self._waiting):
            self._release(channel)

    def _pushed(self, line: list[Any]) -> None:
        if line[0] == b"message":
            self._heard(line[1], line[2])

    def _beat(self) -> None:
        self._beating = self._reactor.callLater(BEAT, self._beat)
        if self._connection is not None and not self._settling:
            self._connection.send("PING").addErrback(lambda failure: failure.trap(RedisAway))
        looking = self._link.command("INFO", "replication").addCallback(self._looked)
        looking.addErrback(lambda failure: failure.trap(RedisAway))  # an access list may not allow it

    def _background(self, work: Any) -> None:
        def failed(failure: Any) -> None:
            if not failure.check(RedisAway):  # then the connection ends, too, and all begins anew
                _log.failure("channels of the bus could not be subscribed", failure)

        Deferred.fromCoroutine(work).addErrback(failed)


async def _server(connection: Any) -> bytes:
    """The name a server has from its start to its end; empty where it may not be asked. Raises RedisAway."""
    try:
        said: bytes = await connection.send("INFO", "server")
    except RedisRefused:  # an access list may not allow it
        return b""
    return said.partition(b"run_id:")[2].partition(b"\r\n")[0]
