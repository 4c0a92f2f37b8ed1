"""From the queue into the mailboxes: read, parse and pack, file, announce, done. In this order, whatever fails.

* A crash before the unit commits: the lease ends, all is done again.
* A crash behind it: the entry comes again, ``filed`` knows it, and it is ended. What the bus was not told, followers
  find by looking.
* The database or the queue does not answer: the same is tried again, with growing pauses, while the leases are
  extended. An outage never uses up an entry's tries.
* One item makes the unit fail: the batch is filed one by one, and that item alone fails its turn.
* The database works, but not on some mailbox (``held``): the others' mail is filed, and what leads there waits in the
  queue.
* The service stops: what cannot be finished goes back into the queue at once. That uses up no try either.
* Parsing killed its worker three times, the last time alone: only its headers are read then, and it is filed, so that
  its reader sees it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from io import BytesIO
from typing import Protocol, TypeVar

from mailfarm.errors import NotFound, RowsUnavailable, Temporary
from mailfarm.ids import Ids
from mailfarm.mailboxes.announce import announce_filed
from mailfarm.mailboxes.content import Parsed
from mailfarm.mailboxes.filing import (
    MOST_ITEMS,
    MOST_MESSAGES,
    MOST_OCTETS,
    Filing,
    MovedError,
    ToFile,
    file,
    to_file,
)
from mailfarm.mailboxes.packing import Packer
from mailfarm.ports import Attempt, Bus, Database, Queue, Tx
from mailfarm.values import value

from .held import Held
from .parse import kept, parse

T = TypeVar("T")

INLINE = 64 * 1024
"""Content up to this many octets is parsed and packed on the spot, larger content by ``compute``."""
IN_A_ROW = 8
"""Messages parsed before others have their turn: sessions wait for no more than a few milliseconds."""
TRIES_TO_PARSE = 3
"""The last of them alone: an entry that was lost twice is handed out by itself."""
GROUPS = 2
"""Units that the entries of one take are worked on in at the same time, where they are more than one unit's: one is
read and parsed while the other is copied to the database. What is larger than a unit should be has it to itself, for
those who wait for its mailbox wait four seconds at most."""
LONGEST_PAUSE = 15.0
"""Seconds between two tries of a unit."""
MOST_MOVES = 3
"""How often a batch is led to mailboxes that were made again; after that, mail for one that is gone is dropped."""
ENDED_WITHIN = 0.05
"""Seconds for which the end of an entry whose message is stored may wait for the next take, to be one call with it. If
the process dies meanwhile the entry comes again when its lease ends, as after any crash, and is known."""
ENDS = 10
END_PAUSE = 1.0
"""How often a queue that is away is told of ends, and seconds between two times. After that the entry comes again when
its lease ends, at the cost of a try, and is known."""
TRIES_TOGETHER = 2
"""How often a batch of which the database can work on some, but not on all, is tried as a whole."""


class Room(Protocol):
    """A budget of octets in memory."""

    def enter(self, octets: int) -> Awaitable[None]:
        """Wait until there is room. What is larger than the whole budget waits until it is alone."""

    def leave(self, octets: int) -> None:
        """Give it back."""


class Host(Protocol):
    """What the pipeline needs of the service around it."""

    def compute(self, work: Callable[[], T]) -> Awaitable[T]:
        """Do ``work`` where it holds up nobody."""

    def together(self, works: Iterator[Awaitable[None]], most: int) -> Awaitable[None]:
        """Await all of them, ``most`` at a time; each is taken when it is its turn. Raises, once all have ended, what
        the first that failed has raised."""

    def behind(self, work: Awaitable[None]) -> None:
        """See that ``work``, which raises nothing, is done; the service does not stop before it is."""

    def pause(self, seconds: float) -> Awaitable[bool]:
        """Wait; False when the service stops."""

    def seconds(self) -> float:
        """A steady clock."""

    def count(self, what: str, many: int) -> None:
        """For the metrics: filed, known, dropped, failed, unparsed, retried, held."""

    def trouble(self, what: str, error: BaseException) -> None:
        """For the log."""


class _StoppingError(Exception):
    """The service stops, and this cannot be finished."""


@value
class _Item:
    attempt: Attempt
    to_file: ToFile


class Pipeline:
    """``held`` are the fences being worked on: the service extends their leases."""

    def __init__(self, *, queue: Queue, database: Database, bus: Bus, ids: Ids, room: Room, host: Host) -> None:
        self._queue = queue
        self._database = database
        self._bus = bus
        self._ids = ids
        self._room = room
        self._host = host
        self._packer = Packer()
        self._held = Held(host.seconds)
        self.held: set[str] = set()

    async def work(self, attempts: Sequence[Attempt]) -> None:
        """Take these as far as they go. Raises nothing that one of them caused."""
        fences = {attempt.fence for attempt in attempts}
        self.held |= fences
        try:
            waiting: dict[str, list[Attempt]] = {}
            free: list[Attempt] = []
            for attempt in attempts:
                why = self._held.why(attempt)
                (free if why is None else waiting.setdefault(why, [])).append(attempt)
            works = map(self._group, groups(free))
            await self._host.together(works, 1 if any(map(_huge, free)) else GROUPS)
            for key, those in waiting.items():
                await self._try_one(key, those)
        except _StoppingError:
            await self._give_back([attempt for attempt in attempts if attempt.fence in self.held])
        finally:
            self.held -= fences

    async def _try_one(self, key: str, attempts: Sequence[Attempt]) -> None:
        """Where the database could not work: when it is time, one tries again, and if it is filed, all the others."""
        if left := self._held.left(key):
            await self._give_back(attempts, self._waits_for(key), left)
            return
        first = self._held.choose(key, attempts)
        pause = self._held.hold(key)
        await self._group([first], tries=1)
        rest = [attempt for attempt in attempts if attempt is not first]
        if rest and key in self._held:
            await self._give_back(rest, self._waits_for(key), pause)
            return
        for group in groups(rest):
            await self._group(group)

    def _waits_for(self, key: str) -> str:
        return f"the database cannot work on mailbox or message {key} now"

    async def _give_back(self, attempts: Sequence[Attempt], reason: str = "", after: float = 0.0) -> None:
        fences = [attempt.fence for attempt in attempts]
        self.held -= set(fences)
        if reason:
            self._host.count("held", len(fences))
        await self._queue.give_back(fences, reason, after)

    async def _group(self, group: Sequence[Attempt], tries: int = TRIES_TOGETHER) -> None:
        octets = sum(attempt.spooled.content.size for attempt in group)
        done: list[str] = []
        await self._room.enter(octets)
        try:
            items = await self._parse_all(await self._read_all(group))
            await self._file(items, done, tries)
        finally:
            self._room.leave(octets)
            for attempt in group:
                attempt.spooled.content.close()
            if done:
                self.held -= set(done)
                self._host.behind(self._end(done))

    async def _end(self, done: Sequence[str]) -> None:
        for _ in range(ENDS):
            try:
                await self._queue.done(done, ENDED_WITHIN)
                return
            except Temporary as error:
                self._host.trouble("the queue did not confirm the end of its entries", error)
            if not await self._host.pause(END_PAUSE):
                return

    # ---- read and parse

    async def _read_all(self, group: Sequence[Attempt]) -> list[tuple[Attempt, bytes]]:
        found = []
        for attempt in group:
            try:
                found.append((attempt, await self._read(attempt)))
            except NotFound:
                self.held.discard(attempt.fence)  # another worker has ended it meanwhile
            except _StoppingError:
                raise
            except Exception as error:
                await self._fail(attempt, "its content could not be read", error)
        return found

    async def _read(self, attempt: Attempt) -> bytes:
        delay = 0.25
        while True:
            try:
                whole = BytesIO()  # grows in place, and gives its buffer away without a copy
                async for chunk in attempt.spooled.content.chunks():
                    whole.write(chunk)
            except Temporary as error:
                delay = await self._later("the queue did not give a message's content; it is asked again", error, delay)
            else:
                return whole.getvalue()

    async def _later(self, what: str, error: Temporary, delay: float) -> float:
        """Wait before something is tried again; the next delay. Raises _StoppingError."""
        self._host.trouble(what, error)
        self._host.count("retried", 1)
        if not await self._host.pause(delay):
            raise _StoppingError from error
        return min(2 * delay, LONGEST_PAUSE)

    async def _parse_all(self, read: list[tuple[Attempt, bytes]]) -> list[_Item]:
        items = []
        for number in range(len(read)):
            if number % IN_A_ROW == IN_A_ROW - 1:
                await self._host.pause(0)
            attempt, content = read[number]
            read[number] = (attempt, b"")  # once it is packed, what it was packed from can go
            try:
                items.append(_Item(attempt, await self._ready(attempt, content)))
            except Exception as error:
                await self._fail(attempt, "it could not be packed", error)
        return items

    async def _ready(self, attempt: Attempt, content: bytes) -> ToFile:
        """Parsed and packed; what cannot be parsed as it is kept."""
        if attempt.tries > TRIES_TO_PARSE:
            why = f"{attempt.tries - 1} tries to file it failed"
        else:
            try:
                return await self._pack(attempt, content, parse)
            except Exception as error:
                # a fault of ours, no reason to keep mail from its reader
                self._host.trouble("a message could not be parsed", error)
                why = type(error).__name__
        self._host.count("unparsed", 1)
        return await self._pack(attempt, content, lambda content: kept(content, f"not parsed: {why}"))

    async def _pack(self, attempt: Attempt, content: bytes, parse: Callable[[bytes], Parsed]) -> ToFile:
        if len(content) <= INLINE:
            return to_file(self._packer, attempt.spooled, parse(content), content)
        return await self._host.compute(lambda: to_file(Packer(), attempt.spooled, parse(content), content))

    # ---- file

    async def _file(self, items: Sequence[_Item], done: list[str], tries: int = TRIES_TOGETHER) -> None:
        """File them together, or else apart. The fences of those that are filed are added to ``done``."""
        if not items:
            return
        try:
            filing = await self._unit(items, tries)
        except _StoppingError:
            raise
        except RowsUnavailable as error:
            await self._file_by_mailbox(items, done, error)
            return
        except Exception as error:
            if len(items) == 1:
                await self._fail(items[0].attempt, "it could not be filed", error)
            else:
                for item in items:
                    await self._file([item], done)
            return
        done += [item.attempt.fence for item in items]
        if len(self._held):
            for item in items:
                self._held.free(item.attempt)
        announce_filed(self._bus, filing)
        for what, many in filing.counts():
            self._host.count(what, many)

    async def _file_by_mailbox(self, items: Sequence[_Item], done: list[str], error: RowsUnavailable) -> None:
        by_key: dict[str, list[_Item]] = {}
        # those of one mailbox first: they find out which it is
        for item in sorted(items, key=lambda item: len(set(item.attempt.spooled.mailboxes)) > 1):
            by_key.setdefault(self._held.key(item.attempt), []).append(item)
        if len(by_key) == 1:
            ((key, _),) = by_key.items()
            self._host.trouble(f"{self._waits_for(key)}: what leads there waits in the queue", error)
            pause = self._held.left(key) or self._held.hold(key)
            await self._give_back([item.attempt for item in items], self._waits_for(key), pause)
            return
        for those in by_key.values():
            why = self._held.why(those[0].attempt)
            if why is None:
                await self._file(those, done, tries=1)
            else:
                await self._give_back([item.attempt for item in those], self._waits_for(why), self._held.left(why))

    async def _unit(self, items: Sequence[_Item], tries: int) -> Filing:
        to_file = [item.to_file for item in items]
        delay = 0.25
        moves = 0
        while True:
            try:
                return await self._database.unit(self._work(to_file, follow=moves < MOST_MOVES), late=True)
            except MovedError as moved:
                to_file = [moved.led(each) for each in to_file]
                moves += 1
            except Temporary as error:
                if isinstance(error, RowsUnavailable):
                    tries -= 1
                    if not tries:
                        raise
                delay = await self._later("the database did not take a batch; it is tried again", error, delay)

    def _work(self, items: Sequence[ToFile], follow: bool) -> Callable[[Tx], Awaitable[Filing]]:
        return lambda tx: file(tx, self._ids, items, follow=follow)

    async def _fail(self, attempt: Attempt, what: str, error: Exception) -> None:
        self._host.trouble(f"message {attempt.spooled.id}: {what}", error)
        self._host.count("failed", 1)
        self.held.discard(attempt.fence)
        try:
            await self._queue.fail(attempt.fence, f"{what}: {said(error)}", retry_after=2.0 ** min(attempt.tries, 6))
        except Temporary as lost:
            self._host.trouble(f"message {attempt.spooled.id}: its turn could not be given back", lost)


def _huge(attempt: Attempt) -> bool:
    return attempt.spooled.content.size > MOST_OCTETS


def said(error: BaseException) -> str:
    """What may be kept and logged of an error. Only its first line: a database's next ones can hold mail."""
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first[:300]}" if first else type(error).__name__


def groups(attempts: Sequence[Attempt]) -> Iterator[list[Attempt]]:
    """``attempts`` in order, parted into what one unit files."""
    group: list[Attempt] = []
    octets = messages = 0
    for attempt in attempts:
        size = attempt.spooled.content.size
        leads = len(set(attempt.spooled.mailboxes))
        full = len(group) >= MOST_ITEMS or octets + size > MOST_OCTETS or messages + leads > MOST_MESSAGES
        if group and full:
            yield group
            group, octets, messages = [], 0, 0
        group.append(attempt)
        octets += size
        messages += leads
    if group:
        yield group
