"""The way to one Redis server, or to the master that sentinels watch.

A link keeps its connections by itself, for ever: what is lost is opened again within half a second of the server being
back. It never queues. A call while there is no connection fails at once, a call that is not answered within the
timeout fails then, and what was in flight when a connection died fails with it; each time with ``RedisAway``, and the
caller cannot know whether it was done. An error the server answers is ``RedisRefused``: nothing was done.

Calls on one *lane* (a connection) are answered in order, so what must not wait behind something slow has a lane of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from importlib import resources
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, DeferredList, fail
from twisted.logger import Logger

from .redis_connection import Argument, Connection, Connector, Packed, Parts, RedisAway, RedisRefused
from .redis_sentinel import Sentinels
from .redis_url import parse

__all__ = ["RedisAway", "RedisLink", "RedisRefused", "RedisUnconfirmed", "Script"]

_FIRST = 0.05  # seconds before the second try to connect, doubled up to
_MOST = 0.5
_NOT_THE_MASTER = ("READONLY", "LOADING")
"""Errors of a server that is the master no longer, or not yet: look for it again."""
_SIGNING_IN = ("WRONGPASS", "NOAUTH", "NOPERM", "ERR AUTH")
"""How errors begin with which a server refuses our name, our password or what its list allows us."""

_log = Logger()


class RedisUnconfirmed(RedisAway):
    """It was done, but no replica confirmed it in time."""


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent once and called by its digest from then on."""

    name: str
    text: str = field(repr=False)
    digest: str

    @classmethod
    def read(cls, name: str, shared: str = "") -> Script:
        """The file ``name`` beside this module, with that of ``shared`` behind its first line."""
        text = resources.files(__package__).joinpath(name).read_text("utf-8")
        if shared:
            first, _, rest = text.partition("\n")
            text = f"{first}\n{resources.files(__package__).joinpath(shared).read_text('utf-8')}{rest}"
        return cls(name, text, sha1(text.encode()).hexdigest())


class Lane:
    """One connection that is kept open until ``stop``. ``opened`` may talk on it before anyone else does."""

    def __init__(
        self,
        reactor: Any,
        open: Callable[[], Any],
        opened: Callable[[Connection], Any] | None = None,
        told: Callable[[str], None] | None = None,
    ) -> None:
        self.connection: Connection | None = None
        self.why = "it was not connected yet"
        self.refused = False
        self._reactor = reactor
        self._open = open
        self._opened = opened
        self._told = told or (lambda why: None)
        self._keeping: Deferred[None] | None = None
        self._stopped = False

    def start(self) -> None:
        self._stopped = False
        self._keeping = Deferred.fromCoroutine(self._keep())
        self._keeping.addErrback(lambda failure: failure.trap(CancelledError))

    async def stop(self) -> None:
        self._stopped = True
        keeping, self._keeping = self._keeping, None
        if keeping is None:
            return
        connection, self.connection = self.connection, None
        keeping.cancel()
        if connection is not None:
            await _shielded(connection.gone)

    async def _keep(self) -> None:
        delay = _FIRST
        while True:
            began = self._reactor.seconds()
            connection: Connection | None = None
            try:
                connection = await self._open()
                if self._opened is not None:
                    await self._opened(connection)
                if self._stopped:  # what was cancelled came to a good end all the same
                    connection.drop("stopped")
                    return
                self.connection = connection
                self.refused = False
                self._told("")
                self.why = await _shielded(connection.gone)
            except RedisAway as error:
                self.why = str(error)
                self.refused = isinstance(error, RedisRefused) and str(error).startswith(_SIGNING_IN)
            except CancelledError:
                if connection is not None:
                    connection.drop("stopped")
                raise
            except Exception as error:
                _log.failure("a connection to Redis could not be used")
                self.why = repr(error)
            if connection is not None:
                connection.drop(self.why)
            self.connection = None
            if self._stopped:
                return
            self._told(self.why)
            delay = _FIRST if self._reactor.seconds() - began > 2 * _MOST else min(delay * 2, _MOST)
            await _pause(self._reactor, delay)


class RedisLink:
    """``url`` as in ``redis_url``; ``timeout`` in seconds, for each call; ``name`` says in logs what the server is to
    us. ``ca`` is a file of certificates to trust under ``rediss://`` in place of the system's.

    Raises ValueError, in a sentence for the operator, when the URL or the CA file is wrong.
    """

    def __init__(
        self,
        url: str,
        reactor: Any,
        *,
        password: str = "",
        ca: str = "",
        timeout: float = 5.0,
        connections: int = 1,
        name: str = "queue",
    ) -> None:
        self.url = parse(url).with_password(password)
        self.reactor = reactor
        self.timeout = timeout
        self.name = name
        self._stopped = False
        self._away: str | None = None
        self._waiting: list[Deferred[None]] = []
        self._ca = ca
        self._connector = self._new_connector(self.url.database, name.replace(" ", "-"))
        self._sentinels: Sentinels | None = None
        if self.url.master:
            asking = self._new_connector(0, f"{name}-sentinel", timeout=min(1.0, timeout), must_sign_in=False)
            self._sentinels = Sentinels(self.url, asking, reactor, self._moved)
        self._greeters: list[Callable[[Connection], Any]] = []
        self._lanes = [Lane(reactor, self.open, self._greet, self._told) for _ in range(connections)]

    def __str__(self) -> str:
        return str(self.url)

    def __repr__(self) -> str:
        return f"<RedisLink {self.name} {self.url}>"

    @property
    def replicated(self) -> bool:
        """Whether sentinels watch it: then a write counts when a replica has confirmed it."""
        return self._sentinels is not None

    @property
    def connected(self) -> bool:
        """Whether every lane has its connection."""
        for lane in self._lanes:  # a loop, for each message asks
            connection = lane.connection
            if connection is None or not connection.connected:
                return False
        return True

    @property
    def open_to(self) -> tuple[str, int] | None:
        """The address of the server it is connected to, which sentinels may change."""
        connection = self._lanes[0].connection
        return None if connection is None else connection.address

    @property
    def why(self) -> str:
        """Why it is not connected; empty when it is."""
        return "" if self.connected else (self._away or "it was not connected yet")

    @property
    def refused(self) -> bool:
        """Whether the server is there and will not let us in."""
        return any(lane.refused for lane in self._lanes)

    def greet(self, greeter: Callable[[Connection], Any]) -> None:
        """Have ``await greeter(connection)`` called on each new connection before it is used."""
        self._greeters.append(greeter)

    async def start(self) -> None:
        """Begin to connect; returns at once."""
        if self._sentinels is not None:
            self._sentinels.start()
        for lane in self._lanes:
            lane.start()

    async def stop(self) -> None:
        """End every connection. What is in flight fails."""
        self._stopped = True
        if self._sentinels is not None:
            self._sentinels.stop()
        for lane in self._lanes:
            await lane.stop()

    async def ready(self, seconds: float) -> bool:
        """Wait at most ``seconds`` for it to be connected; whether it is."""
        if not self.connected:
            waiting: Deferred[None] = Deferred()
            waiting.addTimeout(seconds, self.reactor, lambda *_: None)
            self._waiting.append(waiting)
            await waiting
        return self.connected

    def look_again(self, why: str) -> None:
        """Leave the server, and look for the master anew. What is in flight fails."""
        for lane in self._lanes:
            if lane.connection is not None:
                lane.connection.drop(why)

    def command(self, *args: Argument, lane: int = 0, timeout: float | None = None) -> Deferred[Any]:
        """The server's raw reply. Fails with RedisAway, RedisRefused."""
        connection = self._lanes[lane % len(self._lanes)].connection
        if connection is None:
            return fail(self._not_connected(lane))
        return connection.send(*args, timeout=timeout)

    def transaction(self, *commands: Sequence[Argument | Parts], lane: int = 0) -> Deferred[list[Any]]:
        """The replies to commands of which all are done or none, with nothing between them. Unlike a script's, their
        arguments are not read octet by octet. Fails with RedisAway, RedisRefused."""
        connection = self._lanes[lane % len(self._lanes)].connection
        if connection is None:
            return fail(self._not_connected(lane))
        return Deferred.fromCoroutine(self._transaction(connection, commands))

    async def _transaction(self, connection: Connection, commands: Sequence[Sequence[Argument | Parts]]) -> list[Any]:
        sent = connection.send_all(("MULTI",), *commands, ("EXEC",))
        outcomes: list[tuple[bool, Any]] = list(await DeferredList(sent, consumeErrors=True))
        for good, outcome in outcomes:
            if not good:  # the first one has the reason, EXEC's is that there was one
                error = outcome.value
                if isinstance(error, RedisRefused) and error.code in _NOT_THE_MASTER:
                    connection.drop(str(error))
                raise error
        replies: list[Any] = outcomes[-1][1]
        for reply in replies:
            if isinstance(reply, Exception):
                raise RedisRefused(str(reply))
        return replies

    def evalsha(
        self,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument | Packed],
        *,
        lane: int = 0,
        replicas: int = 0,
        confirm: float = 1.0,
    ) -> Deferred[Any]:
        """A script's reply; the script is sent when the server does not know it. With ``replicas``, fails with
        RedisUnconfirmed unless so many have confirmed it, on this very connection, within ``confirm`` seconds."""
        connection = self._lanes[lane % len(self._lanes)].connection
        if connection is None:
            return fail(self._not_connected(lane))
        return Deferred.fromCoroutine(self._evalsha(connection, script, keys, args, replicas, confirm))

    async def _evalsha(
        self,
        connection: Connection,
        script: Script,
        keys: Sequence[Argument],
        args: Sequence[Argument | Packed],
        replicas: int,
        confirm: float,
    ) -> Any:
        for verb, body in (("EVALSHA", script.digest), ("EVAL", script.text)):
            (answer,) = connection.send_all((verb, body, len(keys), *keys, *args))
            # Behind the script on the same connection: WAIT is about what this connection wrote, and only that.
            confirmed = connection.send("WAIT", replicas, int(confirm * 1000)) if replicas else None
            try:
                reply = await answer
            except RedisRefused as error:
                if confirmed is not None:
                    confirmed.addErrback(lambda failure: failure.trap(RedisAway))
                if error.code == "NOSCRIPT" and verb == "EVALSHA":
                    continue
                if error.code in _NOT_THE_MASTER:
                    connection.drop(str(error))
                raise
            except RedisAway:
                if confirmed is not None:
                    confirmed.addErrback(lambda failure: failure.trap(RedisAway))
                raise
            if confirmed is not None and (have := await confirmed) < replicas:
                raise RedisUnconfirmed(f"{have} of {replicas} replicas confirmed it within {confirm} s")
            return reply
        raise AssertionError("EVAL does not answer NOSCRIPT")

    async def open(self, pushed: Callable[[list[Any]], None] | None = None) -> Connection:
        """One more connection, the caller's own to keep and to end. Raises RedisAway."""
        if self._sentinels is None:
            return await self._connector.open(*self.url.hosts[0], pushed)
        connection = await self._connector.open(*await self._sentinels.master(), None)
        try:
            role = await connection.send("ROLE")
            if role[0] != b"master":
                raise RedisAway(f"{connection.address[0]}:{connection.address[1]} is not the master yet")
        except BaseException:
            connection.drop("not the master")
            raise
        if pushed is not None:
            connection.pushed = pushed
        return connection

    # Inside

    def _new_connector(
        self, database: int, name: str, timeout: float | None = None, must_sign_in: bool = True
    ) -> Connector:
        url = self.url
        return Connector(
            self.reactor,
            tls=url.tls,
            user=url.user,
            password=url.password,
            database=database,
            ca=self._ca,
            timeout=timeout or self.timeout,
            name=name,
            must_sign_in=must_sign_in,
        )

    def _not_connected(self, lane: int) -> RedisAway:
        return RedisAway(f"{self.url} is away: {self._lanes[lane % len(self._lanes)].why}")

    async def _greet(self, connection: Connection) -> None:
        if self._sentinels is not None:
            self._moved(connection.address)  # the lanes lead to one server, or pieces and their entry would part
        for greeter in self._greeters:
            await greeter(connection)

    def _moved(self, master: tuple[str, int]) -> None:
        for lane in self._lanes:
            if lane.connection is not None and lane.connection.address != master:
                lane.connection.drop("another server is the master now")

    def _told(self, why: str) -> None:
        """A lane was connected, or is not for a reason. Logged when that is news."""
        if self._stopped:
            return
        if why and why != self._away:
            _log.warn("the {name} at {url} is away: {why}", name=self.name, url=str(self.url), why=why)
            self._away = why
        if self.connected:
            if self._away is not None:
                _log.info("the {name} at {url} is back", name=self.name, url=str(self.url))
            self._away = None
            waiting, self._waiting = self._waiting, []
            for each in waiting:  # in the next pass: whoever waits may stop us, and this is the lane's own work
                self.reactor.callLater(0, _fire, each)


def _fire(waiting: Deferred[None]) -> None:
    if not waiting.called:
        waiting.callback(None)


async def _shielded(deferred: Deferred[Any]) -> Any:
    """Wait for ``deferred``, which goes on when the wait is cancelled."""
    mine: Deferred[Any] = Deferred()

    def told(result: Any) -> Any:
        if not mine.called:
            mine.callback(result)
        return result

    deferred.addBoth(told)
    return await mine


async def _pause(reactor: Any, seconds: float) -> None:
    over: Deferred[None] = Deferred(lambda _: call.cancel())
    call = reactor.callLater(seconds, over.callback, None)
    await over
