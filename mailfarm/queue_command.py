"""``mailfarm queue``: look at what waits between the 250 and the mailbox, and decide about what was set aside.

    mailfarm queue                    how many entries wait, are leased, are set aside; the age of the oldest that waits
    mailfarm queue list [STATE]       the oldest entries that are aside (or waiting, leased), with envelope and reason
    mailfarm queue show ID            an entry's mail, byte for byte, on standard output; about it on standard error
    mailfarm queue requeue ID ...     let entries that were set aside wait again, their tries forgotten
    mailfarm queue drop ID ...        forget entries that were set aside, and their mail

Exit codes: 0 done, 1 the queue does not answer or has no such entry, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from .assembly import clock, with_queue
from .config import Settings
from .errors import MailfarmError, NotFound
from .ports import Entry, Queue

SECOND = 1_000_000


def run(settings: Settings, folder: Path, args: argparse.Namespace) -> int:
    """Do what the command line asks. The exit code."""
    from twisted.internet import reactor  # late: importing it installs it

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    loop: Any = reactor
    codes: list[int] = []

    async def main() -> None:
        try:
            codes.append(await with_queue(settings, folder, loop, WORK[args.does](args)))
        except MailfarmError as error:
            print(f"mailfarm queue: {error}", file=sys.stderr)
            codes.append(1)
        finally:
            loop.stop()

    loop.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
    loop.run()
    sys.stdout.flush()
    return codes[0] if codes else 1


Work = Callable[[Queue], Awaitable[int]]


def depth(args: argparse.Namespace) -> Work:
    """Count."""

    async def work(queue: Queue) -> int:
        found = await queue.depth()
        age = None if found.oldest is None else max(0.0, (clock() - found.oldest) / SECOND)
        if args.json:
            form = {"waiting": found.waiting, "leased": found.leased, "aside": found.aside, "oldest_seconds": age}
            print(orjson.dumps(form).decode())
        else:
            oldest = "" if age is None else f", the oldest for {age:.0f} s"
            print(f"{found.waiting} waiting{oldest}; {found.leased} leased; {found.aside} set aside")
        return 0

    return work


def list_(args: argparse.Namespace) -> Work:
    """List."""

    async def work(queue: Queue) -> int:
        for entry in await queue.inspect(args.state, args.limit):
            print(orjson.dumps(_form(entry)).decode() if args.json else _line(entry))
        return 0

    return work


def show(args: argparse.Namespace) -> Work:
    """Show the mail of one entry."""

    async def work(queue: Queue) -> int:
        spooled = await queue.read(args.id)
        said = {
            "id": spooled.id,
            "accepted_at": _time(spooled.accepted_at),
            "client": spooled.origin.client,
            "sender": spooled.envelope.sender,
            "recipients": [recipient.address for recipient in spooled.envelope.recipients],
        }
        print(orjson.dumps(said).decode(), file=sys.stderr)
        sys.stdout.buffer.write(spooled.trace)
        async for piece in spooled.content.chunks():
            sys.stdout.buffer.write(piece)
        spooled.content.close()
        return 0

    return work


def each(verb: str, done: str) -> Callable[[argparse.Namespace], Work]:
    """Do something to each entry that is named."""

    def made(args: argparse.Namespace) -> Work:
        async def work(queue: Queue) -> int:
            missing = 0
            for id in args.ids:
                try:
                    await getattr(queue, verb)(id)
                    print(f"{id} {done}")
                except NotFound as error:
                    print(f"mailfarm queue: {error}", file=sys.stderr)
                    missing += 1
            return 1 if missing else 0

        return work

    return made


WORK: dict[str, Callable[[argparse.Namespace], Work]] = {
    "depth": depth,
    "list": list_,
    "show": show,
    "requeue": each("requeue", "waits again"),
    "drop": each("drop", "is gone"),
}


def _form(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state,
        "put_at": _time(entry.put_at),
        "tries": entry.tries,
        "size": entry.size,
        "sender": entry.sender,
        "recipients": list(entry.recipients),
        "reason": entry.reason,
    }


def _line(entry: Entry) -> str:
    to = ", ".join(entry.recipients[:3]) + (f" and {len(entry.recipients) - 3} more" if entry.recipients[3:] else "")
    text = f"{entry.id}  {_time(entry.put_at)}  {entry.tries} tries  {entry.size} octets  <{entry.sender}> to {to}"
    # what strangers wrote does not move the cursor of who reads it
    return "".join(c if c.isprintable() else "?" for c in text + (f"  {entry.reason}" if entry.reason else ""))


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / SECOND, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
