"""The Queue port over several Redis servers: availability by more of them, with no cluster and no failover.

What is put while calls are under way goes together to the next shard that is free and well; workers drain all of
them, the slow ones too (``redis_shard_looks``). While one is away, what was put there waits for it, and everything else
goes on.

When a put fails on a shard, whatever the reason, it is tried on the next one, under the same id. If the first had
taken it after all, two shards hold the same mail: filing knows its id and files it once. To answer 451 instead would
be worse: the client sends it again under a new id, and then there are two (``docs/decisions``).

A fence is ``shard~number.nonce``; shards are counted from 0 in the order they were given, which need be the same only
within a process. Caps are each shard's own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from operator import attrgetter
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList

from mailfarm.errors import LeaseLost, NotFound, QueueBehind, QueueFull, QueueUnavailable, Temporary, TooLarge
from mailfarm.ports import CHUNK, Attempt, Depth, Entry, Shard, Spooled, State

from .queue_content import shard_of
from .queue_taking import Taking
from .redis_queue import RedisQueue
from .redis_queue_puts import Puts, is_new, packed
from .redis_shard_looks import ShardLooks

REMEMBERED = 10_000
"""Ids of which it is remembered where they were put, so that the same one goes there again: about 2 MB."""

T = TypeVar("T")


class ShardedQueue:
    """``shards`` are the same queue on different servers. Start and stop it, and their links yourself."""

    def __init__(self, shards: Sequence[RedisQueue]) -> None:
        if not shards:
            raise ValueError("a queue of no shards")
        self.shards = tuple(shards)
        self._reactor = shards[0].reactor
        self._next = 0
        self._put_where: OrderedDict[str, int] = OrderedDict()
        self._putting: dict[str, list[Deferred[None]]] = {}
        self._puts = Puts(self._reactor, self.shards)
        self._looks = ShardLooks(self.shards, self._in_turn, self._give_back, lambda: self._taking.wake(1))
        self._taking = Taking(self._reactor, shards[0].clock, self._looks.look, self._give_back)
        for shard in shards:
            shard.heard = lambda: self._taking.wake(1)

    async def start(self) -> None:
        """Begin to listen to all shards; returns at once."""
        self._looks.start()
        for shard in self.shards:
            await shard.start()

    async def stop(self) -> None:
        """Listen no more; what a shard has handed out late is given back."""
        await self._looks.stop()
        for shard in self.shards:
            await shard.stop()

    # Putting

    def fits(self, size: int) -> None:
        """Raises TooLarge if no shard can ever hold so many octets, as far as that is known."""
        for shard in self.shards:
            with suppress(TooLarge):
                shard.fits(size)
                return
        self.shards[0].fits(size)

    async def admit(self, size: int) -> None:
        """Whether any shard would find room. Raises what the best of them says: QueueBehind, QueueFull, or away."""
        for shard in self.shards:
            if shard.measured and shard.unavailable is None:
                with suppress(QueueFull):
                    await shard.admit(size)
                    return
        await self._first_that_can(self._in_turn(), lambda shard: shard.admit(size))

    async def put(self, spooled: Spooled) -> None:
        """Returns when the entry would survive a crash of its shard. Raises QueueFull, QueueUnavailable, Invalid."""
        id = spooled.id
        while (others := self._putting.get(id)) is not None:  # the same one again: it goes where the first one went
            told: Deferred[None] = Deferred()
            others.append(told)
            await told
        waiting = self._putting[id] = []
        try:
            await self._put(spooled, self._put_where.get(id))
        finally:
            del self._putting[id]
            for told in waiting:
                told.callback(None)

    async def _put(self, spooled: Spooled, known: int | None) -> None:
        errors: list[Temporary] = []
        tried = None
        if known is None and spooled.content.size <= CHUNK:
            way, said = await self._puts.add(await packed(spooled))
            tried = self.shards.index(way)
            self._remember(spooled.id, tried)
            try:
                is_new(said, spooled.id)
            except (QueueFull, QueueUnavailable) as error:
                errors.append(error)
            else:
                return

        def put(shard: RedisQueue) -> Awaitable[None]:
            self._remember(spooled.id, self.shards.index(shard))
            return shard.put(spooled)

        order = [known] if known is not None else []
        order += [number for number in self._in_turn() if number not in (known, tried)]
        await self._first_that_can(order, put, errors)

    def _in_turn(self) -> list[int]:
        """The shards' numbers: those that can be used first, beginning at another one each time."""
        count = len(self.shards)
        order = [(self._next + step) % count for step in range(count)]
        self._next = (self._next + 1) % count
        order.sort(key=lambda number: self.shards[number].unavailable is not None)  # stable
        return order

    def _remember(self, id: str, number: int) -> None:
        self._put_where[id] = number
        self._put_where.move_to_end(id)
        if len(self._put_where) > REMEMBERED:
            self._put_where.popitem(last=False)

    async def _first_that_can(
        self, order: Sequence[int], ask: Callable[[RedisQueue], Awaitable[None]], errors: Sequence[Temporary] = ()
    ) -> None:
        errors = list(errors)
        for number in order:
            try:
                await ask(self.shards[number])
                return
            except (QueueFull, QueueUnavailable) as error:
                errors.append(error)
        # One that is behind has room. One that is full answers, at least, which those that are away do not. One that is
        # too small says nothing of the others.
        behind = min((error for error in errors if isinstance(error, QueueBehind)), key=attrgetter("by"), default=None)
        others = [error for error in errors if not isinstance(error, TooLarge)]
        full = next((error for error in others if isinstance(error, QueueFull)), None)
        raise behind or full or (others or errors)[-1]

    # Taking

    def take(self, limit: int, lease: float, wait: float = 0.0) -> Deferred[Sequence[Attempt]]:
        """At most ``limit`` entries for ``lease`` seconds, waiting ``wait`` seconds for the first. May be cancelled.
        Fails with QueueUnavailable when no shard answers."""
        return self._taking.take(limit, lease, wait)

    async def _give_back(self, attempts: Sequence[Attempt]) -> None:
        await self.give_back([attempt.fence for attempt in attempts])

    # Ending a turn

    async def extend(self, fence: str, lease: float) -> None:
        """Hold on for ``lease`` seconds from now. Raises LeaseLost, QueueUnavailable."""
        shard, inner = self._shard_of(fence)
        await shard.extend(inner, lease)
        self._taking.ends(lease)

    async def done(self, fences: Sequence[str], within: float = 0.0) -> None:
        """End these entries, at the latest ``within`` seconds from now. Raises QueueUnavailable when one of their
        shards is away; the others' are ended."""
        by_shard = self._by_shard(fences)
        await self._all([self.shards[number].done(inner, within) for number, inner in by_shard.items()])

    async def fail(self, fence: str, reason: str, retry_after: float = 0.0) -> None:
        """Give up this turn. Raises LeaseLost, QueueUnavailable."""
        shard, inner = self._shard_of(fence)
        await shard.fail(inner, reason, retry_after)
        if retry_after > 0:
            self._taking.ends(retry_after)

    async def give_back(self, fences: Sequence[str], reason: str = "", after: float = 0.0) -> None:
        """Undo the taking of these entries; the turn does not count. Never raises."""
        if by_shard := self._by_shard(fences):
            await self._all(
                [
                    Deferred.fromCoroutine(self.shards[number].give_back(inner, reason, after))
                    for number, inner in by_shard.items()
                ]
            )
        if after > 0:
            self._taking.ends(after)

    def _by_shard(self, fences: Sequence[str]) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for fence in fences:
            number, _, inner = fence.partition("~")
            if number.isascii() and number.isdigit() and len(number) < 4 and int(number) < len(self.shards):
                found.setdefault(int(number), []).append(inner)
        return found

    def _shard_of(self, fence: str) -> tuple[RedisQueue, str]:
        for number, (inner,) in self._by_shard((fence,)).items():
            return self.shards[number], inner
        raise LeaseLost(f"{fence} is no longer held")

    # For the operator

    async def depth(self) -> Depth:
        """How many entries are in each state on the shards that answer. Raises QueueUnavailable when none does."""
        depths = await self._some([shard.depth() for shard in self.shards])
        return Depth(
            sum(depth.waiting for depth in depths),
            sum(depth.leased for depth in depths),
            sum(depth.aside for depth in depths),
            min((depth.oldest for depth in depths if depth.oldest is not None), default=None),
        )

    async def depths(self) -> Sequence[Shard]:
        """The depth of each."""
        return await self._some([shard_of(str(shard.link), shard) for shard in self.shards])

    async def inspect(self, state: State, limit: int = 100, account: str = "") -> Sequence[Entry]:
        """The oldest entries in a state on the shards that answer. Raises QueueUnavailable when none does."""
        found = await self._some([shard.inspect(state, limit, account) for shard in self.shards])
        entries = [entry for entries in found for entry in entries]
        return sorted(entries, key=attrgetter("put_at"))[:limit]

    async def find(self, id: str) -> Entry:
        """One entry. Raises NotFound, QueueUnavailable when it may be on a shard that is away."""
        return await self._first_that_has(lambda shard: shard.find(id))

    async def read(self, id: str) -> Spooled:
        """An entry's spooled mail. Raises NotFound, QueueUnavailable when it may be on a shard that is away."""
        return await self._first_that_has(lambda shard: shard.read(id))

    async def requeue(self, id: str) -> None:
        """Make an entry that was set aside wait again. Raises NotFound, QueueUnavailable."""
        await self._first_that_has(lambda shard: shard.requeue(id))

    async def drop(self, id: str) -> None:
        """Forget an entry that was set aside. Raises NotFound, QueueUnavailable."""
        await self._first_that_has(lambda shard: shard.drop(id))

    # Inside

    async def _first_that_has(self, ask: Callable[[RedisQueue], Awaitable[T]]) -> T:
        away: QueueUnavailable | None = None
        missing: NotFound | None = None
        for shard in self.shards:
            try:
                return await ask(shard)
            except NotFound as error:
                missing = error
            except QueueUnavailable as error:
                away = error
        raise away or missing or NotFound("a queue of no shards")

    async def _some(self, asked: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
        """What those that can answer do."""
        outcomes: list[tuple[bool, Any]] = list(
            await DeferredList([Deferred.fromCoroutine(each) for each in asked], consumeErrors=True)
        )
        answers = [outcome for good, outcome in outcomes if good]
        if not answers:
            outcomes[0][1].raiseException()
        return answers

    async def _all(self, asked: Sequence[Deferred[Any]]) -> None:
        outcomes: list[tuple[bool, Any]] = list(await DeferredList(asked, consumeErrors=True))
        for good, outcome in outcomes:
            if not good:
                outcome.raiseException()
