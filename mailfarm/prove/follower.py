"""Consumers of events: each follows one mailbox, and writes down every event it is told, repeats as well.

::

    python -m mailfarm.prove.follower < plan.json

A process of its own. The first line of its standard input is the plan; it says ``following`` when all are. A second
line gives for each mailbox the number of its last change: each consumer goes on until it has seen that one or nothing
new was seen for ``patience`` seconds, and then it prints what it counted.

``how`` is ``sse`` (GET …/events), ``websocket`` (/v1/events) or ``wait`` (one wait after the other). After a cut each
goes on after the last change number it saw, as its kind of client does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from mailfarm.sdk import AsyncFarm, FarmError, WaitTimeout, trust
from mailfarm.sdk.events import SseParser

from .child import guarded
from .hearing import Told
from .websocket import WebSocket

SILENCE = 15.0
"""Seconds without a word, though one is asked for or due, after which a connection counts as cut."""
_MOST = 20
"""Errors of each kind that a consumer keeps."""
MOST_PATIENCE = 5
"""So many times the patience a consumer may take that goes on seeing something."""
HOWS = ("sse", "websocket", "wait")


@dataclass(frozen=True, slots=True)
class Plan:
    """Who follows what. ``watched`` are (how, mailbox id); ``addresses`` are those of the host in the URLs, where no
    name service knows them."""

    url: str
    live: str
    watched: list[tuple[str, str]]
    folder: str
    token: str = ""
    cafile: str = ""
    addresses: tuple[str, ...] = ()
    patience: float = 60.0


class Unwritten(Exception):
    """What a consumer was told could not be written down."""


class Consumer:
    """One consumer: what it saw, and how often it was cut."""

    def __init__(self, plan: Plan, how: str, mailbox: str) -> None:
        self.plan, self.how, self.mailbox = plan, how, mailbox
        self.cursor = 0
        self.cuts = 0
        self.errors: list[str] = []
        self.problems: list[str] = []
        self.broken = ""
        self.last: int | None = None
        self.longest = 0.0
        self.there = asyncio.Event()
        self._away_since = time.monotonic()
        self._file = open(path_of(plan.folder, how, mailbox), "wb", buffering=0)  # noqa: SIM115 - until done

    @property
    def done(self) -> bool:
        """Whether it has seen the last change."""
        return self.last is not None and self.cursor >= self.last

    async def run(self) -> None:
        """Follow, and begin again after each cut."""
        follow = {"sse": self._sse, "websocket": self._websocket, "wait": self._wait}[self.how]
        while not self.done:
            try:
                await follow()
            except Unwritten as error:
                self.broken = str(error)
                self.there.set()
                break
            except (OSError, EOFError, TimeoutError, FarmError, httpx.HTTPError, ValueError) as error:
                if self.there.is_set() and not self._away_since:
                    self.cuts += 1
                    self._away_since = time.monotonic()
                self._note(f"{type(error).__name__}: {error}")
                if isinstance(error, FarmError):
                    self._problem(str(error))
                await asyncio.sleep(0.1)
        self._file.close()

    def _note(self, error: str) -> None:
        if len(self.errors) < _MOST and error[:300] not in self.errors:
            self.errors.append(error[:300])

    def _problem(self, what: str) -> None:
        """Something that the server, or the client library, tells its user as an error; a cut is none."""
        if len(self.problems) < _MOST:
            self.problems.append(what[:300])

    def _connected(self) -> None:
        if self.there.is_set() and self._away_since:
            self.longest = max(self.longest, time.monotonic() - self._away_since)
        self._away_since = 0.0
        self.there.set()

    def _saw(self, form: Mapping[str, Any]) -> None:
        kind = form.get("type")
        if kind == "filed":
            message = str((form.get("message") or {}).get("id", ""))
            self._write(Told(int(form["seq"]), message, str(form.get("id", ""))))
        elif kind in ("problem", "resync"):
            self._problem(json.dumps(form))
            raise ConnectionResetError(json.dumps(form)[:300])

    def _write(self, told: Told) -> None:
        line = f"{told.number} {told.message} {told.event}\n".encode()
        try:
            while line:  # a disk that is nearly full takes a part of it
                line = line[self._file.write(line) :]
        except OSError as error:
            raise Unwritten(f"what {self.how} was told could not be written down: {error.strerror}") from error
        self.cursor = max(self.cursor, told.number)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.plan.token}"} if self.plan.token else {}

    async def _sse(self) -> None:
        verify = trust.context(self.plan.cafile or None)
        url = f"{self.plan.url}/v1/mailboxes/{self.mailbox}/events"
        timeout = httpx.Timeout(5, read=60)  # a heartbeat comes more often
        async with (
            httpx.AsyncClient(timeout=timeout, verify=verify, trust_env=False) as http,
            http.stream(
                "GET", url, params={"after": self.cursor}, headers=self._headers | {"Accept": "text/event-stream"}
            ) as answer,
        ):
            if answer.status_code != 200:
                raise ConnectionRefusedError(f"the event stream was answered {answer.status_code}")
            self._connected()
            parser, pieces = SseParser(), answer.aiter_bytes()
            while not self.done:
                try:
                    piece = await asyncio.wait_for(asyncio.shield(going := asyncio.ensure_future(anext(pieces))), 0.5)
                except StopAsyncIteration:
                    raise EOFError("the stream has ended") from None
                except TimeoutError:
                    piece = await self._or_done(going)
                for data in parser.feed(piece):
                    self._saw(json.loads(data))

    async def _or_done(self, going: asyncio.Future[bytes]) -> bytes:
        """What comes next of a stream; nothing once all has been seen."""
        while not self.done:
            done, _ = await asyncio.wait([going], timeout=0.5)
            if done:
                break
        if not going.done():
            going.cancel()
            return b""
        try:
            return going.result()
        except StopAsyncIteration:
            raise EOFError from None

    async def _websocket(self) -> None:
        async with asyncio.timeout(5):
            talk = await WebSocket.open(self.plan.live + "/v1/events", self._headers, self.plan.cafile)
        try:
            async with asyncio.timeout(5):
                await talk.hear()  # hello
            talk.say({"op": "subscribe", "mailbox": self.mailbox, "after": self.cursor})
            last = asked = time.monotonic()
            while not self.done:
                now = time.monotonic()
                if now - last > SILENCE:  # a machine without power says nothing
                    raise TimeoutError("silence")
                if now - asked > SILENCE / 3:
                    talk.say({"op": "ping"})
                    asked = now
                try:
                    async with asyncio.timeout(0.5):
                        heard = await talk.hear()
                except TimeoutError:
                    continue
                last = time.monotonic()
                if heard.get("type") == "subscribed":
                    self._connected()
                else:
                    self._saw(heard)
        finally:
            talk.close()

    async def _wait(self) -> None:
        async with AsyncFarm(self.plan.url, self.plan.token or None, ca=self.plan.cafile or None) as farm:
            inbox = await farm.mailbox(self.mailbox)
            self._connected()
            while not self.done:
                try:
                    mail = await inbox.wait_for(timeout=1, after=self.cursor)
                except WaitTimeout:
                    self._connected()
                    continue
                self._connected()
                self._write(Told(mail.seq, mail.id))


def path_of(folder: str | Path, how: str, mailbox: str) -> Path:
    """The file in which a consumer writes down a line for each event: its change number, its message, and its own id
    where it has been given one."""
    return Path(folder) / f"{how}-{mailbox}.seen"


class Following:
    """The process, from ``start`` to ``finish``. ``before`` stands in front of its command line."""

    def __init__(self, plan: Plan, before: Sequence[str] = ()) -> None:
        self.plan = plan
        self._before = before
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Begin, and return when every consumer follows. Raises ChildProcessError."""
        Path(self.plan.folder).mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            guarded([sys.executable, "-m", "mailfarm.prove.follower"], self._before),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._say(json.dumps(asdict(self.plan)))
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "following\n":
            self.kill()
            raise ChildProcessError("the consumers of events could not begin")

    def _say(self, line: str) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def finish(self, last: Mapping[str, int]) -> dict[str, dict[str, Any]]:
        """Wait until all have seen the last change of their mailbox (by its id), or see nothing new any more. What each
        counted, by ``how`` and mailbox."""
        self._say(json.dumps(dict(last)))
        assert self._process is not None
        said, _ = self._process.communicate(timeout=MOST_PATIENCE * self.plan.patience + 60)
        found: dict[str, dict[str, Any]] = json.loads(said)
        return found

    def saw(self, how: str, mailbox: str) -> list[Told]:
        """What a consumer was told, in the order in which it was; whole lines only."""
        text = path_of(self.plan.folder, how, mailbox).read_text()
        told = (line.split(" ") for line in text.split("\n")[:-1])
        return [Told(int(number), message, event) for number, message, event in told]

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@contextlib.contextmanager
def resolved(host: str, addresses: Sequence[str]) -> Iterator[None]:
    """Let ``host`` be ``addresses`` in this process, each of them the first in turn; without addresses nothing is
    changed."""
    before, turn = socket.getaddrinfo, count()

    def found(name: Any, *given: Any, **named: Any) -> Any:
        if not addresses or name not in (host, host.encode()):
            return before(name, *given, **named)
        first = next(turn) % len(addresses)
        turned = [*addresses[first:], *addresses[:first]]
        return [each for address in turned for each in before(address, *given, **named)]

    socket.getaddrinfo = found  # type: ignore[assignment]  # it takes what comes
    try:
        yield
    finally:
        socket.getaddrinfo = before


async def _until_nothing_comes(
    consumers: Sequence[Consumer], running: list[asyncio.Task[None]], patience: float
) -> None:
    """Wait for all to be done; give up when none of them has seen anything new for ``patience`` seconds: on a machine
    that is busy one call after the other takes its time, and what is slow is not missed."""
    saw, since, end = -1, time.monotonic(), time.monotonic() + MOST_PATIENCE * patience
    while time.monotonic() < min(since + patience, end):
        _, pending = await asyncio.wait(running, timeout=0.5)
        if not pending:
            return
        if (now := sum(consumer.cursor for consumer in consumers)) > saw:
            saw, since = now, time.monotonic()


async def _run(plan: Plan) -> dict[str, dict[str, Any]]:
    consumers = [Consumer(plan, how, mailbox) for how, mailbox in plan.watched]
    running = [asyncio.create_task(consumer.run()) for consumer in consumers]
    await asyncio.gather(*(consumer.there.wait() for consumer in consumers))
    print("following", flush=True)
    last = json.loads(await asyncio.to_thread(sys.stdin.readline) or "{}")
    for consumer in consumers:
        consumer.last = int(last.get(consumer.mailbox, 0))
    await _until_nothing_comes(consumers, running, plan.patience)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    return {
        f"{consumer.how} {consumer.mailbox}": {
            "cuts": consumer.cuts,
            "longest": round(consumer.longest, 2),
            "done": consumer.done,
            "errors": consumer.errors,
            "problems": consumer.problems,
            "broken": consumer.broken,
        }
        for consumer in consumers
    }


def main() -> int:
    """Read the plan, follow, print what was counted."""
    given = json.loads(sys.stdin.readline())
    plan = Plan(**{**given, "watched": [tuple(each) for each in given["watched"]]})
    with resolved(urlsplit(plan.url).hostname or "", plan.addresses):
        print(json.dumps(asyncio.run(_run(plan))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
