"""Watching an account: mailboxes opened and closed, and a hint for each mailbox in which something changed.

Hints are coalesced: a burst of a thousand messages is read as a few states of the mailbox, one query for all mailboxes
that changed and all who watch. Who watches is told in the same way as who follows a mailbox: some, then others have
their turn (``mailboxes.crowd``). Where that takes long, because thousands watch, hints come less often: telling takes a
tenth of the time at most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import DeferredLock

from mailfarm.errors import Temporary
from mailfarm.events import Change, Event, MailboxClosed, MailboxOpened
from mailfarm.mailboxes import store
from mailfarm.mailboxes.announce import account_topic
from mailfarm.mailboxes.crowd import AT_ONCE as TOLD_AT_ONCE
from mailfarm.mailboxes.crowd import Turn
from mailfarm.mailboxes.feed import Spawn
from mailfarm.mailboxes.forms import mailbox_form
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.ports import Bus, Database, Subscription, Tx

from .frames import EventFrames, frame

LINGER = 0.05
"""Seconds between the first change and the hint: what changes meanwhile is in the same one."""
REST = 9.0
"""So many times as long as the last telling took, up to"""
LONGEST = 2.0
"""seconds, if that is longer."""
AT_ONCE = 200
"""Mailboxes in one reading."""
LINE = 1000
"""Frames that wait while others are told. Past it they are forgotten, and who watches is told to ask REST again."""

_MISSED = frame({"type": "watching"})

Tell = Callable[[bytes, str, int], None]
"""Told a frame, and the id of the mailbox whose end it says; or nothing in its place, and how many frames it is."""


class Watch:
    """One account, for all connections of the process that watch it."""

    def __init__(
        self, account: str, database: Database, bus: Bus, spawn: Spawn, turn: Turn, reactor: Any, events: EventFrames
    ) -> None:
        self.account = account
        self.telling: dict[Tell, None] = {}
        self._database = database
        self._bus = bus
        self._spawn = spawn
        self._turn = turn
        self._reactor = reactor
        self._events = events
        self._changed: dict[str, None] = {}
        self._timer: Any = None
        self._linger = LINGER
        self._reading = False
        self._line: list[tuple[bytes, str, int]] = []
        self._telling = False
        self._subscription: Subscription | None = None
        self._starting: DeferredLock = DeferredLock()
        self._stopped = False

    async def start(self) -> None:
        """Listen. Returns when the bus has said that we do; who comes second waits for that, too."""
        await self._starting.acquire()
        try:
            wanted = self._subscription is None and not self._stopped
            if wanted:
                subscription = await self._bus.subscribe(account_topic(self.account), self._hear, self._missed)
                if self._stopped:  # nobody wants it any more
                    subscription.stop()
                else:
                    self._subscription = subscription
        finally:
            self._starting.release()

    def stop(self) -> None:
        """Listen no more."""
        self._stopped = True
        if self._subscription is not None:
            self._subscription.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._changed.clear()
        self._line.clear()

    def _hear(self, event: Event) -> None:
        if isinstance(event, MailboxOpened | MailboxClosed):
            self._tell(self._events.of(event), event.mailbox if isinstance(event, MailboxClosed) else "")
        if isinstance(event, Change | MailboxOpened):
            self._changed[event.mailbox] = None
            self._soon()

    def _missed(self) -> None:
        """A mailbox may have been opened or closed, and nobody was told: whoever watches asks REST again."""
        self._tell(_MISSED, "")

    def _soon(self) -> None:
        if self._changed and self._timer is None and not self._reading and not self._telling:
            self._timer = self._reactor.callLater(self._linger, self._read)

    def _read(self) -> None:
        self._timer = None
        self._reading = True
        self._spawn(self._hint())

    async def _hint(self) -> None:
        some = list(self._changed)[:AT_ONCE]
        for changed in some:
            del self._changed[changed]

        async def work(tx: Tx) -> list[Mailbox]:
            found = await store.by_ids(tx, some)  # who is gone since is told of by its own event
            return [found[each] for each in some if each in found and found[each].account == self.account]

        try:
            hints = [
                frame({"type": "mailbox", "mailbox": mailbox_form(mailbox)})
                for mailbox in await self._database.read(work)
            ]
            if hints:
                self._tell(b"".join(hints), "", len(hints))
        except Temporary:
            return  # they are hints: the next change brings another
        finally:
            self._reading = False
            self._soon()

    def _tell(self, octets: bytes, closed: str, frames: int = 1) -> None:
        if len(self._line) >= LINE:
            self._line[:] = [(_MISSED, "", 1)]
        self._line.append((octets, closed, frames))
        if not self._telling:
            self._telling = True
            self._spawn(self._tell_line())

    async def _tell_line(self) -> None:
        began = self._reactor.seconds()
        try:
            while self._line:
                line, self._line = self._line, []
                tells, most = tuple(self.telling), max(1, TOLD_AT_ONCE // len(line))
                for start in range(0, len(tells), most):
                    if start:
                        await self._turn()
                    for tell in tells[start : start + most]:
                        for what in line:
                            tell(*what)
        finally:
            self._telling = False
            self._linger = max(LINGER, min(REST * (self._reactor.seconds() - began), LONGEST))
            self._soon()
