"""Which server is the master: asked of Redis Sentinels.

All sentinels are asked and the one with the newest configuration is believed (``config-epoch``), for a sentinel that
was cut off still names the master of yesterday. While a link is up they are asked again every second: a master that
was replaced behind our back is left at once, also when it still answers us.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from .redis_connection import Connection, Connector, RedisAway
from .redis_url import RedisUrl

_EVERY = 1.0  # seconds between two looks
_OLDER = 5  # looks with an older answer after which it is believed: the sentinels were set up anew


class Sentinels:
    """The sentinels of ``url``. ``moved`` is told which address the master has, about once a second."""

    def __init__(
        self, url: RedisUrl, connector: Connector, reactor: Any, moved: Callable[[tuple[str, int]], None]
    ) -> None:
        self._url = url
        self._connector = connector
        self._reactor = reactor
        self._moved = moved
        self._connections: dict[tuple[str, int], Connection] = {}
        self._call: Any = None
        self._stopped = True
        self._epoch = -1  # of the newest answer that was given out
        self._older = 0

    def start(self) -> None:
        """Look every second from now on."""
        self._stopped = False
        self._call = self._reactor.callLater(_EVERY, self._look)

    def stop(self) -> None:
        """Look no more, and leave the sentinels."""
        self._stopped = True
        if self._call is not None and self._call.active():
            self._call.cancel()
        for connection in self._connections.values():
            connection.drop("stopped")
        self._connections.clear()

    async def master(self) -> tuple[str, int]:
        """The master's address. Raises RedisAway when no sentinel knows it."""
        epoch, address = await self._newest()
        self._epoch = max(self._epoch, epoch)
        return address

    async def _newest(self) -> tuple[int, tuple[str, int]]:
        asking = [Deferred.fromCoroutine(self._ask(*address)) for address in self._url.hosts]
        asked: list[tuple[bool, Any]] = list(await DeferredList(asking, consumeErrors=True))
        known = [answer for good, answer in asked if good]
        if not known:
            why = "; ".join(failure.getErrorMessage() for _, failure in asked)
            raise RedisAway(f"no sentinel names the master {self._url.master}: {why}")
        newest: tuple[int, tuple[str, int]] = max(known)
        return newest

    async def _ask(self, host: str, port: int) -> tuple[int, tuple[str, int]]:
        connection = self._connections.get((host, port))
        if connection is None or not connection.connected:
            connection = await self._connector.open(host, port)
            if self._stopped:
                connection.drop("stopped")
                raise RedisAway("stopped")
            other = self._connections.get((host, port))
            if other is not None and other.connected:  # lanes ask at the same time
                connection.drop("one is enough")
                connection = other
            self._connections[host, port] = connection
        master = self._url.master
        asked = [
            connection.send("SENTINEL", "MASTER", master),
            connection.send("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master),
        ]
        answers: list[tuple[bool, Any]] = list(await DeferredList(asked, consumeErrors=True))
        for good, answer in answers:
            if not good:
                raise RedisAway(f"{host}:{port}: {answer.getErrorMessage()}")
        facts, address = answers[0][1], answers[1][1]
        if not address:
            raise RedisAway(f"{host}:{port} does not know {master}")
        named = dict(zip(facts[::2], facts[1::2], strict=False))
        return int(named.get(b"config-epoch", b"0")), (address[0].decode(), int(address[1]))

    def _look(self) -> None:
        self._call = None

        def looked(_: Any) -> None:
            if not self._stopped:
                self._call = self._reactor.callLater(_EVERY, self._look)

        def told(newest: tuple[int, tuple[str, int]]) -> None:
            # An answer may be older than the one we went by meanwhile: slow, or of a sentinel that is behind.
            epoch, address = newest
            self._older = self._older + 1 if epoch < self._epoch else 0
            if epoch >= self._epoch or self._older >= _OLDER:
                self._epoch, self._older = epoch, 0
                self._moved(address)

        def failed(failure: Any) -> None:
            failure.trap(RedisAway)  # the link has connections of its own, and goes on with them

        asking = Deferred.fromCoroutine(self._newest())
        asking.addCallback(told).addErrback(failed).addBoth(looked)
