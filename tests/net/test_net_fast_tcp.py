"""Connections that send, close and come in at once: what arrives is the same, and in order."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest
import pytest_twisted
from loopback import Client, connect, wait_until
from twisted.internet import reactor
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.python.failure import Failure

from mailfarm.net.fast_tcp import FastEndpoint


class Spoken(Protocol):
    """Does what a test says with what comes in, and notes its end."""

    transport: Any

    def __init__(self, answer: Callable[[Any, bytes], None]) -> None:
        self.answer = answer
        self.received = b""
        self.reason: Failure | None = None

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.answer(self.transport, data)

    def connectionLost(self, reason: Failure = Failure(ConnectionDone())) -> None:  # noqa: B008 - Twisted's signature
        assert self.reason is None, "told twice"
        self.reason = reason


class Port:
    """A port that answers in one way; its connections in ``came``."""

    def __init__(self, answer: Callable[[Any, bytes], None]) -> None:
        self.came: list[Spoken] = []
        self.turned_away = 0
        self.factory = Factory()
        self.factory.buildProtocol = self.build
        self.answer = answer

    def build(self, address: Any) -> Any:
        if self.turned_away:
            self.turned_away -= 1
            return None
        self.came.append(Spoken(self.answer))
        return self.came[-1]

    async def __aenter__(self) -> Port:
        self.port: Any = await FastEndpoint(reactor, "127.0.0.1", 0).listen(self.factory)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.port.stopListening()

    async def connect(self) -> Client:
        return await connect(self.port.getHost().port)


@pytest_twisted.ensureDeferred
async def test_a_fault_while_one_is_taken_keeps_nobody_else_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next client gets the same descriptor; the reactor must not believe that it has it already."""

    def broken(self: Spoken) -> None:
        monkeypatch.undo()
        raise MemoryError("no room for another")

    monkeypatch.setattr(Spoken, "connectionMade", broken)
    async with Port(say_goodbye) as port:
        first = await port.connect()
        await first.ended()
        assert first.received == b""
        assert port.came[0].reason is not None
        for _ in range(3):
            client = await port.connect()
            client.send(b"hello")
            await client.ended()
            assert client.received == b"bye\r\n"


def say_goodbye(transport: Any, data: bytes) -> None:
    transport.write(b"bye\r\n")
    transport.loseConnection()
    transport.loseConnection()
    transport.write(b"never")


@pytest_twisted.ensureDeferred
async def test_closing_while_reading_sends_everything_first_and_tells_once() -> None:
    async with Port(say_goodbye) as port:
        client = await port.connect()
        client.send(b"hello")
        await client.ended()
        assert client.received == b"bye\r\n"
        (server,) = port.came
        await wait_until(lambda: server.reason is not None)
        assert server.reason is not None
        assert server.reason.check(ConnectionDone)
        assert server.received == b"hello"


@pytest_twisted.ensureDeferred
async def test_closing_with_much_unwritten_writes_it_all() -> None:
    much = b"x" * (16 * 1024 * 1024)

    def answer(transport: Any, data: bytes) -> None:
        transport.write(much)
        transport.loseConnection()

    async with Port(answer) as port:
        client = await port.connect()
        client.send(b"hello")
        await client.ended()
        assert client.received == much
        await wait_until(lambda: port.came[0].reason is not None)


@pytest.mark.parametrize("first", ["abortConnection", "loseConnection"])
@pytest_twisted.ensureDeferred
async def test_an_abort_is_told_as_one(first: str) -> None:
    def answer(transport: Any, data: bytes) -> None:
        getattr(transport, first)()
        transport.abortConnection()
        transport.loseConnection()

    async with Port(answer) as port:
        client = await port.connect()
        client.send(b"hello")
        await wait_until(lambda: port.came and port.came[0].reason is not None)
        reason = port.came[0].reason
        assert reason is not None
        assert reason.check(ConnectionAborted if first == "abortConnection" else ConnectionDone)
        await client.ended()


@pytest_twisted.ensureDeferred
async def test_closing_from_outside_of_a_read() -> None:
    async with Port(lambda transport, data: None) as port:
        client = await port.connect()
        client.send(b"hello")
        await wait_until(lambda: port.came and port.came[0].received)
        port.came[0].transport.loseConnection()
        await client.ended()
        await wait_until(lambda: port.came[0].reason is not None)


@pytest_twisted.ensureDeferred
async def test_many_come_in_at_once_and_one_that_is_not_wanted_is_closed() -> None:
    async with Port(lambda transport, data: transport.write(data)) as port:
        port.turned_away = 1
        address = ("127.0.0.1", port.port.getHost().port)
        sockets = [socket.create_connection(address) for _ in range(150)]
        try:
            await wait_until(lambda: len(port.came) == 149)
            assert all(each.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for each in port.came)
            assert len({each.transport.sessionno for each in port.came}) == 149
            assert "Spoken" in repr(port.came[0].transport)
            assert "127.0.0.1" in port.came[0].transport.logPrefix()
        finally:
            for each in sockets:
                each.close()
        await wait_until(lambda: all(each.reason is not None for each in port.came))


@pytest_twisted.ensureDeferred
async def test_an_error_of_accept_is_twisteds_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Port(lambda transport, data: transport.write(data)) as port:

        class Failing:
            def __init__(self, real: Any) -> None:
                self.real, self.errors = real, [errno.EMFILE, errno.ECONNABORTED]

            def accept(self) -> Any:
                if self.errors:
                    raise OSError(self.errors.pop(0), "as the system says")
                return self.real.accept()

            def __getattr__(self, name: str) -> Any:
                return getattr(self.real, name)

        failing = Failing(port.port.socket)
        monkeypatch.setattr(port.port, "socket", failing)
        client = await port.connect()
        client.send(b"hello")
        await client.until(lambda: client.received == b"hello")
        assert not failing.errors
        await client.close()
