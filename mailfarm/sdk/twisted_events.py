"""Live events for the Twisted client, over the server's WebSocket ``/v1/events``.

We send ``{"op": "subscribe", "mailbox": …, "after": N}`` and hear the changes after N, each once and in order. When the
connection is cut we make it again and go on after the last change we heard. The server pings, Autobahn answers; we
ping too, so that a dead connection is noticed.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

import autobahn.twisted.websocket as websocket
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.ssl import optionsForClientTLS
from twisted.internet.task import deferLater

from .errors import problem_error
from .events import LARGEST, SILENCE, Following
from .values import Event, Summary
from .wire import BUSY, FIRST_PAUSE, LONGEST_PAUSE, Failure, Server

M = TypeVar("M")
CONNECTING = 10.0
MANY, FEW = 1000, 100
"""Frames heard and not yet asked for, above which we stop reading and below which we go on: then the server knows."""

# Autobahn is not typed
ClientProtocol: Any = websocket.WebSocketClientProtocol
ClientFactory: Any = websocket.WebSocketClientFactory


class _Socket(ClientProtocol):  # type: ignore[misc]  # it is not typed
    """Puts frames into its factory's queue."""

    factory: _Factory

    def onOpen(self) -> None:
        self.subscribe()

    def subscribe(self) -> None:
        """Ask for what comes after the last change that was seen."""
        self.sendMessage(json.dumps(self.factory.following.subscribe()).encode())

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.factory.hear(payload)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.hear(Failure(f"{reason or 'the connection was cut'} ({code})", sent=True))


class _Factory(ClientFactory):  # type: ignore[misc]  # it is not typed
    """One connection; ``hear`` is told each frame, and a Failure at its end."""

    protocol: Any = _Socket

    def __init__(self, url: str, token: str | None, following: Following, hear: Callable[[Any], None], reactor: Any):
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        super().__init__(url, headers=headers, useragent="mailfarm-sdk", reactor=reactor)
        self.following = following
        self.hear = hear
        self.setProtocolOptions(
            maxMessagePayloadSize=LARGEST,
            maxFramePayloadSize=LARGEST,
            openHandshakeTimeout=CONNECTING,
            closeHandshakeTimeout=1,
            autoPingInterval=SILENCE / 2,
            autoPingTimeout=SILENCE / 2,
        )


class TwistedEvents(Generic[M]):
    """A mailbox's changes: an asynchronous iterator whose ``next()`` is a Deferred. ``close()`` it when you stop early.

    It ends (StopAsyncIteration) when the mailbox is deleted, when its time is over, and when it was closed.
    """

    def __init__(
        self,
        reactor: Any,
        server: Server,
        token: str | None,
        following: Following,
        wrap: Callable[[Summary], M],
        timeout: float | None,
        roots: Any = None,
    ) -> None:
        self._reactor = reactor
        self._server = server
        self._token = token
        self._roots = roots
        self._following = following
        self._wrap = wrap
        self._deadline = None if timeout is None else reactor.seconds() + timeout
        self._socket: Any = None
        self._connected = False
        self._closed = False
        self._pause = FIRST_PAUSE
        self._heard: deque[Any] = deque()
        self._waiting: Deferred[None] | None = None

    def __aiter__(self) -> TwistedEvents[M]:
        return self

    def next(self) -> Deferred[Event[M]]:
        """The next change. Fails with StopAsyncIteration at the end; ask for one at a time."""
        return Deferred.fromCoroutine(self.__anext__())

    async def __anext__(self) -> Event[M]:
        while not (self._closed or self._over()):
            if not self._heard:
                await self._more()
                continue
            frame = self._heard.popleft()
            if len(self._heard) == FEW and self._socket is not None:
                self._socket.transport.resumeProducing()
            if isinstance(frame, Failure):
                await self._cut(frame)
                continue
            event = self._following.receive(frame)
            self._pause = FIRST_PAUSE
            self._server.reached = True
            if event is not None:
                message = None if event.message is None else self._wrap(event.message)
                if self._following.ended():
                    self.close()
                elif event.type == "resync" and self._socket is not None:
                    self._socket.subscribe()
                return Event(event.type, event.mailbox, event.seq, event.at, message, event.ids, event.seen)
        self.close()
        raise StopAsyncIteration

    def close(self) -> None:
        """Hear no more. A Deferred that waits for the next change ends with StopAsyncIteration."""
        self._closed = True
        self._drop()
        self._wake()

    async def __aenter__(self) -> TwistedEvents[M]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Until something is heard

    async def _more(self) -> None:
        """Return once there is something to look at: a frame, the end of the time, or ``close``."""
        if not self._connected:
            await self._connect()
            return
        timer = None if self._deadline is None else self._reactor.callLater(self._left(), self._wake)
        self._waiting = Deferred()
        try:
            await self._waiting
        finally:
            self._waiting = None
            if timer is not None and timer.active():
                timer.cancel()

    async def _connect(self) -> None:
        parts = urlsplit(self._server.url)
        tls = parts.scheme == "https"
        host, port = parts.hostname or "", parts.port or (443 if tls else 80)
        url = f"{'wss' if tls else 'ws'}://{parts.netloc.rpartition('@')[2]}{parts.path}/v1/events"
        factory = _Factory(url, self._token, self._following, self._hear, self._reactor)
        endpoint: Any = HostnameEndpoint(self._reactor, host, port, timeout=CONNECTING)
        if tls:
            endpoint = wrapClientTLS(optionsForClientTLS(host, trustRoot=self._roots), endpoint)
        try:
            self._socket = await endpoint.connect(factory)
        except CancelledError:
            raise
        except Exception as error:  # whatever a connection can fail of: names, routes, TLS
            failure = Failure(str(error) or type(error).__name__, sent=False)
            if not self._server.reached:
                raise self._server.unreachable(failure) from error
            await self._rest()
        else:
            self._connected = True
            if self._closed:
                self._drop()

    async def _cut(self, failure: Failure) -> None:
        """The connection is gone. One that was refused by HTTP will be again, unless the server is only busy."""
        self._connected, self._socket = False, None
        refused = re.search(r"upgrade failed \[(\d{3})\]|\(4(401)\)", str(failure))
        status = int(refused[1] or refused[2]) if refused else 0
        if status and status not in BUSY:
            raise problem_error(status, {"title": str(failure)}, "GET /v1/events")
        if not self._server.reached:
            raise self._server.unreachable(failure)
        await self._rest()

    async def _rest(self) -> None:
        await deferLater(self._reactor, self._pause if self._deadline is None else min(self._pause, self._left()))
        self._pause = min(self._pause * 2, LONGEST_PAUSE)

    # Small things

    def _hear(self, frame: Any) -> None:
        if not self._closed:
            self._heard.append(frame)
            if len(self._heard) == MANY and self._socket is not None:
                self._socket.transport.pauseProducing()
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.called:
            self._waiting.callback(None)

    def _left(self) -> float:
        return max(0.0, (self._deadline or 0.0) - float(self._reactor.seconds()))

    def _over(self) -> bool:
        return self._deadline is not None and self._left() == 0.0 and not self._heard

    def _drop(self) -> None:
        socket, self._socket, self._connected = self._socket, None, False
        if socket is not None:
            socket.dropConnection(abort=True)
