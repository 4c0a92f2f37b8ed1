"""A raw client on loopback for tests that run in the reactor: it sends octets and waits for what comes back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet import defer, reactor, ssl
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.protocols.tls import TLSMemoryBIOFactory

WAIT = 10.0


class Watched:
    """Conditions that are looked at again whenever something happens."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], Any], defer.Deferred[Any]]] = []

    def changed(self) -> None:
        for entry in tuple(self._waiting):
            if entry in self._waiting and (value := entry[0]()):
                self._waiting.remove(entry)
                entry[1].callback(value)

    def until(self, condition: Callable[[], Any], seconds: float = WAIT) -> defer.Deferred[Any]:
        waiting: defer.Deferred[Any] = defer.Deferred()
        entry = (condition, waiting)
        self._waiting.append(entry)

        def late(value: Any, timeout: float) -> Any:
            if entry in self._waiting:
                self._waiting.remove(entry)
            raise AssertionError(f"not so within {timeout} s: {self!r}")

        waiting.addTimeout(seconds, reactor, onTimeoutCancel=late)
        self.changed()
        return waiting


class Client(Protocol, Watched):
    """``received`` is everything that came, ``pieces`` how it came, ``lost`` why the connection ended."""

    transport: Any

    def __init__(self) -> None:
        Watched.__init__(self)
        self.received: bytes | bytearray = bytearray()
        self.pieces: list[bytes] = []
        self.lost: Any = None
        self.taken = 0

    def __repr__(self) -> str:
        return f"<Client received {self.received[-500:]!r} lost {self.lost!r}>"

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.pieces.append(data)
        self.changed()

    def connectionLost(self, reason: Any = ConnectionDone()) -> None:  # noqa: B008 - Twisted's signature
        self.lost = reason
        self.changed()

    def send(self, data: bytes | str) -> None:
        self.transport.write(data.encode() if isinstance(data, str) else data)

    async def reply(self, seconds: float = WAIT) -> str:
        """The next whole reply, several lines parted by ``\\n``."""

        def whole() -> str | None:
            lines: list[str] = []
            at = self.taken
            while (end := self.received.find(b"\r\n", at)) >= 0:
                line = self.received[at:end].decode()
                at = end + 2
                lines.append(line)
                if line[3:4] != "-":
                    self.taken = at
                    return "\n".join(lines)
            return None

        text: str = await self.until(whole, seconds)
        return text

    async def say(self, line: str, seconds: float = WAIT) -> str:
        """Send a command, and its reply."""
        self.send(line + "\r\n")
        return await self.reply(seconds)

    async def codes(self, count: int) -> list[str]:
        """The codes of the next replies."""
        return [(await self.reply())[:3] for _ in range(count)]

    async def ended(self, seconds: float = WAIT) -> None:
        await self.until(lambda: self.lost is not None, seconds)

    async def start_tls(self) -> None:
        self.transport.startTLS(ssl.CertificateOptions(verify=False))

    async def close(self) -> None:
        if self.lost is None:
            self.transport.abortConnection()
            await self.ended()


class _Connecting(ClientFactory):
    noisy = False

    def __init__(self, made: defer.Deferred[Client]) -> None:
        self.made = made

    def buildProtocol(self, addr: Any) -> Client:
        client = Client()
        reactor.callLater(0, self.made.callback, client)
        return client

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.made.errback(reason)


async def connect(port: int, *, tls: bool = False, host: str = "127.0.0.1") -> Client:
    """A connection that is up (a TLS handshake may still be under way)."""
    made: defer.Deferred[Client] = defer.Deferred()
    factory: Any = _Connecting(made)
    if tls:
        factory = TLSMemoryBIOFactory(ssl.CertificateOptions(verify=False), True, factory)
    reactor.connectTCP(host, port, factory, timeout=10)
    return await made


def wait_until(condition: Callable[[], Any], seconds: float = WAIT, every: float = 0.01) -> defer.Deferred[Any]:
    """For what nobody tells us about: look until ``condition()`` is true."""
    done: defer.Deferred[Any] = defer.Deferred()
    start = reactor.seconds()

    def look() -> None:
        value = condition()
        if value:
            done.callback(value)
        elif reactor.seconds() - start > seconds:
            done.errback(AssertionError(f"not so within {seconds} s"))
        else:
            reactor.callLater(every, look)

    look()
    return done
