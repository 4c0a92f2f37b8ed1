"""The Queue port on one Redis, version 7.0 or newer: Streams, a consumer group, and scripts (``queue_*.lua``).

A put is answered when the server has answered, and the server answers when it has synced: ``appendfsync always`` is
what makes 250 true, so a server that is set up otherwise is refused (``redis_queue_room``). When sentinels watch the
server, a put is answered only when a replica has the entry too (``WAIT 1`` on the same connection). What WAIT does not
cover is in ``mailfarm help queue``.

An entry stands in the stream until it is ended. Who holds it, and until when, is decided by the server's clock and by
the fence of each turn, not by the name of a consumer: the group has one consumer, whoever works, so names do not pile
up, and a worker that starts again need not know what it held; leases end. A worker that was stopped past the end of its
lease can end its entry only as long as nobody else was given it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry
from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.logger import Logger

from mailfarm.errors import LeaseLost, MailfarmError, NotFound, QueueFull, QueueUnavailable
from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Attempt, Content, Depth, Entry, Shard, Spooled, State

from . import redis_queue_entries
from .queue_content import NEWER_PAUSE, check_size, kept_reason, nonce_of, shard_of
from .queue_ends import Ends
from .queue_taking import Taking, Turn
from .redis_link import RedisLink
from .redis_queue_calls import MOST_FENCES, Batch, Calls, Put, certainly_not
from .redis_queue_entries import content_of
from .redis_queue_metrics import ShardMetrics
from .redis_queue_puts import Pieces, Puts, is_new, packed
from .redis_queue_room import RedisRoom, ServerCheck, unavailable
from .redis_subscriber import RedisSubscriber
from .spool_form import NewerFormError, from_form, to_form

_SECOND = 1_000_000
_EVERY = 1.0  # seconds between two looks at the figures
_CHECK = 10.0  # seconds between two looks at the server's settings

_log = Logger()


class RedisQueue:
    """The queue ``name`` on the server of ``link``, which belongs to the caller and wants three connections.

    ``clock`` gives microseconds since 1970, for gauges and timers alone. An entry is set aside after ``max_tries``
    turns. ``max_entries`` and ``max_octets`` cap the backlog, entries set aside included; ``max_wait``: `RedisRoom`.
    ``holder`` names this process to who looks at its leases; no blanks in it. ``max_size``: as in `ServerCheck`.
    """

    def __init__(
        self,
        link: RedisLink,
        name: str,
        ids: Ids,
        clock: Callable[[], int],
        reactor: Any,
        registry: CollectorRegistry,
        *,
        max_tries: int = 5,
        max_entries: int = 100_000,
        max_octets: int = 4 * 1024 * 1024 * 1024,
        max_wait: float = 0.0,
        holder: str = "",
        max_size: int = 0,
    ) -> None:
        self.name = name
        self.link = link
        self.heard: Callable[[], None] = lambda: None
        """Called when there may be something to take."""
        self._ids = ids
        self._holder = holder
        self.clock = clock
        self.reactor = reactor
        self._max_tries = max_tries
        self._metrics = ShardMetrics(registry, name, str(link))
        self._calls = Calls(link, name, self._metrics)
        self._puts = Puts(reactor, (self,))
        self._pieces = Pieces(self._calls, ids)
        self._room = RedisRoom(reactor.seconds, max_entries, max_octets, max_wait)
        self._check = ServerCheck(f"the queue at {link}", link.replicated, max_size)
        self._taking = Taking(reactor, clock, self.look, lambda some: self.give_back([each.fence for each in some]))
        self._ends = Ends(reactor, self._end, MOST_FENCES)
        self._hints = RedisSubscriber(link, lambda channel, payload: self._wake(1), lambda: self._wake(1))
        self._measuring: list[Deferred[None]] | None = None
        self._looking: Any = None
        self._checked = 0.0
        self._running = False
        self._listening = False
        link.greet(self._check.look)

    async def start(self) -> None:
        """Look at the figures from now on; returns at once. Start the link yourself. From the first take on there is a
        connection for hints: a listener, which only puts, needs none."""
        self._running = True
        self._look_again()

    async def _listen(self) -> None:
        self._listening = True
        self._hints.subscribe(self._calls.hints).addErrback(lambda failure: None)
        await self._hints.start()

    async def stop(self) -> None:
        """Listen no more. The link is yours to stop."""
        self._running = False
        await self._ends.flush()
        if self._looking is not None and self._looking.active():
            self._looking.cancel()
        if self._listening:
            self._listening = False
            await self._hints.stop()

    # Putting

    @property
    def unavailable(self) -> QueueUnavailable | None:
        """Why nothing may be put now, if so."""
        return unavailable(self.link, self._check)

    @property
    def measured(self) -> bool:
        """Whether ``admit`` can tell without asking the server."""
        return self._room.fresh

    def fits(self, size: int) -> None:
        """Raises TooLarge if it can never hold so many octets, as far as it is known; also while it is away."""
        self._room.fits(size)

    async def admit(self, size: int) -> None:
        """Whether content of ``size`` octets (0: unknown) finds room. As the port says."""
        self.fits(size)
        if error := self.unavailable:
            raise error
        if not self._room.fresh:
            await self._measure()
        self._room.check(size)

    async def put(self, spooled: Spooled) -> None:
        """Returns when the entry would survive a crash. Raises QueueFull, QueueUnavailable, Invalid."""
        self.fits(spooled.content.size)
        if error := self.unavailable:
            self._metrics.unavailable.inc()
            raise error
        if spooled.content.size > CHUNK:
            await self._put_large(spooled)
        else:
            await self._answer(await packed(spooled))

    async def _put_large(self, spooled: Spooled) -> None:
        form, key = to_form(spooled), self._pieces.key()
        kept = False
        try:
            size, count = await self._store(key, spooled.content)
            check_size(spooled, size)
            kept = True  # unless the answer says otherwise: an entry may have been made that we were not told of
            kept = await self._answer(Put(spooled.id, size, form, b"", key, count))
        except Exception as error:
            kept = kept and not certainly_not(error)
            raise
        finally:
            if not kept:
                self._pieces.forget(key)

    async def _store(self, key: str, content: Content) -> tuple[int, int]:
        try:
            return await self._pieces.store(key, content)
        except QueueFull:
            self._metrics.full.inc()
            raise
        except QueueUnavailable:
            self._metrics.unavailable.inc()
            raise

    async def _answer(self, put: Put) -> bool:
        """Whether it is a new entry."""
        _, said = await self._puts.add(put)
        return is_new(said, put.id)

    async def put_all(self, puts: list[Put]) -> list[bytes]:
        """What the server says about each. Raises QueueFull, QueueUnavailable."""
        metrics, room = self._metrics, self._room
        metrics.put_entries.observe(len(puts))
        try:
            answers = await self._calls.put(puts, room.max_entries, room.max_octets)
        except QueueFull:
            metrics.full.inc(len(puts))
            room.overflowed()
            raise
        except QueueUnavailable:
            metrics.unavailable.inc(len(puts))
            raise
        stored = [put.size for put, said in zip(puts, answers, strict=True) if said == b"stored"]
        metrics.stored.inc(len(stored))
        if len(stored) < len(puts):
            metrics.full.inc(answers.count(b"full"))
            metrics.unavailable.inc(answers.count(b"lost"))
        room.add(len(stored), sum(stored))
        self._wake(len(stored))
        return answers

    # Taking

    def take(self, limit: int, lease: float, wait: float = 0.0) -> Deferred[Sequence[Attempt]]:
        """At most ``limit`` entries for ``lease`` seconds, waiting ``wait`` seconds for the first. May be cancelled.
        Fails with QueueUnavailable."""
        return self._taking.take(limit, lease, wait)

    async def look(self, limit: int, lease: float) -> Turn:
        """Lease what there is now. Raises QueueUnavailable."""
        if self._running and not self._listening:
            await self._listen()
        nonce = nonce_of(self._ids.new(), self._holder)

        async def take(done: Sequence[str]) -> Batch:
            batch = await self._calls.take(limit, int(lease * _SECOND), nonce, self._max_tries, done)
            self._ended(*batch.ended)
            return batch

        batch = await self._ends.along(take)
        attempts = []
        newer: list[str] = []
        for taken in batch.taken:
            fence = f"{taken.number}.{nonce}"
            try:
                spooled = from_form(taken.form, content_of(self._calls, taken))
            except NewerFormError as error:
                why = str(error)
                newer.append(fence)
            except ValueError as error:  # nobody can work on it, and it must not be in the way of the others
                _log.error("entry {id} of {name} is set aside: {error}", id=taken.id, name=self.name, error=error)
                self._background(self._calls.fail(fence, str(error), 0, 0))
            else:
                attempts.append(Attempt(fence, taken.tries, spooled))
        if newer:
            _log.warn("{count} entries of {name} wait: {why}", count=len(newer), name=self.name, why=why)
            await self.give_back(newer, why, NEWER_PAUSE)
        if attempts:
            self._metrics.taken.inc(len(attempts))
            self._metrics.take_entries.observe(len(attempts))
        return Turn(attempts, batch.due, batch.alone, batch.more or len(attempts) < len(batch.taken))

    # Ending a turn

    def extend(self, fence: str, lease: float) -> Deferred[None]:
        """Hold on for ``lease`` seconds from now. Fails with LeaseLost, QueueUnavailable."""

        async def extend() -> None:
            await self._calls.extend(fence, int(lease * _SECOND))
            self._taking.ends(lease)

        return Deferred.fromCoroutine(extend())

    def done(self, fences: Sequence[str], within: float = 0.0) -> Deferred[None]:
        """End these entries, at the latest ``within`` seconds from now: the next take is the same call. Fails with
        QueueUnavailable."""
        if within > 0 and len(fences) <= MOST_FENCES:
            return self._ends.add(fences, within)
        return Deferred.fromCoroutine(self._end(fences))

    async def _end(self, fences: Sequence[str]) -> None:
        self._ended(*await self._calls.done(fences))

    def _ended(self, entries: int, octets: int) -> None:
        self._room.add(-entries, -octets)
        self._metrics.done.inc(entries)

    async def give_back(self, fences: Sequence[str], reason: str = "", after: float = 0.0) -> None:
        """Undo the taking of these entries; the turn does not count. Never raises."""
        if not fences:
            return
        try:
            await self._calls.give_back(fences, kept_reason(reason), int(max(0.0, after) * _SECOND))
        except MailfarmError as error:
            _log.warn("entries of {name} come again when their lease ends: {error}", name=self.name, error=error)
        if after > 0:
            self._taking.ends(after)
        else:
            self._wake(1)

    def fail(self, fence: str, reason: str, retry_after: float = 0.0) -> Deferred[None]:
        """Give up this turn. Fails with LeaseLost, QueueUnavailable."""

        async def fail() -> None:
            await self._calls.fail(fence, kept_reason(reason), int(max(0.0, retry_after) * _SECOND), self._max_tries)
            self._metrics.given_up.inc()
            if retry_after > 0:
                self._taking.ends(retry_after)
            else:
                self._wake(1)

        return Deferred.fromCoroutine(fail())

    # For the operator

    async def depth(self) -> Depth:
        """How many entries are in each state; leases count until the next take after their end. Raises
        QueueUnavailable, also when the server would not keep what is put now."""
        if error := self.unavailable:
            raise error
        return (await self._calls.depth())[0]

    async def depths(self) -> Sequence[Shard]:
        """The one there is."""
        return (await shard_of(str(self.link), self),)

    async def inspect(self, state: State, limit: int = 100, account: str = "") -> Sequence[Entry]:
        """The oldest entries in a state. Raises QueueUnavailable."""
        return await redis_queue_entries.inspect(self._calls, state, limit, account)

    async def find(self, id: str) -> Entry:
        """One entry. Raises NotFound, QueueUnavailable."""
        return await redis_queue_entries.find(self._calls, id)

    async def read(self, id: str) -> Spooled:
        """An entry's spooled mail. Raises NotFound, QueueUnavailable."""
        found = await self._calls.read(id) if id else None
        if found is None:
            raise NotFound(f"the queue {self.name} has no entry {id}")
        try:
            return from_form(found.form, content_of(self._calls, found))
        except ValueError as error:
            raise NotFound(f"entry {id} cannot be read: {error}") from None

    async def requeue(self, id: str) -> None:
        """Make an entry that was set aside wait again. Raises NotFound, QueueUnavailable."""
        await self._calls.aside("requeue", id)
        self._wake(1)

    async def drop(self, id: str) -> None:
        """Forget an entry that was set aside. Raises NotFound, QueueUnavailable."""
        self._room.add(-1, -await self._calls.aside("drop", id))

    # Inside

    def _wake(self, entries: int) -> None:
        self._taking.wake(entries)
        self.heard()

    def _measure(self) -> Deferred[None]:
        """Look at the figures; those who ask while a look is under way share it."""
        mine: Deferred[None] = Deferred()
        if self._measuring is not None:
            self._measuring.append(mine)
            return mine
        waiting = self._measuring = [mine]

        def told(result: Any) -> None:
            self._measuring = None
            for each in waiting:
                if not each.called:
                    each.callback(result)  # a Failure goes the other way by itself

        Deferred.fromCoroutine(self._measure_now()).addBoth(told)
        return mine

    async def _measure_now(self) -> None:
        now = self.reactor.seconds()
        try:
            if now - self._checked >= (_EVERY if self._check.complaint else _CHECK):
                self._checked = now
                await self._calls.check(self._check)
            used, limit = await self._calls.memory()
            depth, octets, ahead = await self._calls.depth()
        except QueueUnavailable:
            self._metrics.up.set(0)
            raise
        self._room.measured(depth.waiting + depth.leased + depth.aside, octets, used, limit, ahead)
        self._metrics.saw(depth, octets, self.clock(), self._room.wait)
        self._metrics.memory.set(used / limit if limit else 0.0)
        self._metrics.up.set(not self._check.complaint)

    def _look_again(self) -> None:
        def looked(_: Any) -> None:
            if self._running:
                self._looking = self.reactor.callLater(_EVERY, self._look_again)

        measuring = self._measure() if self.link.connected else fail(QueueUnavailable("away"))
        measuring.addErrback(self._not_measured).addBoth(looked)

    def _not_measured(self, failure: Any) -> None:
        self._metrics.up.set(0)
        self._calls.outage.failed()
        if not failure.check(MailfarmError, CancelledError):
            _log.failure("the figures of the queue {name} could not be read", failure=failure, name=self.name)

    def _background(self, work: Any) -> None:
        def failed(failure: Any) -> None:
            if not failure.check(LeaseLost):
                _log.warn("left for later in the queue {name}: {error}", name=self.name, error=failure.value)

        Deferred.fromCoroutine(work).addErrback(failed)
