"""One connection to a Redis server (RESP 2), on txredisapi's protocol and hiredis.

Of txredisapi this uses the reader and its errors. Commands go through ``send``, because every call here has a deadline:
replies come in order, so when the oldest one is late the connection is good for nothing, and all that is in flight on
it fails at once. Replies are raw: ``bytes``, ``int``, ``None`` and lists of these.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import hiredis
import txredisapi
from OpenSSL import crypto
from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, wrapClientTLS
from twisted.internet.error import ConnectingCancelledError, ConnectionDone, ConnectionLost
from twisted.internet.protocol import Factory
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure

from mailfarm.errors import Temporary

from .redis_leaving import Leaving

Argument = bytes | str | int | float
Parts = list[bytes]
"""A long value, as the last argument of a command: it is joined once, with all that leaves in the same pass."""
SEND_AT_ONCE = 1024 * 1024
"""Octets that the kernel is offered in one call, where Twisted offers 128 KiB and then waits for its turn."""

READ, READ_MORE = 64 * 1024, 256 * 1024
"""Octets in one read; the second behind one that was full, for then large content is coming."""


class RedisAway(Temporary):
    """The server did not answer in time, or there is no connection to it. What was asked may have been done."""


class RedisRefused(RedisAway):
    """The server answered with an error; nothing was done. ``code`` is its first word: OOM, NOAUTH, READONLY."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.code = text.partition(" ")[0]


_pack: Callable[[tuple[Any, ...]], bytes] = hiredis.pack_command


class Packed(NamedTuple):
    """Arguments as they cross the wire, as the last one of a command: how many they are, and their octets in parts."""

    arguments: int
    parts: list[bytes]


def packed(command: Sequence[Argument | Parts | Packed]) -> list[bytes]:
    """A command as it crosses the wire, in parts."""
    value = command[-1]
    if isinstance(value, Packed):
        head = _pack(tuple(command[:-1]))
        return [b"*%d\r\n%b" % (len(command) - 1 + value.arguments, head.partition(b"\r\n")[2]), *value.parts]
    if not isinstance(value, list):
        return [_pack(tuple(command))]
    head = _pack((*command[:-1], b""))
    return [head.removesuffix(b"$0\r\n\r\n") + b"$%d\r\n" % sum(map(len, value)), *value, b"\r\n"]


class Connection(txredisapi.RedisProtocol):
    """Made by ``Connector``. ``pushed`` hears what arrives unasked, on a connection that subscribes."""

    def __init__(self, reactor: Any, timeout: float, pushed: Callable[[list[Any]], None] | None = None) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self.gone: Deferred[str] = Deferred()
        """Fires once, with the reason, when the connection has ended."""
        self.address: tuple[str, int] = ("", 0)
        self._clock = reactor
        self._timeout = timeout
        self.pushed = pushed
        self._in_flight: deque[tuple[float, Deferred[Any]]] = deque()
        self._watch: Any = None
        self._why = ""
        self._leaving: Leaving

    def tell(self, *args: Argument) -> None:
        """Send a command whose answer, if any, is pushed: SUBSCRIBE and UNSUBSCRIBE."""
        if self.connected and not self._why:
            self._leaving.write(_pack(args))

    def send(self, *args: Argument, timeout: float | None = None) -> Deferred[Any]:
        """Send a command. Fails with RedisAway after ``timeout`` seconds at the latest, RedisRefused."""
        if not self.connected or self._why:
            return fail(RedisAway(self._why or "the connection has ended"))
        try:
            packed = _pack(args)
        except UnicodeEncodeError as error:
            return fail(ValueError(f"a command cannot be sent: {error.reason}"))
        answer: Deferred[Any] = Deferred()
        self._in_flight.append((self._clock.seconds() + (timeout or self._timeout), answer))
        if self._watch is None:
            self._look()
        self._leaving.write(packed)
        return answer

    def send_all(self, *commands: Sequence[Argument | Parts | Packed]) -> list[Deferred[Any]]:
        """Send commands in one go; the answer to each. They fail as that of ``send`` does."""
        if not self.connected or self._why:
            return [fail(RedisAway(self._why or "the connection has ended")) for _ in commands]
        try:
            parts = [part for command in commands for part in packed(command)]
        except UnicodeEncodeError as error:
            return [fail(ValueError(f"a command cannot be sent: {error.reason}")) for _ in commands]
        answers: list[Deferred[Any]] = [Deferred() for _ in commands]
        deadline = self._clock.seconds() + self._timeout
        self._in_flight.extend((deadline, answer) for answer in answers)
        if self._watch is None:
            self._look()
        self._leaving.write(*parts)
        return answers

    def drop(self, why: str) -> None:
        """End the connection now; what is in flight fails."""
        if not self._why:
            self._why = why
            self.transport.abortConnection()

    def _look(self) -> None:
        self._watch = None
        if not self._in_flight:
            return
        left = self._in_flight[0][0] - self._clock.seconds()
        if left <= 0:
            self.drop("it did not answer in time")
        else:
            self._watch = self._clock.callLater(left + 0.001, self._look)

    # What Twisted and txredisapi call

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.setTcpKeepAlive(True)
        self.transport.SEND_LIMIT = SEND_AT_ONCE
        self._leaving = Leaving(self._clock, self.transport)

    def dataReceived(self, data: bytes, unpause: bool = False) -> None:
        # not txredisapi's, which looks at each value of each reply, to convert what stays as it is here
        most = READ if len(data) < READ else READ_MORE
        if self.transport.bufferSize != most:
            self.transport.bufferSize = most
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not False:
                self.replyReceived(reply)
        except (txredisapi.InvalidData, hiredis.HiredisError, TypeError) as error:  # TypeError: a list as a map's key
            self.drop(f"what it says is not RESP: {error}")

    def replyReceived(self, reply: Any) -> None:
        if self.pushed is not None and isinstance(reply, list) and len(reply) > 2:  # a pong has two values
            self.pushed(reply)
            return
        if not self._in_flight:
            self.drop(str(reply) if isinstance(reply, Exception) else "it answers what was not asked")
            return
        answer = self._in_flight.popleft()[1]
        if isinstance(reply, Exception):
            answer.errback(RedisRefused(str(reply)))
        else:
            answer.callback(reply)

    def connectionLost(self, reason: Failure) -> None:
        self.connected = 0
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if not self._why:
            clean = reason.check(ConnectionDone, ConnectionLost)
            self._why = "the connection was closed" if clean else reason.getErrorMessage()
        waiting, self._in_flight = self._in_flight, deque()
        for _, answer in waiting:
            answer.errback(RedisAway(self._why))
        self.gone.callback(self._why)


class Connector:
    """Opens connections and signs in on them. ``ca`` is a file of certificates to trust in place of the system's.

    Raises ValueError when ``ca`` is not such a file.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        tls: bool,
        user: str,
        password: str,
        database: int,
        ca: str,
        timeout: float,
        name: str,
        must_sign_in: bool = True,
    ) -> None:
        self._reactor = reactor
        self._tls = tls
        self._user = user
        self._password = password
        self._database = database
        self._timeout = timeout
        self._name = name
        self._must_sign_in = must_sign_in
        self._trust = _trust(ca) if tls and ca else None

    async def open(self, host: str, port: int, pushed: Callable[[list[Any]], None] | None = None) -> Connection:
        """A connection on which we are signed in. Raises RedisAway."""
        factory = Factory.forProtocol(lambda: Connection(self._reactor, self._timeout, pushed))
        factory.noisy = False
        connecting = self._endpoint(host, port).connect(factory)
        connecting.addTimeout(self._timeout, self._reactor, lambda _, t: Failure(RedisAway(f"no connection in {t} s")))
        try:
            connection: Connection = await connecting
        except RedisAway:
            raise
        except (CancelledError, ConnectingCancelledError):  # the second is how endpoints say the first
            raise CancelledError from None
        except Exception as error:  # the many ways in which names, sockets and TLS fail
            raise RedisAway(str(error) or type(error).__name__) from None
        connection.address = (host, port)
        try:
            await self._sign_in(connection)
        except BaseException:
            connection.drop("not signed in")
            raise
        return connection

    async def _sign_in(self, connection: Connection) -> None:
        steps: list[Deferred[Any]] = []
        if self._password:
            signing = connection.send("AUTH", *([self._user] if self._user else []), self._password)
            if not self._must_sign_in:  # PING says whether it was needed
                signing.addErrback(lambda failure: failure.trap(RedisRefused) and None)
            steps.append(signing)
        if self._database:
            steps.append(connection.send("SELECT", self._database))
        steps.append(connection.send("PING"))  # what a server that is loading, or wants a password, refuses
        named = connection.send("CLIENT", "SETNAME", f"mailfarm-{self._name}")
        named.addErrback(lambda failure: failure.trap(RedisAway))  # an ACL may not allow it
        for good, outcome in await DeferredList(steps, consumeErrors=True):
            if not good:
                outcome.raiseException()

    def _endpoint(self, host: str, port: int) -> Any:
        # An address needs no resolver; a name is resolved in Twisted's threads, never on the reactor.
        endpoint: Any
        if ":" in host:
            endpoint = TCP6ClientEndpoint(self._reactor, host, port, timeout=self._timeout)
        elif host.replace(".", "").isdigit():
            endpoint = TCP4ClientEndpoint(self._reactor, host, port, timeout=self._timeout)
        else:
            endpoint = HostnameEndpoint(self._reactor, host, port, timeout=self._timeout)
        if not self._tls:
            return endpoint
        return wrapClientTLS(optionsForClientTLS(host, trustRoot=self._trust), endpoint)


def _trust(path: str) -> Any:
    try:
        pem = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"the CA file {path} cannot be read: {error.strerror}") from None
    marker = b"-----BEGIN CERTIFICATE-----"
    try:
        certificates = [Certificate.loadPEM(marker + part) for part in pem.split(marker)[1:]]
    except (crypto.Error, ValueError):
        certificates = []
    if not certificates:
        raise ValueError(f"the CA file {path} holds no certificate in PEM")
    return trustRootFromCertificates(certificates)
