"""Looking for work on several shards at once, without waiting for the slowest.

A look asks every shard that can be asked. Once one has answered, or something is in hand, the others have ``PATIENCE``
left. What a slow one hands out later is kept, for it is leased already, and is what the next look gives, before it asks
again. A shard that still owes an answer is not asked a second time, so no more is kept of one than a single look for
each worker gave. Nothing is kept for longer than half of its lease: then it is given back, its try too.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater

from mailfarm.errors import QueueUnavailable
from mailfarm.ports import Attempt

from .queue_taking import Turn
from .redis_queue import RedisQueue

PATIENCE = 0.25
"""Seconds for which a look waits for the other shards when one has answered."""

ENDING = 1.0
"""Seconds for which the end waits for what is owed, to give it back."""


class Look:
    """One question to some shards."""

    def __init__(self, reactor: Any, asked: Sequence[int]) -> None:
        self.turns: dict[int, Turn] = {}
        self.owing = set(asked)
        self.over: Deferred[None] = Deferred()
        self._reactor = reactor
        self._timer: Any = None

    def hurry(self) -> None:
        """Wait no longer than ``PATIENCE`` from now."""
        if self._timer is None and not self.over.called:
            self._timer = self._reactor.callLater(PATIENCE, self.end)

    def answered(self, number: int) -> None:
        self.owing.discard(number)
        if self.owing:
            self.hurry()
        else:
            self.end()

    def end(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        if not self.over.called:
            self.over.callback(None)


class ShardLooks:
    """``wake`` is called when there is something that came late; ``give_back`` never raises."""

    def __init__(
        self,
        shards: Sequence[RedisQueue],
        in_turn: Callable[[], list[int]],
        give_back: Callable[[Sequence[Attempt]], Any],
        wake: Callable[[], None],
    ) -> None:
        self._shards = shards
        self._reactor = shards[0].reactor
        self._in_turn = in_turn
        self._give_back = give_back
        self._wake = wake
        self._owing: dict[int, int] = {}  # answers that a shard owes to looks that are over
        self._kept: deque[tuple[Turn, Any]] = deque()  # with the timer that gives it back
        self._looks: set[Look] = set()
        self._stopped = False

    def start(self) -> None:
        """Keep what comes late, from now on."""
        self._stopped = False

    async def stop(self) -> None:
        """Give back what is kept, and what comes late within a moment."""
        self._stopped = True
        while self._kept:
            turn, timer = self._kept.popleft()
            timer.cancel()
            await self._give_back(turn.attempts)
        ends = self._reactor.seconds() + ENDING
        while self._owing and self._reactor.seconds() < ends:
            await deferLater(self._reactor, 0.01)

    async def look(self, limit: int, lease: float) -> Turn:
        """Each shard gives its share of ``limit``; what one has too little, the others may give. Raises
        QueueUnavailable when all are away."""
        if (turn := self._take_kept(limit)) is not None:
            return turn
        there = [number for number in self._in_turn() if self._shards[number].link.connected]
        asking = [number for number in there if number not in self._owing]
        if not there:
            raise QueueUnavailable("; ".join(f"{shard.link} is away: {shard.link.why}" for shard in self._shards))
        if limit < len(asking):
            asking = await self._by_age(asking)
        attempts: list[Attempt] = []
        errors: list[BaseException] = []
        due: int | None = None
        more = answered = False
        while asking and len(attempts) < limit:
            left = limit - len(attempts)
            asked, rest = asking[:left], asking[left:]
            each, over = divmod(left, len(asked))
            shares = {number: each + (place < over) for place, number in enumerate(asked)}
            turns = await self._ask(shares, lease, errors, bool(attempts))
            answered = answered or bool(turns) or any(number in self._owing for number in asked)
            guilty = next((number for number, turn in turns.items() if turn.alone), None)
            if guilty is not None:  # whoever is in the same hands would be lost with it
                others = [attempt for number, turn in turns.items() if number != guilty for attempt in turn.attempts]
                await self._give_back([*attempts, *others])
                return Turn(turns[guilty].attempts, alone=True, more=True)
            for turn in turns.values():
                attempts += turn.attempts
                more = more or turn.more
                if turn.due is not None:
                    due = turn.due if due is None else min(due, turn.due)
            # One that gave all it was asked for may have what another could not give.
            asking = [number for number, turn in turns.items() if len(turn.attempts) == shares[number]] + rest
        if not answered and errors:
            raise errors[0]
        attempts.sort(key=attrgetter("spooled.accepted_at"))
        return Turn(attempts, due, more=more)

    async def _ask(
        self, shares: dict[int, int], lease: float, errors: list[BaseException], holding: bool
    ) -> dict[int, Turn]:
        look = Look(self._reactor, list(shares))
        self._looks.add(look)
        if holding:
            look.hurry()
        for number, share in shares.items():
            Deferred.fromCoroutine(self._ask_one(look, number, share, lease, errors))
        await look.over
        self._looks.discard(look)
        for number in look.owing:
            self._owing[number] = self._owing.get(number, 0) + 1
        return look.turns

    async def _ask_one(self, look: Look, number: int, share: int, lease: float, errors: list[BaseException]) -> None:
        turn = None
        began = self._reactor.seconds()
        try:
            turn = await self._shards[number].look(share, lease)
            turn = turn._replace(attempts=[replace(each, fence=f"{number}~{each.fence}") for each in turn.attempts])
        except Exception as error:
            errors.append(error)
        if not look.over.called:
            if turn is not None:
                look.turns[number] = turn
            look.answered(number)
            return
        try:
            if turn is not None and turn.attempts:
                await self._keep(turn, began + lease / 2)
        finally:
            self._owing[number] -= 1
            if not self._owing[number]:
                del self._owing[number]
            self._wake()  # at the least there is one more that can be asked

    # What came late

    async def _keep(self, turn: Turn, until: float) -> None:
        left = until - self._reactor.seconds()
        if self._stopped or left <= 0:
            await self._give_back(turn.attempts)
            return
        timer = self._reactor.callLater(left, self._too_old)
        self._kept.append((turn, timer))
        for look in self._looks:
            look.hurry()

    def _too_old(self) -> None:
        """The timer of the oldest has come; leases may differ, so of any that is no longer waiting."""
        kept = [(turn, timer) for turn, timer in self._kept if not timer.active()]
        self._kept = deque((turn, timer) for turn, timer in self._kept if timer.active())
        for turn, _ in kept:
            Deferred.fromCoroutine(self._give_back(turn.attempts))

    def _take_kept(self, limit: int) -> Turn | None:
        if not self._kept:
            return None
        turn, timer = self._kept.popleft()
        now, rest = turn.attempts[:limit], turn.attempts[limit:]
        if rest:
            self._kept.appendleft((turn._replace(attempts=rest), timer))
        else:
            timer.cancel()
        return Turn(now, alone=turn.alone, more=True)

    async def _by_age(self, numbers: Sequence[int]) -> list[int]:
        """These shards, the one with the oldest entry first."""
        oldest: dict[int, int] = {}

        async def look(number: int) -> None:
            depth = await self._shards[number].depth()
            if depth.oldest is not None:
                oldest[number] = depth.oldest

        looks = DeferredList([Deferred.fromCoroutine(look(number)) for number in numbers], consumeErrors=True)
        looks.addTimeout(PATIENCE, self._reactor, lambda *_: None)
        await looks
        return sorted(numbers, key=lambda number: (number not in oldest, oldest.get(number, 0)))
