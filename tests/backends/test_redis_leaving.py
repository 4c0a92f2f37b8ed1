"""What leaves a client's connection: together, at once, in order; and what becomes of it when the connection ends."""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

import pytest_twisted
from spooled_samples import until
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.error import ConnectionAborted, ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from mailfarm.backends.redis_leaving import Leaving, before_waiting

_reactor: Any = reactor


class Talker(Protocol):
    """The client's side."""

    transport: Any

    def __init__(self) -> None:
        self.received = b""
        self.reasons: list[Failure] = []
        self.writing = False

    def connectionMade(self) -> None:
        self.leaving = Leaving(reactor, self.transport)

    def write(self, *parts: bytes) -> None:
        """As whoever has something to say does."""
        self.writing = True
        self.leaving.write(*parts)
        self.writing = False

    def dataReceived(self, data: bytes) -> None:
        self.received += data

    def connectionLost(self, reason: Failure = Failure(ConnectionLost())) -> None:  # noqa: B008 - Twisted's signature
        assert not self.writing, "told in the middle of a write"
        self.reasons.append(reason)


class Sends:
    """The socket of a transport; ``sizes`` of what it was given."""

    def __init__(self, transport: Any) -> None:
        self.sizes: list[int] = []
        self._real = transport.socket
        transport.socket = self

    def send(self, data: Any) -> int:
        self.sizes.append(len(data))
        return int(self._real.send(data))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Pair:
    """A client and the accepted socket at the other end, for the length of an ``async with``."""

    async def __aenter__(self) -> tuple[Talker, socket.socket]:
        self._port = socket.create_server(("127.0.0.1", 0))
        where = TCP4ClientEndpoint(reactor, *self._port.getsockname())
        self._talker: Talker = await connectProtocol(where, Talker())
        self._other, _ = self._port.accept()
        self._other.setblocking(False)
        return self._talker, self._other

    async def __aexit__(self, *_: object) -> None:
        self._other.close()
        self._port.close()
        if not self._talker.reasons:
            self._talker.transport.abortConnection()
        await until(lambda: self._talker.reasons)


def taken(other: socket.socket, into: bytearray) -> int:
    """All that is there to be read; how much there was until now."""
    try:
        while data := other.recv(1024 * 1024):
            into += data
    except BlockingIOError:
        pass
    return len(into)


@pytest_twisted.ensureDeferred
async def test_what_is_written_in_one_pass_leaves_in_one_piece() -> None:
    async with Pair() as (talker, other):
        sends = Sends(talker.transport)
        talker.transport.startWriting = None  # which nobody is to call
        for number in range(3):
            talker.write(b"%d" % number, b",")
        assert sends.sizes == []
        came = bytearray()
        await until(lambda: taken(other, came) == 6)
        assert came == b"0,1,2,"
        assert sends.sizes == [6]
        talker.write(b"more")
        await until(lambda: taken(other, came) == 10)
        assert sends.sizes == [6, 4]


@pytest_twisted.ensureDeferred
async def test_what_the_socket_does_not_take_follows_in_order() -> None:
    async with Pair() as (talker, other):
        much = bytes(range(256)) * (64 * 1024)
        talker.write(much)
        talker.write(b"the end of the first pass")
        await until(lambda: talker.transport in _reactor.getWriters())
        for number in range(100):  # behind what waits
            talker.write(b"<%d>" % number)
            await deferLater(_reactor, 0)
        came = bytearray()
        wanted = much + b"the end of the first pass" + b"".join(b"<%d>" % number for number in range(100))
        await until(lambda: taken(other, came) == len(wanted))
        assert came == wanted
        await until(lambda: talker.transport not in _reactor.getWriters())


@pytest_twisted.ensureDeferred
async def test_a_connection_that_the_other_end_reset_is_told_lost_once_and_not_to_who_writes() -> None:
    async with Pair() as (talker, other):
        talker.transport.stopReading()  # it has not noticed yet
        other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        other.close()
        talker.write(b"to nobody")
        talker.write(b"at all")
        await until(lambda: talker.reasons)
        talker.write(b"nor later")
        await deferLater(_reactor, 0.01)
        assert [reason.type for reason in talker.reasons] == [ConnectionLost]


@pytest_twisted.ensureDeferred
async def test_an_abort_drops_what_has_not_left() -> None:
    async with Pair() as (talker, other):
        talker.write(b"too late")
        talker.transport.abortConnection()
        await until(lambda: talker.reasons)
        talker.write(b"much too late")
        await deferLater(_reactor, 0.01)
        assert talker.reasons[0].check(ConnectionAborted)
        with suppress(ConnectionResetError):
            assert other.recv(100) == b""


@pytest_twisted.ensureDeferred
async def test_what_is_to_be_done_before_waiting_is_done_on_any_reactor() -> None:
    done: Deferred[None] = Deferred()
    before_waiting(reactor, lambda: done.callback(None))
    assert not done.called
    await done
