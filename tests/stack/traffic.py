"""Steady mail with a ledger: each message that was answered 250 is written down, synced, with its SHA-256.

Run as a process of its own (in a client's network namespace), with the plan as JSON on its standard input::

    traffic.py LEDGER < plan.json          goes on until its standard input ends, finishes, and prints what came of it

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
import base64
import contextlib
import hashlib
import json
import os
import random
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

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


class Session:
    """An SMTP client's session, as far as steady traffic needs one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, timeout: float) -> None:
        self._reader, self._writer, self._timeout = reader, writer, timeout

    @classmethod
    async def open(cls, plan: Plan, server: tuple[str, int], source: str) -> Session:
        """Connect, and be greeted. Raises Away."""
        implicit = _context() if plan.security == "tls" else None
        try:
            reader, writer = await asyncio.wait_for(
                asyncio.open_connection(*server, ssl=implicit, local_addr=(source, 0) if source else None),
                plan.timeout,
            )
        except (OSError, TimeoutError) as error:
            raise Away("lost", f"connect: {type(error).__name__} {error}") from error
        session = cls(reader, writer, plan.timeout)
        try:
            code, text = await session.reply()
        except (OSError, EOFError, TimeoutError) as error:
            session.close()
            raise Away("lost", f"no banner: {type(error).__name__}") from error
        if code != 220:
            session.close()
            raise Away("busy" if code == 421 else "lost", f"banner: {code} {text}")
        return session

    async def begin(self, plan: Plan) -> None:
        """EHLO, and STARTTLS and AUTH where the plan asks for them."""
        await self.ask("EHLO steady.example.net", 250)
        if plan.security == "starttls":
            await self.ask("STARTTLS", 220)
            await asyncio.wait_for(self._writer.start_tls(_context()), self._timeout)
            await self.ask("EHLO steady.example.net", 250)
        if plan.user:
            told = base64.b64encode(f"\0{plan.user}\0{plan.secret}".encode()).decode()
            await self.ask(f"AUTH PLAIN {told}", 235)

    async def send(self, to: str, content: bytes) -> None:
        """One transaction."""
        await self.ask("MAIL FROM:<steady@example.net> BODY=8BITMIME", 250)
        await self.ask(f"RCPT TO:<{to}>", 250)
        await self.ask("DATA", 354)
        stuffed = content.replace(b"\r\n.", b"\r\n..")
        self._writer.write(stuffed + b".\r\n")
        try:
            code, text = await self.reply()
        except (OSError, EOFError, TimeoutError) as error:
            raise Away("unknown", f"after the dot: {type(error).__name__}") from error
        if code != 250:
            raise Away("refused", f"{code} {text}")

    async def ask(self, line: str, wanted: int) -> None:
        """One command and its reply."""
        self._writer.write(line.encode() + b"\r\n")
        code, text = await self.reply()
        if code != wanted:
            raise Away("refused", f"{line.split()[0]}: {code} {text}")

    async def reply(self) -> tuple[int, str]:
        """The next reply: its code and last line. Raises EOFError, OSError, TimeoutError."""
        while True:
            line = await asyncio.wait_for(self._reader.readline(), self._timeout)
            if not line.endswith(b"\n"):
                raise EOFError
            if line[3:4] != b"-":
                return int(line[:3]), line[4:].decode("latin-1").strip()[:80]

    async def quit(self) -> None:
        """Say goodbye and hang up."""
        with contextlib.suppress(OSError, EOFError, TimeoutError, Away):
            await self.ask("QUIT", 221)
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


class Traffic:
    """Sends, counts, and keeps the ledger."""

    def __init__(self, plan: Plan, ledger: Any) -> None:
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
        self._number += 1
        number = self._number
        first = number % len(plan.servers) if plan.spread else 0
        source = plan.sources[number % len(plan.sources)] if plan.sources else ""
        for turn in range(plan.rounds * len(plan.servers)):
            if turn and turn % len(plan.servers) == 0:
                await asyncio.sleep(1)
            server = plan.servers[(first + turn) % len(plan.servers)]
            self._counts["connects"] += 1
            session = None
            try:
                session = await Session.open(plan, server, source)
                await self._transact(session, server, number, greet=True)
            except Away as away:
                self._note(away.how, str(away), server)
            except (OSError, EOFError, TimeoutError) as error:
                self._note("cut", type(error).__name__, server)
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
        source = plan.sources[number % len(plan.sources)] if plan.sources else ""
        session: Session | None = None
        while not self._ended.is_set():
            server = plan.servers[number % len(plan.servers)]
            fresh = session is None
            try:
                if session is None:
                    self._counts["connects"] += 1
                    session = await Session.open(plan, server, source)
                    await session.begin(plan)
                self._number += 1
                await self._transact(session, server, self._number, greet=False)
            except Away as away:
                asked = away.how == "refused" and "MAIL: 421" in str(away)
                self._note("moved" if asked and not fresh else away.how, str(away), server)
                number += away.how == "lost"
            except (OSError, EOFError, TimeoutError) as error:
                self._note("cut" if fresh else "moved", type(error).__name__, server)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), plan.kept_every)
                continue
            if session is not None:
                session.close()
                session = None
        if session is not None:
            await session.quit()

    async def _transact(self, session: Session, server: tuple[str, int], number: int, *, greet: bool) -> None:
        plan = self._plan
        to = plan.recipients[number % len(plan.recipients)]
        name = f"{plan.label}-{number}"
        content = self._content(name, to)
        if greet:
            await session.begin(plan)
        await session.send(to, content)
        line = {"id": name, "to": to, "sha256": hashlib.sha256(content).hexdigest(), "at": time.time()}
        self._ledger.write(json.dumps(line).encode() + b"\n")
        self._ledger.flush()
        os.fdatasync(self._ledger.fileno())
        now = time.monotonic()
        self._gap, self._last = max(self._gap, now - self._last), now
        self._counts["acknowledged"] += 1
        self._by_server[f"{server[0]}"] += 1

    def _content(self, name: str, to: str) -> bytes:
        """Leading dots, octets above 127, and a body that does not compress."""
        body = base64.b64encode(self._dice.randbytes(max(self._plan.size * 3 // 4, 3))).decode()
        lines = "\r\n".join(body[start : start + 76] for start in range(0, len(body), 76))
        head = f"X-Ledger: {name}\r\nFrom: steady@example.net\r\nTo: {to}\r\nSubject: {name}\r\n\r\n"
        return head.encode() + f".\r\n..two\r\ngrüße \r\n{lines}\r\n".encode()

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


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who it is, is another test's matter
    return context


def main() -> int:
    """Read the plan, run it, print what came of it."""
    given = json.loads(sys.stdin.buffer.readline())
    plan = Plan(**{**given, "servers": [(host, port) for host, port in given["servers"]]})
    with open(sys.argv[1], "ab") as ledger:
        print(json.dumps(asyncio.run(Traffic(plan, ledger).run())))
    return 0


if __name__ == "__main__":
    sys.exit(main())
