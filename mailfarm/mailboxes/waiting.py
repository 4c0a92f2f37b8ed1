"""Waiting for mail.

=========  ==========================================  ==========================  ==============================
need       found                                       too many                    timed out
=========  ==========================================  ==========================  ==============================
count n    as soon as n match (the oldest n of them)   never                       when fewer match by then
exact n    when exactly n match at the time-out        as soon as n + 1 match      when fewer match by then
none       when none matches at the time-out           as soon as one matches      never
=========  ==========================================  ==========================  ==============================

Messages that are there after the cursor count as if they came now; a message that is deleted while the wait goes on
no longer counts. The answer's ``cursor`` is the last change considered for this very answer: to wait again ``after``
it skips nothing and finds nothing twice.

Time is the host's: it calls ``time_out`` when time is up and ``stop`` when nobody wants the answer any more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from mailfarm.errors import CursorTooOld, Invalid, NotFound
from mailfarm.events import Deleted, Expired, Filed, MailboxClosed, Summary
from mailfarm.ports import Database, Tx

from . import scan
from .changes import summary_from
from .feed import Feed, Feeds, Spawn, Told
from .mailbox import Mailbox
from .match import Criteria

Found = scan.Scanned[Summary]
LARGEST = 10_000
"""The most messages one wait counts."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a wait is for. Raises Invalid."""

    mode: Literal["count", "exact", "none"] = "count"
    n: int = 1

    def __post_init__(self) -> None:
        least = 1 if self.mode == "count" else 0
        if not least <= self.n <= LARGEST:
            raise Invalid(f"{self.mode} is {self.n}; it must be from {least} to {LARGEST}")

    @classmethod
    def at_least(cls, n: int) -> Need:
        """At least ``n`` messages, at once when they are there."""
        return cls("count", n)

    @classmethod
    def exactly(cls, n: int) -> Need:
        """Exactly ``n`` messages until the time-out."""
        return cls("exact", n)

    @classmethod
    def none(cls) -> Need:
        """No message until the time-out."""
        return cls("none", 0)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a wait ended; ``closed``: its mailbox ended or was deleted. ``messages`` are those that matched, in order."""

    kind: Literal["found", "timeout", "too-many", "closed"]
    messages: tuple[Summary, ...]
    cursor: int


class Wait:
    """One wait. ``answer`` is called once, with an ``Answer``, unless ``stop`` comes first."""

    def __init__(
        self,
        feeds: Feeds,
        database: Database,
        spawn: Spawn,
        account: str,
        mailbox_id: str,
        criteria: Criteria,
        need: Need,
        answer: Callable[[Answer], None],
        after: int = 0,
    ) -> None:
        self._feeds = feeds
        self._database = database
        self._spawn = spawn
        self._account = account
        self._mailbox = mailbox_id
        self._criteria = criteria
        self._need = need
        self._answer = answer
        self._after = after
        self._feed: Feed | None = None
        self._over = False
        self._reset()

    def _reset(self) -> None:
        self._matched: dict[str, Summary] = {}
        self._looked = False  # all that was there at the beginning has been considered
        self._at = self._after  # and until then, all up to here
        self._gone: set[str] = set()  # deleted while there is still something to look at

    async def start(self) -> None:
        """Look at what is there, then follow the mailbox. The answer may come before this returns.

        Raises NotFound, Invalid, DatabaseUnavailable; then there is no answer.
        """
        looked: list[Found] = []
        end = 0

        async def look(tx: Tx) -> tuple[Mailbox, int]:
            nonlocal end
            mailbox, found = await scan.scan_of(
                tx,
                self._account,
                self._mailbox,
                self._criteria,
                summary_from,
                after=self._at,
                limit=self._wanted,
                eager=True,
            )
            looked[:] = [found]
            end = mailbox.cursor
            return mailbox, end

        def ready(_: int) -> None:
            self._absorb(looked[0], end)

        feed = await self._feeds.follow(
            self._account,
            self._mailbox,
            None,
            self._hear,
            criteria=self._criteria,
            look=look,
            ready=ready,
        )
        if self._over:
            feed.stop()
            return
        self._feed = feed
        # a mailbox too large for one look: go on looking up to where the feed began
        while not self._looked and not self._over:
            self._absorb(await self._database.read(lambda tx: self._scan(tx, self._at, end)), end)

    def time_out(self) -> None:
        """Time is up: give the answer now."""
        mode, count = self._need.mode, len(self._matched)
        kept = self._looked and mode != "count" and count == self._need.n
        self._end("found" if kept else "timeout")

    def stop(self) -> None:
        """Nobody waits any more: free what is held, give no answer. Idempotent."""
        self._over = True
        if self._feed is not None:
            self._feed.stop()
            self._feed = None
        self._reset()

    @property
    def _wanted(self) -> int:
        """How many more decide."""
        limit = self._need.n if self._need.mode == "count" else self._need.n + 1
        return max(1, limit - len(self._matched))

    async def _scan(self, tx: Tx, after: int, upto: int) -> Found:
        return await scan.scan(
            tx, self._mailbox, self._criteria, summary_from, after=after, upto=upto, limit=self._wanted, eager=True
        )

    def _absorb(self, found: Found, end: int) -> None:
        for message in found.messages:
            if message.id not in self._gone:
                self._matched[message.id] = message
        self._at = found.at if found.more else end
        self._looked = not found.more
        if self._looked:
            self._gone.clear()
        self._settle()

    def _hear(self, told: Sequence[Told]) -> None:
        for each in told:
            if self._over:
                return
            self._consider(each)

    def _consider(self, told: Told) -> None:
        if isinstance(told, MailboxClosed):
            self._end("closed")
        elif isinstance(told, CursorTooOld):
            # fell behind what is kept: begin anew
            self._feed = None
            self._reset()
            self._spawn(self._again())
        elif isinstance(told, Filed):
            if not told.gone:
                self._matched[told.message.id] = told.message
                self._settle()
        elif isinstance(told, Deleted | Expired):
            gone = set(told.messages)
            for id in gone:
                self._matched.pop(id, None)
            if not self._looked:
                self._gone |= gone

    async def _again(self) -> None:
        try:
            await self.start()
        except NotFound:
            self._end("closed")

    def _settle(self) -> None:
        if self._over:
            return
        if self._need.mode == "count":
            # the oldest n: which they are is only known when all before them has been looked at
            if len(self._matched) >= self._need.n and (self._looked or self._oldest_known()):
                self._end("found")
        elif len(self._matched) > self._need.n:
            self._end("too-many")

    def _oldest_known(self) -> bool:
        return sorted(message.seq for message in self._matched.values())[self._need.n - 1] <= self._at

    def _end(self, kind: Literal["found", "timeout", "too-many", "closed"]) -> None:
        if self._over:
            return
        messages = tuple(sorted(self._matched.values(), key=lambda message: message.seq))
        cursor = self._feed.cursor if self._looked and self._feed is not None else self._at
        if kind == "too-many" or (kind == "found" and self._need.mode == "count"):
            messages = messages[: self._need.n + (kind == "too-many")]
            cursor = messages[-1].seq  # what came behind it was not considered
        self.stop()
        self._answer(Answer(kind, messages, cursor))
