#!/usr/bin/env python3
"""How soon after its 250 a message is known to whoever waits for it: mailfarm beside MailDev, in one interleaved run.

    bench/wait.py [--quick] [--only mailfarm,maildev]

Messages are sent at a steady rate, whatever the server does. For each, from the moment its 250 was read to the moment
it was known, in three ways:

wait   mailfarm: ``GET /v1/mailboxes/{id}/wait?subject=…``, asked 50 ms before the message is sent, has answered
frame  mailfarm: the message's event has come over one WebSocket that follows the mailbox
poll   MailDev: a loop that lists the messages every 100 ms until the subject is there, as test suites do; it also does
       so without pausing between two lists, which is the soonest that polling can be. Begins ahead, as a wait does

MailDev is what Node projects use for the same purpose. Times are milliseconds; a negative one was known before the
sender had read its 250.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import chart
import report
from children import Child, Farm, end_on_sigterm, maildev
from corpus import Mail, dot_stuffed, make
from generator import percentiles
from wire import Http, Smtp, WebSocket

_LEAD = 0.05
_PATIENCE = 30.0
_PAUSE = 0.1


@dataclass(slots=True)
class Seen:
    """Seconds from 250 to known, by the way it became known; ``missed`` never did."""

    times: dict[str, list[float]] = field(default_factory=dict)
    missed: int = 0

    def add(self, way: str, seconds: float) -> None:
        """Take one down."""
        self.times.setdefault(way, []).append(seconds)


def mails(count: int, tag: str) -> list[tuple[str, Mail]]:
    """Messages of about 4 KB with a subject nothing else has."""
    dice = random.Random(tag)
    found = []
    for number in range(count):
        subject = f"Reset {tag} {number:06}."
        content = b"Subject: %b\r\n" % subject.encode() + _without_subject(make(4000, dice).content)
        found.append((subject, Mail(content, dot_stuffed(content))))
    return found


def _without_subject(content: bytes) -> bytes:
    before, _, after = content.partition(b"Subject: ")
    return before + after.partition(b"\r\n")[2]


class Pool:
    """Kept connections, made when there are too few."""

    def __init__(self, make_one: Callable[[], Awaitable[Any]]) -> None:
        self._make = make_one
        self._free: list[Any] = []
        self._all: list[Any] = []

    async def take(self) -> Any:
        """One that nobody uses."""
        if self._free:
            return self._free.pop()
        one = await self._make()
        self._all.append(one)
        return one

    def give_back(self, one: Any) -> None:
        """Done with it."""
        self._free.append(one)

    def close(self) -> None:
        """Hang up on all."""
        for one in self._all:
            one.close()


Known = Callable[[str], Awaitable[None]]


async def paced(child: Child, rate: float, count: int, to: str, tag: str, known: dict[str, Known], seen: Seen) -> None:
    """Send ``count`` messages at ``rate`` a second; for each, ``known`` are the ways to learn of it, asked ahead."""
    loop = asyncio.get_running_loop()
    sessions = Pool(lambda: Smtp.open(child.smtp))
    for session in [await sessions.take() for _ in range(8)]:
        sessions.give_back(session)

    async def one(subject: str, mail: Mail, due: float) -> None:
        asked = {way: asyncio.ensure_future(_timed(ask(subject))) for way, ask in known.items()}
        await asyncio.sleep(max(0.0, due - loop.time()))
        session = await sessions.take()
        at = await session.send(to, mail.wire)
        sessions.give_back(session)
        for way, task in asked.items():
            try:
                seen.add(way, await asyncio.wait_for(task, _PATIENCE) - at)
            except TimeoutError:
                seen.missed += 1

    began = loop.time() + 0.2
    running = []
    for number, (subject, mail) in enumerate(mails(count, tag)):
        due = began + number / rate
        await asyncio.sleep(max(0.0, due - _LEAD - loop.time()))
        running.append(asyncio.ensure_future(one(subject, mail, due)))
    try:
        await asyncio.gather(*running)
    finally:
        sessions.close()


async def _timed(known: Awaitable[None]) -> float:
    await known
    return asyncio.get_running_loop().time()


async def of_mailfarm(child: Child, rate: float, count: int, tag: str, pause: float) -> Seen:
    """wait and frame."""
    control = Http(child.http)
    status, body = await control.send("POST", "/v1/mailboxes", {})
    if status != 201:
        raise SystemExit(f"no mailbox was made: {status} {body[:300]!r}")
    mailbox = json.loads(body)
    socket = await WebSocket.open(child.http, "/v1/events")
    socket.say({"op": "subscribe", "mailbox": mailbox["id"]})
    while (await socket.hear())["type"] != "subscribed":
        pass
    frames: dict[str, asyncio.Future[None]] = {}

    async def listen() -> None:
        while True:
            event = await socket.hear()
            if (
                event["type"] == "filed"
                and not (told := frames.setdefault(event["message"]["subject"], _future())).done()
            ):
                told.set_result(None)

    waiters = Pool(_made(lambda: Http(child.http)))

    async def wait(subject: str) -> None:
        http = await waiters.take()
        query = subject.replace(" ", "%20")
        status, answer = await http.get(f"/v1/mailboxes/{mailbox['id']}/wait?subject={query}&timeout={_PATIENCE:.0f}")
        if status != 200:
            raise SystemExit(f"a wait was answered {status}: {answer[:300]!r}")
        waiters.give_back(http)

    async def frame(subject: str) -> None:
        await frames.setdefault(subject, _future())

    listening = asyncio.ensure_future(listen())
    seen = Seen()
    try:
        await paced(child, rate, count, mailbox["address"], tag, {"wait": wait, "frame": frame}, seen)
    finally:
        listening.cancel()
        socket.close()
        waiters.close()
        control.close()
    return seen


async def of_maildev(child: Child, rate: float, count: int, tag: str, pause: float) -> Seen:
    """poll."""
    pollers = Pool(_made(lambda: Http(child.http)))
    await (http := Http(child.http)).send("DELETE", "/api/email/all", {})
    http.close()

    async def poll(subject: str) -> None:
        # like a wait it begins ahead: a test does not know when the application will send; so at no particular moment
        await asyncio.sleep(dice.uniform(0.0, pause))
        http = await pollers.take()
        while True:
            status, answer = await http.get("/api/email")
            if status != 200:
                raise SystemExit(f"MailDev answered {status}: {answer[:300]!r}")
            if any(mail.get("subject") == subject for mail in json.loads(answer)):
                break
            await asyncio.sleep(pause)
        pollers.give_back(http)

    seen, dice = Seen(), random.Random(tag)
    try:
        await paced(child, rate, count, "inbox@mailfarm.test", tag, {"poll": poll}, seen)
    finally:
        pollers.close()
    return seen


def _future() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


def _made(make_one: Callable[[], Any]) -> Callable[[], Awaitable[Any]]:
    async def made() -> Any:
        return make_one()

    return made


HEAD = (
    "server",
    "messages a second",
    "how it becomes known",
    "p50 ms",
    "p95 ms",
    "p99 ms",
    "max ms",
    "messages",
    "missed",
)
_POLLED = 20.0
"""Messages a second for MailDev: each poll lists all it has, and with many at once their queue would be measured."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn, twenty seconds")
    parser.add_argument("--only", default="mailfarm,maildev", help="which servers, parted by commas")
    parser.add_argument("--turns", type=int, default=0, help="how often each is measured (2; quick: 1)")
    parser.add_argument("--seconds", type=float, default=0.0, help="of sending in each (4; quick: 2)")
    given = parser.parse_args(argv)
    turns = given.turns or (1 if given.quick else 2)
    seconds = given.seconds or (2.0 if given.quick else 4.0)
    servers = given.only.split(",")
    end_on_sigterm()
    facts = report.machine()
    found: dict[tuple[str, float, str], list[float]] = {}
    missed: dict[tuple[str, float], int] = {}
    plans: list[tuple[str, Callable[[], Child | None], Any, float, float]] = [
        ("mailfarm", Farm, of_mailfarm, 20.0, 0.0),
        ("mailfarm", Farm, of_mailfarm, 200.0, 0.0),
        ("maildev", maildev, of_maildev, _POLLED, _PAUSE),
        ("maildev", maildev, of_maildev, _POLLED, 0.0),
    ]
    for turn in range(turns):
        for name, start, measure, rate, pause in plans:
            if name not in servers:
                continue
            child = start()
            if child is None:
                print(f"{name} is not on this machine: left out", file=sys.stderr)
                continue
            with child:
                asyncio.run(measure(child, 20.0, 20, "warm", pause))  # the first messages compile and connect
                seen = asyncio.run(measure(child, rate, int(rate * seconds), f"t{turn}", pause))
            missed[name, rate] = missed.get((name, rate), 0) + seen.missed
            for way, times in seen.times.items():
                said = (
                    way if way != "poll" else f"poll, {pause * 1000:.0f} ms between" if pause else "poll without pause"
                )
                found.setdefault((name, rate, said), []).extend(times)
                print(
                    f"{turn + 1}/{turns} {name:9} {rate:5.0f}/s {said:20} {percentiles(times)}",
                    file=sys.stderr,
                    flush=True,
                )
    rows = [
        (
            name,
            rate,
            way,
            *(percentiles(times)[p] for p in ("p50", "p95", "p99", "max")),
            len(times),
            missed[name, rate],
        )
        for (name, rate, way), times in found.items()
    ]
    text = f"{report.about(facts)}\n\n{report.table(HEAD, rows)}"
    form = [dict(zip(HEAD, row, strict=True)) for row in rows]
    bars = [(f"{name}, {rate:.0f}/s, {way}", percentiles(times)["p50"]) for (name, rate, way), times in found.items()]
    picture = chart.bars("From 250 until it is known, median", "ms", bars)
    path = report.save("wait", given.quick, {"machine": facts, "results": form}, text, picture)
    print(text)
    print(f"\nkept in {path.parent}", file=sys.stderr)
    return 1 if any(missed.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
