"""The Queue port on SQLite.

``put`` and ``done`` are gathered: all that wait for the writer become one statement, in a commit that units and takes
share. ``take`` never polls: who finds nothing waits for a put, a lease to end or a pause to be over.

Content of at most ``CHUNK`` octets goes in with its entry. Larger content goes first, one piece a unit, under a key of
its own, and the entry last, so that an entry is always whole; pieces without an entry are swept when the queue opens.

``admit`` says no before content is read: when the disk is down to its reserve, when the backlog is at its cap, when the
writer is far behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger

from mailfarm.errors import DatabaseUnavailable, NotFound, QueueBehind, QueueFull, QueueUnavailable, Temporary
from mailfarm.ids import Ids
from mailfarm.ports import CHUNK, Attempt, Content, Depth, Entry, Shard, Spooled, State

from .queue_content import NEWER_PAUSE, Stored, Whole, check_size, kept_reason, nonce_of, shard_of
from .queue_room import Room
from .queue_takers import Takers
from .spool_form import NewerFormError, from_form, to_form
from .sqlite_engine import DatabaseFull, Engine
from .sqlite_open import PAGE
from .sqlite_queue_pieces import Pieces
from .sqlite_queue_rows import Ended, Put, Rows, Taken

T = TypeVar("T")

FOUND = 0.05
"""Seconds for which room is told of without looking again whether the file that a commit found is there."""
TAKE_OCTETS = 4 * 1024 * 1024
"""Content that comes along with one take; what is above it is read when asked for."""

_SECOND = 1_000_000
_TAKE_MOST = 1000

_log = Logger()


class Queue:
    """The queue ``name`` in an ``Engine``; one object a name and process, for it alone ends the leases of the past.

    ``clock`` gives microseconds since 1970, ``reactor`` is an IReactorTime (None: the installed one).
    An entry is set aside after ``max_tries`` turns. ``reserve`` is the free disk space, in octets, below which mail is
    refused; ``max_entries`` and ``max_octets`` cap the backlog, entries set aside included. ``holder`` names this
    process to who looks at its leases.
    """

    def __init__(
        self,
        engine: Engine,
        name: str,
        ids: Ids,
        clock: Callable[[], int],
        *,
        reactor: Any = None,
        max_tries: int = 5,
        reserve: int = 64 * 1024 * 1024,
        max_entries: int = 100_000,
        max_octets: int = 4 * 1024 * 1024 * 1024,
        holder: str = "",
    ) -> None:
        if reactor is None:
            from twisted.internet import reactor
        self.name = name
        self._engine = engine
        self._ids = ids
        self._clock = clock
        self._reactor = reactor
        self._holder = holder
        self._rows = Rows(name, max_tries, TAKE_OCTETS)
        self._takers = Takers(reactor, clock)
        self._room = Room(
            engine.path,
            reactor.seconds,
            self._find_reusable,
            reserve=reserve,
            max_entries=max_entries,
            max_octets=max_octets,
        )
        self._pieces = Pieces(engine, self._rows, ids, partial(self._apart, putting=True))
        self._begun = False
        self._beginning = False
        self._begin()

    # Putting

    def admit(self, size: int) -> Deferred[None]:
        """Whether content of ``size`` octets (0: unknown) would find room. Fails with QueueFull, QueueBehind."""
        self._begin()
        try:
            self._check_place(FOUND)  # two names looked up cost 5 µs, and a promise is made by the commit alone
            self._room.check_backlog(size)
            self._room.check_disk(size)
            if (filled := self._engine.filled) >= QueueBehind.HALF / 2:  # half of what may wait is too far behind
                raise QueueBehind(f"{filled:.0%} of what may wait for the database does", 2 * filled)
        except Temporary as error:
            return fail(error)
        return succeed(None)

    def put(self, spooled: Spooled) -> Deferred[None]:
        """Fires when the entry would survive a crash. Fails with QueueFull, QueueUnavailable, Invalid."""
        self._begin()
        return Deferred.fromCoroutine(self._put(spooled))

    async def _put(self, spooled: Spooled) -> None:
        size = spooled.content.size
        if not self._begun:
            await self._write(lambda _: None)  # behind the job that counts what is there from before
        self._room.check_backlog(size)
        form = to_form(spooled)
        if size > CHUNK:
            await self._put_large(spooled, form)
            return
        data = b"".join([piece async for piece in spooled.content.chunks()])
        check_size(spooled, len(data))
        await self._put_entry(Put(spooled.id, self._clock(), size, form, data, None))

    async def _put_large(self, spooled: Spooled, form: bytes) -> None:
        key = self._pieces.begin()
        kept = False
        try:
            size = await self._pieces.store(key, spooled.content)
            check_size(spooled, size)
            kept = await self._put_entry(Put(spooled.id, self._clock(), size, form, None, key))
        finally:
            self._pieces.end(key, kept)

    def _put_entry(self, put: Put) -> Deferred[bool]:
        octets = len(put.spooled) + len(put.content or b"")

        def stored(new: bool) -> bool:
            if new:
                self._room.add(1, put.size)
                self._takers.wake(1)
            return new

        inner = self._engine.write_many(self._rows.put, put, octets)
        return self._apart(inner.addCallback(stored), putting=True)

    # Taking

    def take(self, limit: int, lease: float, wait: float = 0.0) -> Deferred[Sequence[Attempt]]:
        """At most ``limit`` entries for ``lease`` seconds, waiting ``wait`` seconds for the first. May be cancelled:
        what was about to be handed out waits again, and does so already when the CancelledError comes.
        Fails with QueueUnavailable."""
        if limit < 1:
            raise ValueError("a take of none")
        limit = min(limit, _TAKE_MOST)
        self._begin()
        return Deferred.fromCoroutine(self._take(limit, lease, self._reactor.seconds() + wait))

    async def _take(self, limit: int, lease: float, until: float) -> Sequence[Attempt]:
        while True:
            wakes = self._takers.wakes
            nonce = nonce_of(self._ids.new(), self._holder)
            over: Deferred[None] = Deferred()
            try:
                taken, due = await self._take_once(limit, lease, nonce, over)
            except CancelledError:
                await over  # who cancels may be about to close the database
                raise
            if attempts := self._attempts(taken, nonce):
                if len(taken) == limit:
                    self._takers.wake(1)  # there may be more
                return attempts
            left = until - self._reactor.seconds()
            if taken:
                continue
            if left <= 0:
                return ()
            if wakes == self._takers.wakes:
                await self._takers.pause(limit, left, due)

    def _take_once(
        self, limit: int, lease: float, nonce: str, over: Deferred[None]
    ) -> Deferred[tuple[list[Taken], int | None]]:
        """``over`` fires when nothing of it is left to do, which is later than its end when it is cancelled."""
        gone = False

        def cancel(_: Deferred[Any]) -> None:
            nonlocal gone
            gone = True

        def work(db: Any) -> tuple[list[Taken], int | None]:
            if gone:
                return [], None
            now = self._clock()
            taken = self._rows.take(db, limit, now, now + int(lease * _SECOND), nonce)
            return taken, None if taken else self._rows.next_due(db)

        def told(result: tuple[list[Taken], int | None]) -> tuple[list[Taken], int | None]:
            taken, _ = result
            if gone and not taken:
                self._takers.wake(1)  # it may have been woken for an entry that another can take
            elif gone:
                fences = [f"{entry.number}.{nonce}" for entry in taken]
                giving = self._write(lambda db: self._rows.give_back(db, fences))
                self._background(giving, wake=True)
                giving.addCallback(over.callback)
                return result
            elif taken:
                self._takers.look_at(self._clock() + int(lease * _SECOND))
            over.callback(None)
            return result

        def failed(failure: Any) -> Any:
            over.callback(None)
            return failure

        return self._apart(self._engine.write(work).addCallbacks(told, failed), cancel)

    def _attempts(self, taken: Sequence[Taken], nonce: str) -> list[Attempt]:
        attempts = []
        for entry in taken:
            fence = f"{entry.number}.{nonce}"
            try:
                spooled = from_form(entry.spooled, self._content(entry))
            except NewerFormError as error:
                _log.warn("entry {id} of {name} waits: {error}", id=entry.id, name=self.name, error=error)
                self.give_back([fence], str(error), NEWER_PAUSE)
            except ValueError as error:  # nobody can work on it, and it must not be in the way of the others
                _log.error("entry {id} of {name} is set aside: {error}", id=entry.id, name=self.name, error=error)
                self._background(
                    self._write(partial(self._rows.set_aside, number=entry.number, fence=fence, reason=str(error)))
                )
            else:
                attempts.append(Attempt(fence, entry.tries, spooled))
        return attempts

    def _content(self, entry: Taken) -> Content:
        if entry.content is not None:
            return Whole(entry.content)
        if entry.chunks is None:
            return Stored(entry.size, lambda _: self._read(lambda db: self._rows.read(db, entry.id).content or b""))
        chunks = entry.chunks
        return Stored(entry.size, lambda number: self._read(lambda db: self._rows.chunk(db, entry.id, chunks, number)))

    # Ending a turn

    def extend(self, fence: str, lease: float) -> Deferred[None]:
        """Hold on for ``lease`` seconds from now. Fails with LeaseLost, QueueUnavailable."""
        ends = self._clock() + int(lease * _SECOND)
        inner = self._engine.write(lambda db: self._rows.extend(db, fence, ends))
        return self._apart(inner.addCallback(lambda _: self._takers.look_at(ends)))

    def done(self, fences: Sequence[str], within: float = 0.0) -> Deferred[None]:
        """End these entries, at once: it shares a commit with others as it is. Fails with QueueUnavailable."""
        if not fences:
            return succeed(None)
        inner = self._engine.write_many(self._rows.done, tuple(fences), sum(map(len, fences)))
        return self._apart(inner.addCallback(self._ended))

    def fail(self, fence: str, reason: str, retry_after: float = 0.0) -> Deferred[None]:
        """Give up this turn. Fails with LeaseLost, QueueUnavailable."""
        text = kept_reason(reason)
        due = self._clock() + int(retry_after * _SECOND) if retry_after > 0 else 0
        inner = self._engine.write(lambda db: self._rows.fail(db, fence, text, due))

        def failed(_: None) -> None:
            if due:
                self._takers.look_at(due)
            else:
                self._takers.wake(1)

        return self._apart(inner.addCallback(failed))

    def give_back(self, fences: Sequence[str], reason: str = "", after: float = 0.0) -> Deferred[None]:
        """Undo the taking of these entries; the turn does not count. Never fails."""
        if not fences:
            return succeed(None)
        due = self._clock() + int(after * _SECOND) if after > 0 else 0
        giving = self._write(lambda db: self._rows.give_back(db, tuple(fences), kept_reason(reason), due))
        self._background(giving, wake=not due)
        return giving.addBoth(lambda _: self._takers.look_at(due) if due else None)

    def _ended(self, ended: Ended) -> None:
        self._room.add(-ended.entries, -ended.octets)
        self._pieces.forget(ended.chunks)

    # For the operator

    def depth(self) -> Deferred[Depth]:
        """How many entries are in each state. A lease that has ended counts as leased until the next take. Fails with
        QueueUnavailable, also when what is put now would not be kept."""
        try:
            self._check_place()
        except QueueUnavailable as error:
            return fail(error)
        return self._read(self._rows.depth)

    async def depths(self) -> Sequence[Shard]:
        """The one there is."""
        return (await shard_of("sqlite", self),)

    def inspect(self, state: State, limit: int = 100, account: str = "") -> Deferred[Sequence[Entry]]:
        """The oldest entries in a state. Fails with QueueUnavailable."""
        return self._read(lambda db: self._rows.inspect(db, state, limit, account))

    def find(self, id: str) -> Deferred[Entry]:
        """One entry. Fails with NotFound, QueueUnavailable."""
        return self._read(lambda db: self._rows.find(db, id))

    def read(self, id: str) -> Deferred[Spooled]:
        """An entry's spooled mail. Fails with NotFound, QueueUnavailable."""

        def spooled(entry: Taken) -> Spooled:
            try:
                return from_form(entry.spooled, self._content(entry))
            except ValueError as error:
                raise NotFound(f"entry {id} cannot be read: {error}") from None

        return self._read(lambda db: self._rows.read(db, id)).addCallback(spooled)

    def requeue(self, id: str) -> Deferred[None]:
        """Make an entry that was set aside wait again. Fails with NotFound, QueueUnavailable."""
        inner = self._engine.write(lambda db: self._rows.requeue(db, id))
        return self._apart(inner.addCallback(lambda _: self._takers.wake(1)))

    def drop(self, id: str) -> Deferred[None]:
        """Forget an entry that was set aside. Fails with NotFound, QueueUnavailable."""
        inner = self._engine.write(lambda db: self._rows.drop(db, id))
        return self._apart(inner.addCallback(self._ended))

    # Inside

    def _begin(self) -> None:
        if self._begun or self._beginning:
            return
        self._beginning = True
        self._engine.write(self._rows.begin).addCallbacks(self._opened, self._not_opened)

    def _opened(self, found: tuple[int, int, tuple[str, ...]]) -> None:
        entries, octets, orphans = found
        self._beginning = False
        self._begun = True
        self._room.add(entries, octets)
        self._pieces.forget(orphans)
        self._takers.wake(entries)

    def _not_opened(self, failure: Any) -> None:
        self._beginning = False
        _log.warn("the queue {name} is not open yet: {error}", name=self.name, error=failure.value)

    def _check_place(self, age: float = 0.0) -> None:
        try:
            self._engine.check(age)
        except DatabaseUnavailable as error:
            raise QueueUnavailable(str(error)) from None

    def _find_reusable(self) -> None:
        pages = self._engine.read(lambda db: db.execute("PRAGMA freelist_count").fetchone()[0])
        self._background(pages.addCallback(lambda pages: self._room.found(pages * PAGE)))

    def _background(self, work: Deferred[Any], wake: bool = False) -> None:
        """Nobody waits for this; what is left undone is swept when the queue opens."""

        def failed(failure: Any) -> None:
            _log.warn("left for later in the queue {name}: {error}", name=self.name, error=failure.value)

        work.addCallbacks((lambda _: self._takers.wake(1)) if wake else (lambda _: None), failed)

    def _write(self, work: Callable[[Any], T], size: int = 0) -> Deferred[T]:
        return self._apart(self._engine.write(work, size))

    def _read(self, work: Callable[[Any], T]) -> Deferred[T]:
        return self._apart(self._engine.read(work))

    def _apart(
        self, inner: Deferred[T], cancel: Callable[[Deferred[Any]], None] | None = None, *, putting: bool = False
    ) -> Deferred[T]:
        """What a caller may cancel: its own waiting, never our book-keeping. Errors are the queue's from here on: a
        database without room is QueueFull to those who put, and QueueUnavailable to the others."""
        outer: Deferred[T] = Deferred(cancel)

        def told(result: T) -> None:
            if not outer.called:  # cancelled
                outer.callback(result)

        def failed(failure: Any) -> None:
            error = failure.value
            if isinstance(error, DatabaseFull):
                self._room.overflowed()
            if isinstance(error, DatabaseFull) and putting:
                error = QueueFull(str(error))
            elif isinstance(error, DatabaseUnavailable):
                error = QueueUnavailable(str(error))
            if not outer.called:
                outer.errback(error)

        inner.addCallbacks(told, failed)
        return outer
