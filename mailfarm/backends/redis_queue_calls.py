"""What the Redis queue asks of its server: one method a script, and the errors as the Queue port knows them.

Numbers count microseconds on the server's clock. A fence is ``number.nonce``: the number finds the entry, the nonce
says whose turn it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mailfarm.errors import LeaseLost, NotFound, QueueFull, QueueUnavailable
from mailfarm.ports import Depth, State

from .queue_outage import Outage
from .queue_wait import Ahead
from .redis_connection import Argument, Packed, Parts, RedisAway, RedisRefused
from .redis_link import RedisLink, Script
from .redis_queue_metrics import ShardMetrics
from .redis_queue_room import ServerCheck

PUTTING, WORKING, LARGE = range(3)
"""The lanes: whoever waits for a 250, those who take, and pieces of large content."""

TAKE_OCTETS = 4 * 1024 * 1024
"""Content after which a take hands out no more; it may be one step of 16 small entries above it."""

PIECES_KEPT = 600
"""Seconds without a new piece after which content that got no entry is gone."""

MOST_FENCES = 1000
"""How many a call names."""

_HOLDING = ("take", "extend")  # what shows whether a worker can hold on to what it has


class Put(NamedTuple):
    """An entry to be. Large content stands under the key ``pieces`` in ``parts`` pieces; ``content`` is empty then."""

    id: str
    size: int
    form: bytes
    content: bytes
    pieces: str = ""
    parts: int = 0


class Taken(NamedTuple):
    """An entry that was handed out."""

    number: int
    tries: int
    id: str
    size: int
    form: bytes
    pieces: str
    content: bytes


class Batch(NamedTuple):
    """What a take gave. ``due`` is how many µs from now an entry comes by itself, None when none will; ``alone`` asks
    that nothing else be handed out with it; ``more`` says that there may be more. ``ended`` is how many entries it has
    ended, and how much content that was."""

    taken: list[Taken]
    due: int | None
    alone: bool
    more: bool
    ended: tuple[int, int]


class Found(NamedTuple):
    """An entry that was read."""

    id: str
    put_at: int
    size: int
    form: bytes
    pieces: str
    content: bytes
    tries: int
    reason: str
    state: State
    until: int | None
    fence: str


class Calls:
    """The scripts of the queue ``name`` on the server of ``link``."""

    def __init__(self, link: RedisLink, name: str, metrics: ShardMetrics) -> None:
        self.link = link
        self.name = name
        self.prefix = f"mailfarm:{{{name}}}"
        self._metrics = metrics
        self.outage = Outage(link.reactor.seconds)
        parts = ("entries", "ids", "counts", "turns", "leased", "ready", "due", "paused", "aside")
        self._keys = tuple(f"{self.prefix}:{part}" for part in parts)
        self._replicas = 1 if link.replicated else 0
        self._confirm = min(1.0, link.timeout / 4)

        def script(name: str) -> Script:
            return Script.read(f"queue_{name}.lua", "queue_turns.lua")

        self._put = script("put")
        self._take = script("take")
        self._give_back = script("give_back")
        self._done = script("done")
        self._extend = script("extend")
        self._fail = script("fail")
        self._aside = script("aside")
        self._read = script("read")
        self._list = script("list")
        self._depth = script("depth")

    @property
    def hints(self) -> bytes:
        """The channel that says that there may be something to take."""
        return f"{self._keys[0]}:hint".encode()

    async def put(self, puts: Sequence[Put], most_entries: int, most_octets: int) -> list[bytes]:
        """stored, there, full or lost for each. With sentinels, returns when a replica has them too."""
        args = (most_entries, most_octets, _packed(puts))
        answers: list[bytes] = await self._call("put", self._put, args, PUTTING, replicas=self._replicas)
        return answers

    async def piece(self, key: str, number: int, data: Parts) -> None:
        """Store a piece of content ahead of its entry, until which it ends by itself. No script: that would read each
        octet of it once more, to hash it."""
        began = self.link.reactor.seconds()
        try:
            await self.link.transaction(("HSET", key, number, data), ("EXPIRE", key, PIECES_KEPT), lane=LARGE)
        except RedisAway as error:
            self._metrics.failed("piece")
            raise _translated(error) from error
        self._metrics.called("piece", self.link.reactor.seconds() - began)

    async def load(self, key: str, number: int) -> bytes | None:
        """A piece of content; None when it is gone."""
        data: bytes | None = await self._ask("load", "HGET", key, number, lane=LARGE)
        return data

    async def unlink(self, key: str) -> None:
        """Forget pieces that no entry needs."""
        await self._ask("unlink", "UNLINK", key, lane=LARGE)

    async def take(self, limit: int, lease: int, nonce: str, most_tries: int, done: Sequence[str] = ()) -> Batch:
        """Ends what the fences in ``done`` are good for, ``MOST_FENCES`` at most, and takes."""
        args = (limit, lease, nonce, most_tries, TAKE_OCTETS, *self.outage.span, *_parted(done))
        due, alone, more, entries, *ended = await self._call("take", self._take, args)
        taken = [
            Taken(int(number), tries, id.decode(), int(size), form, pieces.decode(), content)
            for number, tries, id, size, form, pieces, content in entries
        ]
        return Batch(taken, None if due < 0 else due, bool(alone), bool(more), (ended[0], ended[1]))

    async def give_back(self, fences: Sequence[str], reason: str, pause: int) -> None:
        for start in range(0, len(fences), MOST_FENCES):
            args = _parted(fences[start : start + MOST_FENCES])
            if args:
                await self._call("give_back", self._give_back, (pause, reason, *args))

    async def done(self, fences: Sequence[str]) -> tuple[int, int]:
        """How many were ended, and how much content that was."""
        entries = octets = 0
        for start in range(0, len(fences), MOST_FENCES):
            args = _parted(fences[start : start + MOST_FENCES])
            if args:
                ended = await self._call("done", self._done, args)
                entries += ended[0]
                octets += ended[1]
        return entries, octets

    async def extend(self, fence: str, lease: int) -> None:
        """Raises LeaseLost."""
        args = _parted((fence,))
        if not args or not await self._call("extend", self._extend, (*args, lease)):
            raise LeaseLost(f"{fence} is no longer held")

    async def fail(self, fence: str, reason: str, pause: int, most_tries: int) -> None:
        """Raises LeaseLost."""
        args = _parted((fence,))
        if not args or not await self._call("fail", self._fail, (*args, most_tries, pause, reason)):
            raise LeaseLost(f"{fence} is no longer held")

    async def aside(self, verb: str, id: str) -> int:
        """Requeue or drop; the octets that were freed. Raises NotFound."""
        found, octets = await self._call("aside", self._aside, (verb, id))
        if not found:
            raise NotFound(f"no entry {id} was set aside in this queue")
        return int(octets)

    async def read(self, id: str, number: str = "", content: bool = True) -> Found | None:
        found = await self._call("read", self._read, (id, number, int(content)))
        if not found:
            return None
        name, put_at, size, form, pieces, data, tries, reason, state, until, fence = found
        return Found(
            name.decode(),
            int(put_at),
            int(size),
            form,
            pieces.decode(),
            data,
            tries,
            reason.decode("utf-8", "replace"),
            state.decode(),
            None if int(until) < 0 else int(until),
            fence.decode(),
        )

    async def list(self, state: str, limit: int) -> Sequence[str]:
        """The numbers of the oldest entries in a state."""
        return [number.decode() for number in await self._call("list", self._list, (state, limit))]

    async def depth(self) -> tuple[Depth, int, Ahead]:
        """How many entries are in each state, the octets of all content, and what goes before new mail. Answered in
        order with the puts: it counts those that were answered before, and no others of this process."""
        figures = await self._call("depth", self._depth, (), PUTTING)
        waiting, leased, aside, oldest, octets, untouched, ended = figures
        depth = Depth(waiting, leased, aside, None if oldest < 0 else oldest)
        return depth, octets, Ahead(untouched, leased, ended)

    async def memory(self) -> tuple[int, int]:
        """The octets the server uses, and its limit (0: none, or it may not be asked)."""
        try:
            text: bytes = await self.link.command("INFO", "memory", lane=WORKING)
        except RedisRefused:
            return 0, 0
        except RedisAway as error:
            raise QueueUnavailable(str(error)) from None
        named = dict(line.partition(b":")[::2] for line in text.split(b"\r\n"))
        return int(named.get(b"used_memory", 0)), int(named.get(b"maxmemory", 0))

    async def check(self, check: ServerCheck) -> None:
        """Look whether the server keeps what it is given."""
        try:
            await check.look(self.link)
        except RedisAway as error:
            raise QueueUnavailable(str(error)) from None

    # Inside

    async def _call(
        self,
        name: str,
        script: Script,
        args: Sequence[Argument | Packed],
        lane: int = WORKING,
        *,
        replicas: int = 0,
    ) -> Any:
        link = self.link
        began = link.reactor.seconds()
        try:
            answer = await link.evalsha(script, self._keys, args, lane=lane, replicas=replicas, confirm=self._confirm)
        except RedisAway as error:
            self._metrics.failed(name)
            if name in _HOLDING:
                self.outage.failed()
            raise _translated(error) from error
        if name in _HOLDING:
            self.outage.worked()
        self._metrics.called(name, link.reactor.seconds() - began)
        return answer

    async def _ask(self, name: str, *args: Argument, lane: int) -> Any:
        began = self.link.reactor.seconds()
        try:
            answer = await self.link.command(*args, lane=lane)
        except RedisAway as error:
            self._metrics.failed(name)
            raise _translated(error) from error
        self._metrics.called(name, self.link.reactor.seconds() - began)
        return answer


def _translated(error: RedisAway) -> QueueFull | QueueUnavailable:
    if isinstance(error, RedisRefused) and error.code == "OOM":
        return QueueFull("the queue's Redis has no memory left (maxmemory)")
    return QueueUnavailable(str(error))


def certainly_not(error: BaseException) -> bool:
    """Whether a call that failed so has certainly done nothing."""
    return isinstance(error, QueueFull) or isinstance(error.__cause__, RedisRefused)


_PUT = b"$%d\r\n%b\r\n" * 5 + b"$%d\r\n"


def _packed(puts: Sequence[Put]) -> Packed:
    """What the script reads of each, in parts: to grow one large string of all costs more than the rest."""
    parts: list[bytes] = []
    for id, size, form, content, pieces, count in puts:
        name, octets, key, many = id.encode(), b"%d" % size, pieces.encode(), b"%d" % count
        short = (len(name), name, len(octets), octets, len(form), form, len(key), key, len(many), many)
        parts += (_PUT % (*short, len(content)), content, b"\r\n")
    return Packed(6 * len(puts), parts)


def _parted(fences: Sequence[str]) -> list[Argument]:
    """Number and nonce of each fence that has the form of one."""
    args: list[Argument] = []
    for fence in fences:
        number, _, nonce = fence.partition(".")
        if number.isascii() and number.isdigit() and len(number) < 17 and nonce:
            args += (str(int(number)), nonce)
    return args
