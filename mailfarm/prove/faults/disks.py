"""A full disk, and one without inodes, at each store: filled while mail flows, held for some seconds, and freed.

A part's folder is a small tmpfs (``Options.disks``), so the disk is full for that part alone. What is refused meanwhile
hears 451 or 452 and why, what is acknowledged is kept, and mail flows again when there is room. Who starts what ended:

    queue's Redis   ends at the first write that fails (``appendfsync always``), so a supervisor starts it, also while
                    the disk is full, as Swarm and systemd do
    PostgreSQL      panics, and may end before there is room, as it writes when it starts: then it is started once
                    there is
    all others      go on by themselves, in the same process
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Iterator
from typing import Literal

import psycopg2

from mailfarm.prove import tmpfs
from mailfarm.prove.dev import Dev
from mailfarm.prove.ledger import Attempt, Reading
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.processes import Processes, ServicePart, StorePart
from mailfarm.prove.servers import Postgres
from mailfarm.prove.smtp import send_once
from mailfarm.prove.target import Door, Options, Part, Target
from mailfarm.prove.tmpfs import Tmpfs
from mailfarm.sdk import Farm, Inbox

from . import Fault, Tell
from .queued import READABLE, queued, until
from .redis import server as redis_of

What = Literal["octets", "inodes"]
FULL: dict[What, str] = {"octets": "is full", "inodes": "has no inode left"}
HELD = 3.0
"""Seconds for which a disk is full; longer than a measurement of it is good for."""
WITHIN = 60.0
LARGE = 3_000_000
"""Octets of a message that needs a file while it comes in."""
_INCOMING = "size=16m,nr_inodes=100"
SETTINGS = {"MAILFARM_MAX_SIZE": "4M", "MAILFARM_RESERVE": "0"}
"""Without a reserve it is a write that finds the disk full, not a look at it."""
STORES = Options(
    replicas={"inbound": 2},
    settings=SETTINGS,
    # libpq prints the warnings that come while it connects
    postgres_options=("-c", "min_wal_size=32MB", "-c", "max_wal_size=64MB", "-c", "client_min_messages=error"),
    disks={
        "redis-queue-1": "size=96m,nr_inodes=200",
        "postgres": "size=200m,nr_inodes=5000",
        "mx": _INCOMING,
        "submission": _INCOMING,
    },
)
SPOOL = Options(spool=True, settings=SETTINGS, disks={"spool": "size=32m,nr_inodes=1000"})
DEV = Options(settings=SETTINGS, disks={"dev": "size=96m,nr_inodes=500"})


class Filled(Fault):
    """``part`` has the disk, ``what`` of it is used up. ``then`` says what comes of it."""

    family = "disks"
    lasts = 6.0

    def __init__(self, part: str, what: What, options: Options, name: str, place: str, then: str) -> None:
        self.part, self.what = part, what
        self.name = f"disk-{'full' if what == 'octets' else 'inodes'}-{name}"
        self.says = f"{place} {FULL[what]} for {HELD:g} s: {then}"
        self.options = options
        self.wrong: list[str] = []
        self.windows: list[tuple[float, float]] = []
        """When it was full: beginnings and ends."""

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or tmpfs.why_not()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        assert isinstance(target, Processes | Dev)
        disk = target.disks[self.part]
        time.sleep(dice.uniform(0, 0.5))
        with self.around(target):
            began = time.monotonic()
            try:
                tell(f"{self._fill(disk)} {self.what} of ballast")
                while time.monotonic() - began < HELD:
                    self.meanwhile(target)
                    self._fill(disk)  # what somebody gave up
                    time.sleep(0.05)
                self.windows.append((began, time.monotonic()))
                tell(self.held(target))
            finally:
                disk.free()
            self.freed(target, tell)

    def _fill(self, disk: Tmpfs) -> int:
        return disk.fill_octets() if self.what == "octets" else disk.fill_inodes()

    def around(self, target: Target) -> contextlib.AbstractContextManager[None]:
        """What is so from before the disk is full until it has been freed."""
        return contextlib.nullcontext()

    def meanwhile(self, target: Target) -> None:
        """Again and again while it is full."""
        target.mail.send(target.mail.letter(), timeout=5)

    def held(self, target: Target) -> str:
        """At the end of that: what came of it."""
        return said(self._answers(target))

    def freed(self, target: Target, tell: Tell) -> None:
        """There is room again."""

    def _answers(self, target: Target) -> list[Attempt]:
        """All attempts of messages that were begun and answered while it was full."""
        attempts = Reading(target.folder / "ledger").more()
        return [
            each for each in attempts if any(low <= each.began and each.ended <= high for low, high in self.windows)
        ]

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """As in Fault: who is put off hears 451 or 452, and why."""
        found = set(self.wrong)
        for attempt in self._answers(target):
            if attempt.code // 100 == 4 and attempt.code not in (451, 452):
                found.add(f"mail was answered {attempt.code} {attempt.text}")
            elif attempt.code // 100 == 4 and not reason(attempt.text):
                found.add(f"mail was answered {attempt.code} without a reason: {attempt.text!r}")
            elif attempt.outcome == "unknown" and attempt.code == 0:
                found.add("a client was cut off after its content, without an answer")
        return sorted(found)


class RedisFilled(Filled):
    """Nobody files meanwhile, so that what is acknowledged is in this Redis and nowhere else."""

    def around(self, target: Target) -> contextlib.AbstractContextManager[None]:
        """As in Filled."""
        return queued(target)

    def meanwhile(self, target: Target) -> None:
        """As in Filled; a supervisor is at hand."""
        super().meanwhile(target)
        part = target.part(self.part)
        if self.what == "inodes":
            redis_of(part).ask("bgrewriteaof")  # which needs new files
        elif not part.running():
            with contextlib.suppress(ChildProcessError):
                part.start()

    def held(self, target: Target) -> str:
        """As in Filled."""
        answers = self._answers(target)
        if self.what == "octets" and not any(each.code // 100 == 4 for each in answers):
            self.wrong.append("the queue's disk was full and no mail was put off")
        if self.what == "inodes" and not any(each.outcome == "acked" for each in answers):
            self.wrong.append("Redis needs no new file to take mail, and took none")
        return said(answers)

    def freed(self, target: Target, tell: Tell) -> None:
        """As in Filled."""
        part = target.part(self.part)
        if not part.running():
            part.start()


class PostgresFilled(Filled):
    """A segment of its log comes to an end and a checkpoint begins while it is full, as both do every few minutes."""

    _panics = 0

    def meanwhile(self, target: Target) -> None:
        """As in Filled."""
        super().meanwhile(target)
        try:
            _checkpoint(target.part(self.part))
        except psycopg2.Error as error:
            self._panics += "closed the connection" in str(error)

    def held(self, target: Target) -> str:
        """As in Filled."""
        return f"{self._panics} panics seen; {super().held(target)}"

    def freed(self, target: Target, tell: Tell) -> None:
        """As in Filled."""
        part = target.part(self.part)
        until(lambda: not part.running() or _takes(part), "PostgreSQL has ended, or takes connections", WITHIN)
        tell("it went on by itself" if part.running() else "it had ended, and is started")
        if not part.running():
            part.start()


class IncomingFilled(Filled):
    """The folder for content of a listener: a large message of our own, to a mailbox of its own, comes in."""

    _large: list[Attempt]

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Filled."""
        self._large = []
        with Farm(target.url, target.token or None, timeout=30) as farm:
            self._inbox = farm.create_mailbox()
            before = target.part(self.part).pid()
            try:
                super().inject(target, dice, tell)
            finally:
                del self._inbox  # an open client: a fault goes back to who made the report, from one process to another
            if target.part(self.part).pid() != before:
                self.wrong.append(f"{self.part} has ended")

    def meanwhile(self, target: Target) -> None:
        """As in Filled."""
        self._large += self._send(target, self._inbox)

    def held(self, target: Target) -> str:
        """As in Filled."""
        last = self._large[-1]
        if {each.code for each in self._large} - {250, 452} or last.code != 452 or not reason(last.text):
            self.wrong.append(f"large mail was answered {said(self._large)}, at last {last.code} {last.text}")
        return f"large mail: {said(self._large)}; other mail: {super().held(target)}"

    def freed(self, target: Target, tell: Tell) -> None:
        """As in Filled."""
        until(lambda: self._send(target, self._inbox)[0].outcome == "acked", "large mail is taken again", WITHIN)
        acked = 1 + sum(each.outcome == "acked" for each in self._large)
        until(lambda: len(self._inbox.messages()) == acked, f"{acked} large messages can be read", READABLE)

    def _send(self, target: Target, inbox: Inbox) -> list[Attempt]:
        """One large message. The mailbox is not one of those that the oracle reads, so it is not in the ledger."""
        letter = target.mail.letter(inbox.address, LARGE)
        host, port = (target.submission if self.part == "submission" else target.smtp)[0]
        door = Door(host, port)
        if self.part == "submission":
            user, secret = inbox.smtp.user or "", inbox.smtp.password or ""
            door = Door(host, port, target.submission_security, user, secret, inbox.address)
        return asyncio.run(send_once(letter, door))


class SqliteFilled(IncomingFilled):
    """mailfarm dev: its queue, its database and the folder for content are on one disk."""

    targets = ("dev",)

    def meanwhile(self, target: Target) -> None:
        """As in Filled."""
        super().meanwhile(target)
        target.mail.send(target.mail.letter(), timeout=5)

    def held(self, target: Target) -> str:
        """As in Filled."""
        answers = self._answers(target)
        if self.what == "octets" and not any(each.code // 100 == 4 for each in answers):
            self.wrong.append("the disk was full and no mail was put off")
        if self.what == "inodes" and not any(each.outcome == "acked" for each in answers):
            self.wrong.append("SQLite needs no new file to take mail, and took none")
        return super().held(target)


class SpoolFilled(Filled):
    """The queue is away, and the spool, where mail goes then, is full. The service that drains it starts on that."""

    @contextlib.contextmanager
    def around(self, target: Target) -> Iterator[None]:
        """As in Filled."""
        shards = target.of("redis-queue")
        for shard in shards:
            shard.kill()
        try:
            until(lambda: _acknowledged(target), "listeners spool", WITHIN)
            yield
            until(lambda: _acknowledged(target), "listeners spool again by themselves", WITHIN)
        finally:
            for shard in shards:
                shard.start()

    def held(self, target: Target) -> str:
        """As in Filled."""
        answers = self._answers(target)
        refused = Counter((each.code, each.text) for each in answers if each.code // 100 == 4)
        if not refused or any(code != 452 for code, _ in refused):
            self.wrong.append(f"with a full spool and no queue mail was answered {dict(refused)}")
        part = target.part(self.part)
        assert isinstance(part, ServicePart)
        part.kill()
        part.start()
        try:
            until(part.serves, "the service spool serves on a full disk", WITHIN)
        except (ChildProcessError, TimeoutError) as error:
            self.wrong.append(str(error))
        return said(answers)


def reason(text: str) -> bool:
    """Whether a reply says why, in words behind its enhanced code (RFC 3463)."""
    code, _, words = text.partition(" ")
    return code.startswith("4.") and bool(words.strip())


def said(answers: list[Attempt]) -> str:
    """How often which code was heard."""
    counts = Counter(each.code for each in answers)
    return ", ".join(f"{counts[code]} × {code or 'nothing'}" for code in sorted(counts)) or "no mail"


def _acknowledged(target: Target) -> bool:
    return all(attempt.outcome == "acked" for attempt in target.mail.send(target.mail.letter()))


def _checkpoint(part: Part) -> None:
    """With a new segment of the log. Raises psycopg2.Error."""
    connection = psycopg2.connect(_postgres(part).dsn("postgres"), connect_timeout=2)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute("select pg_switch_wal()")
            cursor.execute("checkpoint")
    finally:
        connection.close()


def _takes(part: Part) -> bool:
    """Whether it can do what it could not while it was full."""
    try:
        _checkpoint(part)
    except psycopg2.Error:
        return False
    return True


def _postgres(part: Part) -> Postgres:
    assert isinstance(part, StorePart)
    assert isinstance(part.server, Postgres)
    return part.server


def faults() -> Iterator[Fault]:
    """A full disk and one without inodes for each."""
    ends, stays = "it ends and is started, again and again; 451 or 452", "it cannot rewrite its file, and takes mail"
    queue: tuple[tuple[What, str], ...] = (("octets", ends), ("inodes", stays))
    for what, then in queue:
        yield RedisFilled("redis-queue-1", what, STORES, "redis-queue", "the disk of the queue's Redis", then)
    for what in FULL:
        yield PostgresFilled(
            "postgres", what, STORES, "postgres", "PostgreSQL's disk", "it panics; mail is taken, or 451 or 452"
        )
    for what in FULL:
        for kind in ("mx", "submission"):
            place = f"the disk for content that comes in to {kind}"
            yield IncomingFilled(kind, what, STORES, f"{kind}-incoming", place, "large mail is answered 452")
    for what in FULL:
        yield SpoolFilled("spool", what, SPOOL, "spool", "the local spool's disk", "without the queue mail hears 452")
    for what in FULL:
        yield SqliteFilled("dev", what, DEV, "sqlite", "the disk of mailfarm dev", "452 or 451, without a restart")
