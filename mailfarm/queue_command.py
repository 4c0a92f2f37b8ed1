"""mailfarm queue: look at what waits between the 250 and the mailbox, and decide about what was set aside.

    mailfarm queue                    how many entries wait, are leased, are set aside; the age of the oldest that waits
                                      (of several shards each)
    mailfarm queue list [STATE]       the oldest entries that are aside (or waiting, leased): age, tries, envelope, who
                                      has it until when, the reason of the last failure
    mailfarm queue show ID            an entry's mail, byte for byte, on standard output; about it on standard error
    mailfarm queue retry ID ...       let entries that were set aside wait again, their tries forgotten
    mailfarm queue drop ID ...        forget entries that were set aside, and their mail. Shows them and asks first;
                                      --yes does not ask, and is needed where there is no terminal to ask on

The same over HTTP is below /v1/queue. Mail that is dropped was answered with 250 and is in no mailbox: `show` it first.

Exit codes: 0 done, 1 the queue does not answer or has no such entry, 2 wrong usage or settings, 3 not dropped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from twisted.internet.defer import Deferred
from twisted.logger import globalLogBeginner

from .assembly import clock, with_queue
from .config import Settings
from .errors import MailfarmError, NotFound
from .ports import Depth, Entry, Queue

SECOND = 1_000_000


def run(settings: Settings, folder: Path, args: argparse.Namespace) -> int:
    """Do what the command line asks. The exit code. Raises OSError when what it shows cannot be written."""
    if args.does == "drop" and not args.yes and not sys.stdin.isatty():
        print("mailfarm queue: there is no terminal to ask on; to drop mail for good, say --yes", file=sys.stderr)
        return 2
    from twisted.internet import reactor  # late: importing it installs it

    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    loop: Any = reactor
    codes: list[int] = []
    unforeseen: list[Exception] = []

    async def main() -> None:
        try:
            codes.append(await with_queue(settings, folder, loop, WORK[args.does](args)))
        except MailfarmError as error:
            print(f"mailfarm queue: {error}", file=sys.stderr)
            codes.append(1)
        except Exception as error:
            unforeseen.append(error)
        finally:
            loop.stop()

    loop.callWhenRunning(lambda: Deferred.fromCoroutine(main()))
    loop.run()
    for error in unforeseen:
        if isinstance(error, OSError) and not error.filename:  # standard output's: stores have errors of their own
            raise error
        print(f"mailfarm queue: {type(error).__name__}: {error}", file=sys.stderr)
    return codes[0] if codes else 1


Work = Callable[[Queue], Awaitable[int]]


def depth(args: argparse.Namespace) -> Work:
    """Count."""

    async def work(queue: Queue) -> int:
        whole, shards = await queue.depth(), await queue.depths()
        if args.json:
            each = [{"name": shard.name, "why": shard.why, **_numbers(shard.depth)} for shard in shards]
            print(orjson.dumps({**_numbers(whole), "shards": each}).decode())
        else:
            print(_words(whole))
            for shard in shards if len(shards) > 1 else ():
                print(f"  {shard.name}: {shard.why or _words(shard.depth)}")
        return 0

    return work


def _numbers(depth: Depth | None) -> dict[str, Any]:
    if depth is None:
        return dict.fromkeys(("waiting", "leased", "aside", "oldest_seconds"))
    age = None if depth.oldest is None else _age(depth.oldest)
    return {"waiting": depth.waiting, "leased": depth.leased, "aside": depth.aside, "oldest_seconds": age}


def _words(depth: Depth | None) -> str:
    if depth is None:
        return "it does not answer"
    oldest = "" if depth.oldest is None else f", the oldest for {_age(depth.oldest):.0f} s"
    return f"{depth.waiting} waiting{oldest}; {depth.leased} leased; {depth.aside} set aside"


def _age(since: int) -> float:
    return max(0.0, (clock() - since) / SECOND)


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


def retry(args: argparse.Namespace) -> Work:
    """Let each entry that is named wait again."""

    async def work(queue: Queue) -> int:
        return await _each(queue.requeue, args.ids, "waits again")

    return work


def drop(args: argparse.Namespace) -> Work:
    """Forget each entry that is named, once that was confirmed."""

    async def work(queue: Queue) -> int:
        return await _each(queue.drop, args.ids, "is gone") if args.yes or await _confirmed(queue, args.ids) else 3

    return work


async def _each(do: Callable[[str], Awaitable[None]], ids: Sequence[str], done: str) -> int:
    missing = 0
    for id in ids:
        try:
            await do(id)
            print(f"{id} {done}")
        except NotFound as error:
            print(f"mailfarm queue: {error}", file=sys.stderr)
            missing += 1
    return 1 if missing else 0


async def _confirmed(queue: Queue, ids: Sequence[str]) -> bool:
    """Whether who sits here wants these gone, having seen what they are."""
    for id in ids:
        try:
            print(_line(await queue.find(id)))
        except NotFound as error:
            print(error)
    print(f"drop {len(ids)} and their mail for good? They were accepted, and are in no mailbox. [yes/no] ", end="")
    sys.stdout.flush()
    answered = sys.stdin.readline().strip().lower() == "yes"
    if not answered:
        print("nothing was dropped", file=sys.stderr)
    return answered


WORK: dict[str, Callable[[argparse.Namespace], Work]] = {
    "depth": depth,
    "list": list_,
    "show": show,
    "retry": retry,
    "drop": drop,
}


def _form(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "state": entry.state,
        "account": entry.account,
        "put_at": _time(entry.put_at),
        "age_seconds": _age(entry.put_at),
        "tries": entry.tries,
        "size": entry.size,
        "sender": entry.sender,
        "recipients": list(entry.recipients),
        "reason": entry.reason,
        "lease_ends_at": _time(entry.until) if entry.until and entry.state == "leased" else None,
        "waits_until": _time(entry.until) if entry.until and entry.state == "waiting" else None,
        "holder": entry.holder,
        "shard": entry.shard,
    }


def _line(entry: Entry) -> str:
    to = ", ".join(entry.recipients[:3]) + (f" and {len(entry.recipients) - 3} more" if entry.recipients[3:] else "")
    text = f"{entry.id}  {_age(entry.put_at):.0f} s old  {entry.tries} tries  {entry.size} octets"
    text += f"  <{entry.sender}> to {to}"
    if entry.until:
        by = f" by {entry.holder}" if entry.holder else ""
        text += f"  {'leased' + by if entry.state == 'leased' else 'waits'} until {_time(entry.until)}"
    # what strangers wrote does not move the cursor of who reads it
    return "".join(c if c.isprintable() else "?" for c in text + (f"  {entry.reason}" if entry.reason else ""))


def _time(micros: int) -> str:
    return datetime.fromtimestamp(micros / SECOND, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
