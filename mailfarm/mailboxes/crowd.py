"""All who follow one mailbox in this process, told a few at a time.

The bus says something once, to the crowd; the crowd tells its feeds, ``AT_ONCE`` of them (fewer, where there is much
to tell) before it lets others have their turn. What comes while it is telling waits, and is told together: each feed
hears it as one ``Heard``, so that a burst costs each connection one write and not one for each event. At most ``LINE``
changes wait. Past that they are forgotten, and the feeds, which then miss some, read them from the database.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final

from mailfarm.events import Change, Event, Filed, MailboxClosed
from mailfarm.ports import Subscription

if TYPE_CHECKING:
    from .feed import Feed, Spawn

AT_ONCE: Final = 100
"""Feeds told of one event before others have their turn: one or two milliseconds."""
OCTETS_OF_ONE: Final = 32 * 1024
"""Octets that take about as long to write again as a write of few takes: so many more count as one more event."""
LINE: Final = 500
"""Changes that may wait until all have been told what came before."""
TOGETHER: Final = 32
"""Changes in one ``Heard``, and"""
TOGETHER_OCTETS: Final = 64 * 1024
"""about as many octets, unless it is one that is larger: a feed can be paused between two of them, not within one."""

Turn = Callable[[], Awaitable[None]]
"""Lets everybody else have a turn: ``net.turns.Turns.next``."""


class Heard:
    """Some changes that came one after another. ``first`` and ``last`` are their numbers if there is no gap between
    them; else ``first`` is -1. ``octets`` is about how long they are."""

    __slots__ = ("changes", "first", "last", "octets")

    def __init__(self, changes: Sequence[Change | MailboxClosed], octets: int = 0) -> None:
        self.changes = tuple(changes)
        self.octets = octets
        numbers = [change.seq for change in changes if not isinstance(change, MailboxClosed)]
        whole = len(numbers) == len(changes) and numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        self.first, self.last = (numbers[0], numbers[-1]) if whole else (-1, -1)


def parted(changes: Sequence[Change | MailboxClosed]) -> Iterator[Heard]:
    """``changes`` in order, as many together as may be."""
    some: list[Change | MailboxClosed] = []
    octets = 0
    for change in changes:
        size = _octets(change)
        if some and (len(some) >= TOGETHER or octets + size > TOGETHER_OCTETS):
            yield Heard(some, octets)
            some, octets = [], 0
        some.append(change)
        octets += size
    if some:
        yield Heard(some, octets)


def at_once(told: Sequence[Heard]) -> int:
    """How many feeds are told all of this before others have their turn: fewer, the more it is."""
    return max(1, AT_ONCE // sum(1 + heard.octets // OCTETS_OF_ONE for heard in told))


def _octets(change: Change | MailboxClosed) -> int:
    """About how long it is in JSON."""
    if isinstance(change, MailboxClosed):
        return 300
    if not isinstance(change, Filed):
        return 300 + 40 * len(change.messages)
    message = change.message
    people = len(message.recipients) + len(message.to) + len(message.cc)
    return 800 + 100 * people + 3 * (len(message.subject) + len(message.snippet))


class Crowd:
    """``feeds`` are its members, those too that have not begun yet; ``bus`` is where it hears, None until it does."""

    def __init__(self, spawn: Spawn, turn: Turn) -> None:
        self.feeds: dict[Feed, None] = {}
        self.bus: Subscription | None = None
        self._spawn = spawn
        self._turn = turn
        self._line: list[Change | MailboxClosed] = []
        self._telling = False

    def hears(self, bus: Subscription) -> None:
        """Where ``hear`` is called from now on; one is enough, if two feeds began at the same time."""
        if self.bus is None:
            self.bus = bus
        else:
            bus.stop()

    def hear(self, event: Event) -> None:
        """The bus says something: tell everybody, or put it in line while others are told what came before."""
        if not isinstance(event, Change | MailboxClosed):
            return
        if len(self._line) >= LINE:
            self._line.clear()
        self._line.append(event)
        if not self._telling:
            self._telling = True
            self._spawn(self._tell_line())

    async def _tell_line(self) -> None:
        faults: list[Exception] = []
        try:
            while self._line:
                line, self._line = self._line, []
                faults += await self.tell(line)
                if self._line and len(self.feeds) > AT_ONCE:
                    await self._turn()
        finally:
            self._telling = False
        if faults:
            raise faults[0]

    async def tell(self, changes: Sequence[Change | MailboxClosed]) -> Sequence[Exception]:
        """Tell all who are there now. One feed's fault costs that feed its life and the others nothing; the faults."""
        feeds = tuple(self.feeds)
        together = tuple(parted(changes))
        most = at_once(together)
        faults: list[Exception] = []
        for start in range(0, len(feeds), most):
            if start:
                await self._turn()
            for feed in feeds[start : start + most]:
                try:
                    for heard in together:
                        feed.hear(heard)
                except Exception as fault:
                    feed.stop()
                    faults.append(fault)
        return faults
