"""Steady mail with a ledger, by a process of its own: nothing that breaks the target breaks its clients.

::

    python -m mailfarm.prove.traffic < plan.json

The plan is one line of JSON. It sends until its standard input ends, then tries what is unknown until it is known or
``drain`` seconds have passed, and prints one line of JSON with what it counted (``Counted``). Where the ledger cannot
be written it ends at once.

``rate`` messages a second are begun whatever the server does; when ``clients`` of them are under way and as many wait,
those that would be next are left out, and counted. Sessions are kept for a few messages. What was refused before its
content is given up; what is unknown is sent again, the same Message-ID and content, as RFC 1047 says.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Self

from .child import guarded
from .ledger import MOST, Attempt, Ledger, LedgerBroken
from .smtp import TIMEOUT, How, Letter, Refused, Session, compose, unsent, unsettled
from .target import Door

NOBODY = "nobody-has-this-address@example.invalid"
_PAUSES = (0.3, 0.6, 1.2, 2.4)
"""Seconds until a message that is unknown is sent again; the last one from then on."""
_MOST_UNKNOWN = 10_000
"""Messages that wait to be sent again; one more stays unknown."""


@dataclass(slots=True)
class Plan:
    """What to send where, and what to write down in which folder."""

    doors: list[Door]
    recipients: list[str]
    folder: str
    label: str = "m"
    seed: int = 1
    rate: float = 20.0
    clients: int = 24
    timeout: float = TIMEOUT
    drain: float = 30.0
    sizes: list[int] = field(default_factory=lambda: [2000] * 90 + [20_000] * 8 + [200_000] * 2)
    sources: list[str] = field(default_factory=list)
    """Addresses of ours to connect from, in turn; none: whichever."""
    lines: int = MOST
    """Lines of the ledger."""


COUNTS = ("begun", "left_out", "no_session", "given_up", "unfinished", "acked", "refused", "unknown")
"""What is counted: messages that were begun, and those that were not because all clients were busy; sessions that could
not be had; messages that are unknown and were not sent again, because there were too many or because it was over;
attempts by their outcome."""


@dataclass(slots=True)
class Counted:
    """What clients counted, by the kind of listener they sent to (``mx`` or ``submission``), each with COUNTS."""

    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    unwritten: str = ""
    """Why the ledger is not whole; empty if it is."""


class Traffic:
    """Sends, counts, and keeps the ledger."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._ledger = Ledger(Path(plan.folder), plan.label, plan.lines)
        self._dice = Random(plan.seed)
        self._counts = {_kind(door): Counter(dict.fromkeys(COUNTS, 0)) for door in plan.doors}
        self._fresh: asyncio.Queue[tuple[Letter, Door]] = asyncio.Queue(plan.clients)
        self._again: deque[tuple[float, int, Letter, Door]] = deque()
        self._busy = 0
        self._under_way: dict[int, tuple[Letter, Door]] = {}
        self._number = 0
        self._ended = asyncio.Event()
        self._syncing = True
        self._unsynced: list[tuple[list[Attempt], asyncio.Future[None]]] = []
        self._wants_sync = asyncio.Event()

    async def run(self) -> Counted:
        """Until standard input ends."""
        asyncio.get_running_loop().add_reader(sys.stdin, self._heard)
        clients = [asyncio.create_task(self._client(number)) for number in range(self._plan.clients)]
        syncing = asyncio.create_task(self._sync())
        due = time.monotonic()
        while self._plan.rate and not self._ended.is_set():
            self._begin()
            due = max(due + 1 / self._plan.rate, time.monotonic() - 1)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), max(due - time.monotonic(), 0.0))
        await self._ended.wait()
        deadline = time.monotonic() + self._plan.drain
        while self._unfinished and time.monotonic() < deadline:  # noqa: ASYNC110 - it is many things
            await asyncio.sleep(0.02)
        for task in clients:
            task.cancel()
        for ended in await asyncio.gather(*clients, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended
        self._syncing = False
        self._wants_sync.set()
        await syncing
        self._end()
        self._ledger.close()
        return Counted({kind: dict(counts) for kind, counts in self._counts.items()}, self._ledger.broken)

    @property
    def _unfinished(self) -> bool:
        return bool(self._busy or self._again or not self._fresh.empty()) and not self._ledger.broken

    def _end(self) -> None:
        """Whatever is under way when it is over may be there."""
        now = time.monotonic()
        for letter, door in self._under_way.values():
            self._counts[_kind(door)]["unfinished"] += 1
            with contextlib.suppress(LedgerBroken):
                self._ledger.write(unsettled(letter, door, now))
        for _, _, _, door in self._again:
            self._counts[_kind(door)]["unfinished"] += 1

    def _heard(self) -> None:
        if not os.read(sys.stdin.fileno(), 65536):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            self._ended.set()

    def _begin(self) -> None:
        """Make the next message: most to one recipient, some to several, some to nobody as well, some cut."""
        plan, dice = self._plan, self._dice
        door = plan.doors[self._number % len(plan.doors)]
        self._number += 1
        name, kind = f"{plan.label}-{self._number}", dice.random()
        to: list[str] = [door.address or dice.choice(plan.recipients)]
        how: How = "bdat" if dice.random() < 0.25 else "data"
        if kind < 0.05:
            how = "cut"
        elif kind < 0.15 and not door.address:
            to = dice.sample(plan.recipients, min(3, len(plan.recipients)))
            to += [NOBODY] if kind < 0.1 else []
        letter = Letter(name, tuple(to), compose(name, to, dice.choice(plan.sizes), dice), how)
        try:
            self._fresh.put_nowait((letter, door))
            self._counts[_kind(door)]["begun"] += 1
        except asyncio.QueueFull:
            self._counts[_kind(door)]["left_out"] += 1

    async def _client(self, number: int) -> None:
        """One client: a session for a few messages, then another."""
        session: Session | None = None
        at: Door | None = None
        left = 0
        source = self._plan.sources[number % len(self._plan.sources)] if self._plan.sources else ""
        while True:
            tries, letter, door = await self._next()
            self._busy += 1
            try:
                if session is not None and (door != at or left == 0):
                    await session.quit()
                    session = None
                kept = session is not None
                began = time.monotonic()
                try:
                    if session is None:
                        session, at, left = await self._open(door, source), door, 5
                    left -= 1
                    self._under_way[number] = letter, door
                    attempts = await session.send(letter)
                    del self._under_way[number]
                except Refused as refused:
                    self._counts[_kind(door)]["no_session"] += 1
                    attempts = unsent(letter, door, refused, began)
                if session is not None and session.broken:
                    session.close()
                    session = None
                await self._write(attempts, door)
                self._later(letter, door, tries, attempts, stale=kept)
            finally:
                self._busy -= 1

    async def _open(self, door: Door, source: str) -> Session:
        """A session at ``door``, or at the next of its kind that takes us, as a client tries all addresses of a name.
        Raises Refused."""
        like, last = self._like(door), Refused(0, "")
        for each in like:
            try:
                return await Session.open(each, self._plan.timeout, source)
            except Refused as refused:
                last = refused
        raise last

    def _like(self, door: Door) -> list[Door]:
        """The doors of its kind, from this one on."""
        kind = (door.security, door.user)
        like = list(dict.fromkeys(each for each in self._plan.doors if (each.security, each.user) == kind))
        place = like.index(door)
        return like[place:] + like[:place]

    async def _next(self) -> tuple[int, Letter, Door]:
        """What is due to be sent again, else something new."""
        while True:
            if self._again and self._again[0][0] <= time.monotonic():
                _, tries, letter, door = self._again.popleft()
                return tries, letter, door
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    return 0, *await self._fresh.get()

    def _later(self, letter: Letter, door: Door, tries: int, attempts: list[Attempt], *, stale: bool) -> None:
        """Decide whether and when it is sent again, and to whom."""
        open_ones = tuple(each.to for each in attempts if each.outcome == "unknown")
        if tries:  # unknown before: what is refused for now still is
            open_ones = tuple(each.to for each in attempts if each.outcome != "acked" and each.code // 100 != 5)
        elif stale and letter.how != "cut" and all(e.outcome == "refused" and e.code in (0, 421) for e in attempts):
            open_ones, tries = letter.to, -1  # the session had ended since: an ordinary client tries a new one
        if not open_ones:
            return
        if len(self._again) >= _MOST_UNKNOWN:
            self._counts[_kind(door)]["given_up"] += 1
            return
        how: How = "data" if letter.how == "cut" else letter.how
        pause = _PAUSES[min(max(tries, 0), len(_PAUSES) - 1)] if tries >= 0 else 0.0
        due = (time.monotonic() + pause, tries + 1, Letter(letter.id, open_ones, letter.content, how), door)
        place = len(self._again)
        while place and self._again[place - 1][0] > due[0]:
            place -= 1
        self._again.insert(place, due)

    async def _write(self, attempts: list[Attempt], door: Door) -> None:
        self._counts[_kind(door)].update(attempt.outcome for attempt in attempts)
        done = asyncio.get_running_loop().create_future()
        self._unsynced.append((attempts, done))
        self._wants_sync.set()
        await done

    async def _sync(self) -> None:
        """One write and one sync for all who wait."""
        while self._syncing or self._unsynced:
            await self._wants_sync.wait()
            self._wants_sync.clear()
            group, self._unsynced = self._unsynced, []
            try:
                await asyncio.to_thread(self._ledger.write, [each for attempts, _ in group for each in attempts])
            except LedgerBroken:
                self._ended.set()
            for _, done in group:
                if not done.done():
                    done.set_result(None)


def _kind(door: Door) -> str:
    """The kind of listener behind a door."""
    return "submission" if door.user else "mx"


class Steady:
    """The process, from entering the ``with`` to its end. ``before`` stands in front of its command line."""

    def __init__(self, plan: Plan, before: Sequence[str] = ()) -> None:
        self.plan = plan
        self.result = Counted()
        self._before = before
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Begin to send."""
        command = [sys.executable, "-m", "mailfarm.prove.traffic"]
        self._process = subprocess.Popen(
            guarded(command, self._before),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours: it finishes in an orderly way
        )
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self.plan)).encode() + b"\n")
        self._process.stdin.flush()

    @property
    def running(self) -> bool:
        """Whether it sends."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> Counted:
        """Finish what is under way; what it counted. Raises ChildProcessError if it had ended by itself."""
        process, self._process = self._process, None
        if process is not None:
            said, _ = process.communicate(timeout=self.plan.drain + 60)
            if process.returncode:
                raise ChildProcessError(f"the traffic ended with exit code {process.returncode}")
            self.result = Counted(**json.loads(said))
        return self.result

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.stop()
        else:
            self.kill()


def main() -> int:
    """Read the plan, run it, print what was counted."""
    given = json.loads(sys.stdin.buffer.readline())
    plan = Plan(**{**given, "doors": [Door(**each) for each in given["doors"]]})
    print(json.dumps(asdict(asyncio.run(Traffic(plan).run()))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
