"""Following a mailbox: every change, strictly in order, once.

The bus is only a hint. *Subscribe, look, then wait*: a feed first hears the bus, then reads where the mailbox stands,
then takes from the bus what comes with exactly the next number. Whatever else comes is either a repetition, passed
over, or shows a gap, and gaps are filled from the database. What was lost without a trace is found by ``Feeds.look``,
which the host calls every two seconds: one query for all mailboxes that are followed in the process.

The bus tells a ``Crowd``, and that its feeds: see there for how thousands of them follow one mailbox.

::

    bus: seq == at + 1   -> tell            (no database read)
         seq <= at       -> nothing
         seq >  at + 1   -> read the events after ``at``, tell them
    look: seq of the mailbox > at -> the same reading

With criteria, a ``Filed`` is told only if its message meets them and is not gone; every other change is told, as it may
be about a message told before. ``contains`` may need the message's text: until it is read, later changes wait in line,
and when the line is full the feed leaves the bus alone and catches up from the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

from mailfarm.errors import CursorTooOld, Invalid, NotFound, Temporary
from mailfarm.events import Change, Filed, MailboxClosed
from mailfarm.ports import Bus, Database, Tx

from . import events, messages, store
from .changes import marks
from .crowd import Crowd, Heard, Turn
from .mailbox import Mailbox
from .match import ALL, Criteria, Matcher

PAGE = 500
"""Changes read at a time."""
LINE = 500
"""Changes that may wait for a text."""
ASKED = 1000
"""Mailboxes asked after in one statement of ``look``, and"""
LOOKED_AT = 1000
"""feeds that are looked at before others have their turn."""

Told = Change | MailboxClosed | CursorTooOld
"""What a feed delivers. After a ``MailboxClosed``, and after a ``CursorTooOld`` (it fell behind what is kept: list
again), it has stopped."""
Deliver = Callable[[Sequence[Told]], None]
"""Told one or more, in order. All feeds that are told the same at the same time are given the very same tuple."""
Spawn = Callable[[Coroutine[Any, Any, None]], Any]
"""Runs a coroutine in the background and logs what it raises."""
Look = Callable[[Tx], Awaitable[tuple[Mailbox, int]]]


class Feed:
    """One follower of one mailbox. ``cursor`` is the last change told, or passed over by the criteria."""

    __slots__ = (
        "_at",
        "_deliver",
        "_feeds",
        "_high",
        "_line",
        "_matcher",
        "_paused",
        "_working",
        "account",
        "address",
        "closed",
        "cursor",
        "mailbox",
        "stopped",
    )

    def __init__(self, feeds: Feeds, account: str, mailbox: str, deliver: Deliver, criteria: Criteria) -> None:
        self._feeds = feeds
        self.account = account
        self.mailbox = mailbox
        self.address = ""
        self._deliver = deliver
        self._matcher = Matcher(criteria) if criteria else None
        self._at = -1  # the last change taken; -1 until it is known where to begin
        self._high = 0  # the last change heard of
        self._line: deque[Change] = deque()
        self._paused = False
        self._working = False
        self.cursor = 0
        self.closed = False
        self.stopped = False

    def stop(self) -> None:
        """Tell nothing more, and free what is held. Idempotent."""
        self.stopped = True
        self._line.clear()
        self._feeds._forget(self)

    def pause(self) -> None:
        """Tell nothing until ``resume``: what comes meanwhile is read from the database then."""
        self._paused = True

    def resume(self) -> None:
        """Catch up, and go on."""
        self._paused = False
        if self._behind:
            self._feeds._catch_up(self.mailbox)

    @property
    def _behind(self) -> bool:
        return 0 <= self._at < self._high and self._open

    @property
    def _open(self) -> bool:
        return not self._paused and not self.stopped and len(self._line) < LINE

    def hear(self, heard: Heard) -> None:
        """What came, from the bus or from the database."""
        if heard.first == self._at + 1 and not (self._paused or self.stopped or self._line or self._matcher):
            self._at = self.cursor = heard.last
            self._deliver(heard.changes)
            return
        told: list[Told] = []
        for event in heard.changes:
            if self.stopped:
                return
            if isinstance(event, MailboxClosed):
                self.closed = True
                if self._at >= 0:
                    self.stop()
                    told.append(event)
                break
            self._high = max(self._high, event.seq)
            self._take(event, told)
        if told:
            self._deliver(tuple(told))
        if self._behind:
            self._feeds._catch_up(self.mailbox)

    def _begin(self, at: int, address: str, last: int) -> None:
        self._at = self.cursor = at
        self.address = address
        self._high = max(self._high, last)

    def _take(self, change: Change, told: list[Told]) -> None:
        """Take a change if it is the next."""
        if change.seq != self._at + 1 or self._at < 0 or not self._open:
            return
        self._at = change.seq
        meets = True if self._line else self._judge(change)
        if meets is None or self._line:
            self._line.append(change)
            self._work()
        else:
            self._pass(change, meets, told)

    def _judge(self, change: Change, text: str | None = None) -> bool | None:
        """Whether a change is told; None if that takes the text to say."""
        if self._matcher is None or not isinstance(change, Filed):
            return True
        if change.gone:
            return False  # nothing is left to hold the criteria against
        failed = self._matcher.failed(change.message, text or "")
        return None if text is None and failed == ("contains",) else not failed

    def _pass(self, change: Change, meets: bool, told: list[Told]) -> None:
        self.cursor = change.seq
        if meets:
            told.append(change)

    def _end(self, last: CursorTooOld) -> None:
        if not self.stopped:
            self.stop()
            self._deliver((last,))

    def _work(self) -> None:
        if self._line and not self._working:
            self._working = True
            self._feeds._spawn(self._judge_line())

    async def _judge_line(self) -> None:
        """Tell those who wait in line, their texts read a few at a time."""
        try:
            while self._line:
                some = [self._line[number] for number in range(min(len(self._line), 50))]
                judged = await self._judged(some)
                if self.stopped:
                    return
                told: list[Told] = []
                for change, meets in zip(some, judged, strict=True):
                    self._line.popleft()
                    self._pass(change, meets, told)
                if told:
                    self._deliver(tuple(told))
        except Temporary:
            return  # look() comes by again
        finally:
            self._working = False
        if self._behind:
            self._feeds._catch_up(self.mailbox)

    async def _judged(self, some: Sequence[Change]) -> list[bool]:
        return await self._feeds._database.read(lambda tx: self._judge_all(tx, some))

    async def _judge_all(self, tx: Tx, some: Sequence[Change]) -> list[bool]:
        # in the unit, so that one text at a time is in memory
        judged = []
        for change in some:
            meets = self._judge(change)
            if meets is None:
                assert isinstance(change, Filed)
                meets = self._judge(change, await messages.text(tx, change.message.id))
            judged.append(bool(meets))
        return judged


class Feeds:
    """All feeds of a process. ``spawn`` runs a coroutine in the background; ``turn`` is awaited between the pieces of
    what takes long."""

    def __init__(self, database: Database, bus: Bus, spawn: Spawn, turn: Turn) -> None:
        self.turn = turn
        self._database = database
        self._bus = bus
        self._spawn = spawn
        self._crowds: dict[str, Crowd] = {}
        self._filling: set[str] = set()

    def __len__(self) -> int:
        return sum(feed._at >= 0 for crowd in self._crowds.values() for feed in crowd.feeds)

    async def follow(
        self,
        account: str,
        mailbox_id: str,
        after: int | None,
        deliver: Deliver,
        *,
        criteria: Criteria = ALL,
        look: Look | None = None,
        ready: Callable[[int], None] | None = None,
    ) -> Feed:
        """Tell ``deliver`` every change after the change number ``after`` (None: from now on), until ``stop``.

        ``ready`` is called with the number where it begins, before the first delivery. ``look`` reads the mailbox, and
        something else in the very snapshot in which the feed begins, and says where: at a number not above its cursor.
        Raises NotFound, CursorTooOld, Invalid (a number never given out), DatabaseUnavailable.
        """

        async def begin(tx: Tx) -> tuple[Mailbox, int]:
            if look is not None:
                return await look(tx)
            mailbox = await store.find(tx, account, mailbox_id)
            return mailbox, mailbox.cursor if after is None else after

        feed = Feed(self, account, mailbox_id, deliver, criteria)
        crowd = self._crowds.setdefault(mailbox_id, Crowd(self._spawn, self.turn))
        crowd.feeds[feed] = None
        try:
            await self._listen(crowd, mailbox_id)
            mailbox, start = await self._database.read(begin, once=True)
            if feed.closed:
                raise NotFound(f"there is no mailbox {mailbox_id}")
            if not 0 <= start <= mailbox.cursor:
                raise Invalid(f"after is {start}; the mailbox's last change number is {mailbox.cursor}")
            if start < mailbox.oldest:
                raise CursorTooOld(mailbox.oldest + 1, mailbox.cursor)
        except BaseException:
            feed.stop()
            raise
        feed._begin(start, mailbox.address, mailbox.cursor)
        if ready is not None:
            ready(start)
        # what was heard between the reading and now is above start, too
        if feed._behind:
            self._catch_up(mailbox_id)
        return feed

    async def _listen(self, crowd: Crowd, mailbox: str) -> None:
        """Hear the bus, once for the whole crowd."""
        if crowd.bus is None:
            crowd.hears(await self._bus.subscribe(mailbox, crowd.hear))

    async def look(self) -> None:
        """See whether any mailbox that is followed has moved on or is gone. Call it every two seconds. Raises
        DatabaseUnavailable: then call it again."""
        asked = list(self._crowds)
        if not asked:
            return

        async def stand(tx: Tx) -> tuple[int, dict[str, int]]:
            found: dict[str, int] = {}
            for start in range(0, len(asked), ASKED):
                some = asked[start : start + ASKED]
                sql = f"select id, seq from mailbox where id in ({marks(some)}) and (ends_at is null or ends_at > ?)"
                found.update([(row[0], row[1]) for row in await tx.rows(sql, (*some, tx.now))])
            return tx.now, found

        now, found = await self._database.read(stand)
        left = LOOKED_AT
        for mailbox in asked:
            crowd = self._crowds.get(mailbox)
            if crowd is None:
                continue
            if mailbox not in found:
                self._close(crowd, mailbox, now)
                continue
            behind = False
            for feed in tuple(crowd.feeds):
                feed._high = max(feed._high, found[mailbox])
                feed._work()
                behind = behind or feed._behind
                left -= 1
                if not left:
                    left = LOOKED_AT
                    await self.turn()
            if behind:
                self._catch_up(mailbox)

    def _forget(self, feed: Feed) -> None:
        crowd = self._crowds.get(feed.mailbox)
        if crowd is None or feed not in crowd.feeds:
            return
        del crowd.feeds[feed]
        if not crowd.feeds:
            del self._crowds[feed.mailbox]
            if crowd.bus is not None:
                crowd.bus.stop()

    def _close(self, crowd: Crowd, mailbox: str, now: int) -> None:
        # one that has not begun finds out by its own reading
        begun = next((feed for feed in crowd.feeds if feed._at >= 0), None)
        if begun is not None:
            crowd.hear(MailboxClosed(mailbox, begun.account, mailbox, now, begun.address))

    def _catch_up(self, mailbox: str) -> None:
        if mailbox not in self._filling:
            self._filling.add(mailbox)
            self._spawn(self._fill(mailbox))

    async def _fill(self, mailbox: str) -> None:
        """Read changes until no feed of this mailbox is behind. One reading serves all who miss the same."""
        faults: list[Exception] = []
        gone = False
        try:
            while (crowd := self._crowds.get(mailbox)) and (behind := [feed for feed in crowd.feeds if feed._behind]):
                account, low = behind[0].account, min(feed._at for feed in behind)
                try:
                    found = await self._page(account, mailbox, low)
                except CursorTooOld as error:
                    for feed in behind:
                        if feed._at < error.oldest - 1:
                            feed._end(error)
                    continue
                if not found or found[0].seq != low + 1:
                    break  # what the bus told of is not there to be read yet: look() comes by again
                faults += await crowd.tell(found)
        except NotFound:
            gone = True
        except (Temporary, Invalid):
            pass  # look() comes by again
        finally:
            self._filling.discard(mailbox)
        if gone:
            await self.look()  # knows by the database's clock, and tells
        if faults:
            raise faults[0]

    async def _page(self, account: str, mailbox: str, after: int) -> Sequence[Change]:
        found, _ = await self._database.read(lambda tx: events.after(tx, account, mailbox, after, PAGE))
        return found
