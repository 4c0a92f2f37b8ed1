"""A connection of its own on which a link's server says what is published: channels that come and go.

It is kept open as the link's are. What is published while it is away is not heard; ``again`` is told when it is back
and has subscribed to everything again, so that whoever listens may look.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from .redis_connection import Connection, RedisAway
from .redis_link import Lane, RedisLink


class RedisSubscriber:
    """``hear(channel, payload)`` is called for each message; it must not raise."""

    def __init__(
        self, link: RedisLink, hear: Callable[[bytes, bytes], None], again: Callable[[], None] = lambda: None
    ) -> None:
        self._hear = hear
        self._again = again
        self._reactor = link.reactor
        self._every = link.timeout / 2
        self._wanted: dict[bytes, list[Deferred[None]]] = {}
        self._confirmed: set[bytes] = set()
        self._ping: Any = None
        self._lane = Lane(link.reactor, lambda: link.open(self._pushed), self._opened)

    @property
    def connected(self) -> bool:
        """Whether every channel that is wanted is subscribed to now."""
        return self._lane.connection is not None and self._confirmed >= self._wanted.keys()

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        self._lane.start()
        self._ping = self._reactor.callLater(self._every, self._check)

    async def stop(self) -> None:
        """Hear nothing more. Those who still wait for a subscription get a RedisAway."""
        if self._ping is not None and self._ping.active():
            self._ping.cancel()
        await self._lane.stop()
        for waiting in self._wanted.values():
            for each in waiting:
                each.errback(RedisAway("the subscriber was stopped"))
        self._wanted.clear()

    def subscribe(self, channel: bytes) -> Deferred[None]:
        """Fires when the server has confirmed it, which may be never; the wish stands until ``unsubscribe``."""
        done: Deferred[None] = Deferred(lambda done: self._forget(channel, done))
        waiting = self._wanted.get(channel)
        if waiting is None:
            waiting = self._wanted[channel] = []
            if self._lane.connection is not None:
                self._lane.connection.tell("SUBSCRIBE", channel)
        if channel in self._confirmed:
            done.callback(None)
        else:
            waiting.append(done)
        return done

    def unsubscribe(self, channel: bytes) -> None:
        """Want this channel no more."""
        waiting = self._wanted.pop(channel, None)
        self._confirmed.discard(channel)
        if waiting is not None and self._lane.connection is not None:
            self._lane.connection.tell("UNSUBSCRIBE", channel)
        for each in waiting or ():
            each.errback(CancelledError())

    def _forget(self, channel: bytes, done: Deferred[Any]) -> None:
        if done in self._wanted.get(channel, ()):
            self._wanted[channel].remove(done)

    async def _opened(self, connection: Connection) -> None:
        self._confirmed.clear()
        if self._wanted:
            connection.tell("SUBSCRIBE", *self._wanted)

    def _pushed(self, message: list[Any]) -> None:
        if message[0] == b"message":
            if message[1] in self._wanted:
                self._hear(message[1], message[2])
        elif message[0] == b"subscribe" and message[1] in self._wanted:
            complete = self._confirmed >= self._wanted.keys()
            self._confirmed.add(message[1])
            waiting, self._wanted[message[1]] = self._wanted[message[1]], []
            for each in waiting:
                each.callback(None)
            if not complete and self._confirmed >= self._wanted.keys():
                self._again()

    def _check(self) -> None:
        """A connection that is dead says nothing, as one does on which nothing is published."""
        self._ping = self._reactor.callLater(self._every, self._check)
        if self._lane.connection is not None:
            self._lane.connection.send("PING").addErrback(lambda failure: failure.trap(RedisAway))
