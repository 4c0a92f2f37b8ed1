"""A WebSocket client on a real socket, for tests of `live`."""

from __future__ import annotations

import json
from typing import Any

from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from farm_api import pump
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint

from mailfarm.services.live import Live


class Client(WebSocketClientProtocol):
    """Keeps what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[dict[str, Any]] = []
        self.open = False
        self.ended: tuple[int | None, str | None] | None = None

    def onOpen(self) -> None:
        self.open = True

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.heard.append(json.loads(payload))

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.ended = (code, reason)

    def say(self, **form: Any) -> None:
        self.sendMessage(json.dumps(form).encode())

    async def until(self, condition: Any, seconds: float = 10) -> None:
        await pump(lambda: condition(self), seconds=seconds)

    async def next(self, kind: str) -> dict[str, Any]:
        """The next frame of a type; what comes before it is dropped."""
        await self.until(lambda self: any(frame["type"] == kind for frame in self.heard) or self.ended)
        for number, frame in enumerate(self.heard):
            if frame["type"] == kind:
                del self.heard[: number + 1]
                return frame
        raise AssertionError(f"the connection ended instead: {self.ended}, {self.heard}")

    def of(self, *kinds: str) -> list[dict[str, Any]]:
        return [frame for frame in self.heard if frame["type"] in kinds]


async def listen(farm: Any, **changes: Any) -> Live:
    """A Live of its own on a free port of loopback; `feeds.look` is not called."""
    given = {
        "endpoints": (TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"),),
        "database": farm.database,
        "bus": farm.bus,
        "feeds": farm.feeds,
        "spawn": farm.spawn,
        "reactor": reactor,
        "account": farm.account,
        "incident": farm.ids.new,
    }
    live = Live(**(given | changes))
    await live.start()
    farm.cleanup.append(live.stop)
    return live


async def connect(
    port: int,
    *,
    hello: bool = True,
    path: str = "/v1/events",
    host: str = "",
    origin: str | None = None,
    **headers: str,
) -> Client:
    """A connection that has heard hello; or, without ``hello``, one that may be refused."""
    name = host or f"127.0.0.1:{port}"
    factory = WebSocketClientFactory(
        f"ws://{name}{path}", origin=origin, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    factory.protocol = Client
    factory.noisy = False
    client = await TCP4ClientEndpoint(reactor, "127.0.0.1", port).connect(factory)
    await client.until(lambda self: self.open or self.ended)
    if hello:
        assert (await client.next("hello"))["heartbeat"]
    return client
