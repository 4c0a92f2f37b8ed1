"""Steady mail, and what a client notices: the client and the ledger are those of ``mailfarm prove``.

Run as a process of its own (in a client's network namespace), with the plan as JSON on its standard input::

    traffic.py FOLDER < plan.json          goes on until its standard input ends, finishes, and prints what came of it

A new connection for each message, ``rate`` of them a second whatever the server does; beside them ``kept`` sessions
that stay open. A message is tried at each server of the plan, in order: a client "that tries the next address". With
``rounds`` it keeps what none of them took and tries them again a second later, as any mail server does.

What is counted:

    lost        connects that were refused, timed out, or ended before a banner of 220
    busy        connects that were answered 421: a refusal that says why
    cut         sessions that ended within a transaction before the content was sent
    unknown     sessions that ended after the final dot and before the answer: may be stored, or not
    refused     replies that were not the right one, by their first line
    unsent      messages that no server took
    again       messages that no server took in one round and one did in a later one
    moved       kept sessions that were told 421 between transactions, or cut there, and connected anew
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mailfarm.prove.ledger import Ledger
from mailfarm.prove.smtp import Letter, Refused, Session, compose
from mailfarm.prove.target import Door

_MOST_NOTES = 200


@dataclass(slots=True)
class Plan:
    """What to send where. ``servers`` are (host, port); with ``spread`` each message begins with another of them."""

    servers: list[tuple[str, int]]
    recipients: list[str]
    rate: float = 20.0
    kept: int = 0
    kept_every: float = 0.5
    security: str = "plain"
    user: str = ""
    secret: str = ""
    sources: list[str] = field(default_factory=list)
    spread: bool = False
    size: int = 2000
    timeout: float = 10.0
    rounds: int = 1
    label: str = "t"


class Away(Exception):
    """There was no session to be had: ``how`` is what is counted."""

    def __init__(self, how: str, why: str) -> None:
        super().__init__(why)
        self.how = how


class Traffic:
    """Sends, counts, and keeps the ledger."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan = plan
        self._ledger = ledger
        self._counts: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._by_server: Counter[str] = Counter()
        self._notes: list[tuple[float, str]] = []
        self._took: list[float] = []
        self._began = time.monotonic()
        self._last = self._began
        self._gap = 0.0
        self._number = 0
        self._ended = asyncio.Event()
        self._dice = random.Random()

    async def run(self) -> dict[str, Any]:
        """Until standard input ends."""
        asyncio.get_running_loop().add_reader(sys.stdin, self._heard)
        running = {asyncio.ensure_future(self._keep(number)) for number in range(self._plan.kept)}
        due = time.monotonic()
        while self._plan.rate and not self._ended.is_set():
            task = asyncio.ensure_future(self._one())
            running.add(task)
            task.add_done_callback(running.discard)
            due += 1 / self._plan.rate
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), max(due - time.monotonic(), 0.0))
        await self._ended.wait()
        if running:
            await asyncio.gather(*running)
        return self._form()

    def _heard(self) -> None:
        if not os.read(sys.stdin.fileno(), 65536):
            asyncio.get_running_loop().remove_reader(sys.stdin)
            self._ended.set()

    async def _one(self) -> None:
        """One message, at one server after the other until one takes it."""
        plan, began = self._plan, time.monotonic()
        letter, number = self._letter()
        first = number % len(plan.servers) if plan.spread else 0
        for turn in range(plan.rounds * len(plan.servers)):
            if turn and turn % len(plan.servers) == 0:
                await asyncio.sleep(1)
            server = plan.servers[(first + turn) % len(plan.servers)]
            session = None
            try:
                session = await self._open(server, number)
                await self._send(session, server, letter)
            except Away as away:
                self._note(away.how, str(away), server)
            else:
                self._took.append(time.monotonic() - began)
                self._counts["again" if turn >= len(plan.servers) else "next"] += turn > 0
                await session.quit()
                return
            if session is not None:
                session.close()
        self._note("unsent", f"message {number}", plan.servers[first])

    async def _keep(self, number: int) -> None:
        """A session that stays, with a message now and then."""
        plan = self._plan
        session: Session | None = None
        while not self._ended.is_set():
            server = plan.servers[number % len(plan.servers)]
            fresh = session is None
            try:
                if session is None:
                    session = await self._open(server, number)
                letter, _ = self._letter()
                await self._send(session, server, letter)
            except Away as away:
                moved = not fresh and (away.how == "cut" or str(away).startswith("MAIL: 421"))
                self._note("moved" if moved else away.how, str(away), server)
                number += away.how == "lost"
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), plan.kept_every)
                continue
            if session is not None:
                session.close()
                session = None
        if session is not None:
            await session.quit()

    def _letter(self) -> tuple[Letter, int]:
        """The next message, and its number."""
        plan = self._plan
        self._number += 1
        name, to = f"{plan.label}-{self._number}", plan.recipients[self._number % len(plan.recipients)]
        return Letter(name, (to,), compose(name, [to], plan.size, self._dice)), self._number

    async def _open(self, server: tuple[str, int], number: int) -> Session:
        """Connect, be greeted, and sign in. Raises Away."""
        plan = self._plan
        source = plan.sources[number % len(plan.sources)] if plan.sources else ""
        self._counts["connects"] += 1
        try:
            return await Session.open(Door(*server, plan.security, plan.user, plan.secret), plan.timeout, source)
        except Refused as refused:
            if refused.phase == "session":
                raise Away("refused" if refused.code else "cut", str(refused)) from refused
            raise Away("busy" if refused.code == 421 else "lost", str(refused)) from refused

    async def _send(self, session: Session, server: tuple[str, int], letter: Letter) -> None:
        """One transaction, in the ledger before anything else. Raises Away."""
        attempts = await session.send(letter)
        self._ledger.write(attempts)
        (attempt,) = attempts
        if attempt.outcome != "acked":
            unanswered = "unknown" if attempt.outcome == "unknown" else "cut"
            raise Away("refused" if attempt.code else unanswered, session.why)
        now = time.monotonic()
        self._gap, self._last = max(self._gap, now - self._last), now
        self._counts["acknowledged"] += 1
        self._by_server[server[0]] += 1

    def _note(self, how: str, why: str, server: tuple[str, int]) -> None:
        self._counts[how] += 1
        if how == "refused":
            self._refused[why] += 1
        if len(self._notes) < _MOST_NOTES:
            self._notes.append((round(time.monotonic() - self._began, 2), f"{how} {server[0]}: {why}"))

    def _form(self) -> dict[str, Any]:
        seconds = time.monotonic() - self._began
        took = sorted(self._took)
        ranks = (
            {f"p{p}": took[min(len(took) - 1, -(-p * len(took) // 100) - 1)] for p in (50, 95, 99, 100)} if took else {}
        )
        names = (
            "connects",
            "acknowledged",
            "lost",
            "busy",
            "cut",
            "unknown",
            "refused",
            "unsent",
            "moved",
            "next",
            "again",
        )
        return {
            "seconds": round(seconds, 1),
            **{name: self._counts[name] for name in names},
            "replies": dict(self._refused),
            "ms": {name: round(value * 1000, 1) for name, value in ranks.items()},
            "longest_gap": round(max(self._gap, time.monotonic() - self._last if not took else 0.0), 2),
            "by_server": dict(self._by_server),
            "notes": self._notes,
        }


def main() -> int:
    """Read the plan, run it, print what came of it."""
    given = json.loads(sys.stdin.buffer.readline())
    plan = Plan(**{**given, "servers": [(host, port) for host, port in given["servers"]]})
    print(json.dumps(asyncio.run(Traffic(plan, Ledger(Path(sys.argv[1]), plan.label)).run())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
