"""Spooled mail for the contract suites, and a few ways to wait for something without sleeping."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from mailfarm.ids import Ids
from mailfarm.mail.envelope import Envelope, Recipient
from mailfarm.ports import CHUNK, Origin, Spooled

DEADLINE = 20.0
"""Seconds after which a test gives up waiting; a passing test never comes near it."""

LONG = 60.0
"""Seconds of a lease that no test outlives."""

SHORT = 0.05
"""Seconds of a lease that a test waits for the end of."""

MAX_TRIES = 5
"""How often the queues of the contract suite hand an entry out."""


def clock() -> int:
    return time.time_ns() // 1000


IDS = Ids(clock, os.urandom)


class Pieces:
    """Content made of pieces of a size; ``fail_after`` pieces it raises."""

    def __init__(self, data: bytes, piece: int = CHUNK, fail_after: int | None = None) -> None:
        self._data = data
        self._piece = piece
        self._fail_after = fail_after

    @property
    def size(self) -> int:
        return len(self._data)

    async def chunks(self) -> AsyncIterator[bytes]:
        for number, start in enumerate(range(0, len(self._data), self._piece)):
            if number == self._fail_after:
                raise OSError("the file is gone")
            yield self._data[start : start + self._piece]

    def close(self) -> None: ...


ENVELOPE = Envelope("sender@example.com", (Recipient("inbox@mailfarm.test"),))
ORIGIN = Origin("mx", "192.0.2.1", 40000, "client.example.com", "ESMTP")


def spooled(
    content: bytes = b"Subject: hello\r\n\r\nhello\r\n",
    *,
    id: str = "",
    account: str = "",
    envelope: Envelope = ENVELOPE,
    origin: Origin = ORIGIN,
    trace: bytes = b"Received: from client.example.com\r\n",
    piece: int = CHUNK,
    fail_after: int | None = None,
) -> Spooled:
    return Spooled(
        id or IDS.new(),
        account or IDS.new(),
        clock(),
        envelope,
        origin,
        tuple(IDS.new() for _ in envelope.recipients),
        trace,
        sha256(content).digest(),
        Pieces(content, piece, fail_after),
    )


async def octets(mail: Spooled) -> bytes:
    """All of the content; checks the rule about its pieces."""
    pieces = [piece async for piece in mail.content.chunks()]
    assert all(0 < len(piece) <= CHUNK for piece in pieces)
    return b"".join(pieces)


async def until(condition: Callable[[], bool]) -> None:
    """Come back when ``condition`` holds; fails after the deadline."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < ends, "waited too long"
        await deferLater(reactor, 0.005)


def soon(work: object) -> Deferred[object]:
    """The same work, started, and failed when it takes longer than the deadline."""
    deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
    return deferred.addTimeout(DEADLINE, reactor)


def start(work: Awaitable[Any]) -> Deferred[Any]:
    """Begin something now, whatever kind of awaitable it is."""

    async def wait() -> Any:
        return await work

    return Deferred.fromCoroutine(wait())
