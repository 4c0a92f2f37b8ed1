"""The queue's Redis: killed while it syncs slowly, while it rewrites its file, when a sync fails; full.

What Redis has acknowledged and not synced survives a kill in the kernel's memory, all but the part that it has not
even written because a sync is under way. So a slow disk is what shows whether it syncs before it answers: with
``appendfsync everysec`` it does not, and mail must be lost.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

from mailfarm.prove import trace
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.processes import StorePart
from mailfarm.prove.servers import Redis
from mailfarm.prove.target import Options, Target
from mailfarm.prove.trace import Trace

from . import Fault, Tell
from .queued import queued, until

SLOW = 1.5
"""Seconds that a sync takes where it is slow: less than services wait for a store."""
EVERYSEC = ("--appendfsync", "everysec", "--user", "default", "on", "nopass", "~*", "&*", "+@all", "-config")
"""mailfarm asks a Redis whether it syncs and takes nothing from one that does not, unless its user may not ask."""
ROOM = 3 * 1024 * 1024
"""Octets until a full Redis is full."""
_KEY_DELAY = 200_000  # µs that each key takes in a rewrite
_LARGE = 200_000


class KillSlowSync(Fault):
    """Mail comes in while each sync takes long, nobody files it, and Redis is killed in the middle."""

    name = "redis-kill-slow-sync"
    family = "redis"
    says = f"every Redis of the queue is killed while each sync takes {SLOW:g} s"
    short = True

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        parts = target.of("redis-queue")
        delay, pids = f"fdatasync:delay_enter={int(SLOW * 1e6)}", [part.pid() for part in parts]
        with queued(target):
            with Trace(pids, target.folder / "redis.strace", calls=trace.SYNCS, inject=[delay]):
                self.wait(server(parts[0]), dice)
                for part in parts:
                    part.kill()
            for part in parts:
                part.start()

    def wait(self, redis: Redis, dice: random.Random) -> None:
        """Until it is to be killed."""
        time.sleep(dice.uniform(1.5, 1.5 + 2 * SLOW))


class Everysec(KillSlowSync):
    """The control: the same with a Redis that answers before it syncs."""

    name = "redis-everysec"
    says = "control: the same with appendfsync everysec, which must lose mail"
    control = True
    short = True
    options = Options(redis_options=EVERYSEC)

    def wait(self, redis: Redis, dice: random.Random) -> None:
        """Into a sync: it answers all the same, and writes nothing for as long as that takes."""
        until(lambda: _fact(redis, "persistence", "aof_pending_bio_fsync") != "0", "Redis syncs")
        time.sleep(dice.uniform(0.6, 0.8) * SLOW)


class KillWhileRewriting(Fault):
    """Redis is killed while it writes its file anew, or has just gone over to the new one."""

    name = "redis-kill-rewriting"
    family = "redis"
    says = "the queue's Redis is killed while it rewrites its append-only file"
    times = 2

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = dice.choice(target.of("redis-queue"))
        redis = server(part)
        with queued(target):
            time.sleep(0.5)
            redis.ask("config", "set", "rdb-key-save-delay", str(_KEY_DELAY))
            redis.ask("bgrewriteaof")
            until(lambda: _rewriting(redis), "Redis rewrites its file")
            keys = int(redis.ask("dbsize"))
            time.sleep(dice.uniform(0, 1.2 * keys * _KEY_DELAY / 1e6))
            tell("killed while it rewrote" if _rewriting(redis) else "killed after it had rewritten")
            children = trace.children(part.pid())
            part.kill()
            for child in children:
                os.kill(child, signal.SIGKILL)
            part.start()


class SyncFails(Fault):
    """A sync of Redis fails. It ends by itself then, and nothing that was under way may have been acknowledged."""

    name = "redis-sync-fails"
    family = "redis"
    says = "a sync of the queue's Redis fails with EIO: it ends"

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = dice.choice(target.of("redis-queue"))
        failing = ["fdatasync:error=EIO"]
        with queued(target):
            with Trace([part.pid()], target.folder / "redis.strace", calls=trace.SYNCS, inject=failing) as traced:
                if not traced.ended(10):
                    part.kill()
            if part.running():
                part.kill()
            part.start()


class Full(Fault):
    """Redis comes to its memory limit: mail is put off, with a reason, and taken again once there is room. There one is
    killed."""

    name = "redis-full"
    family = "redis"
    says = "every Redis of the queue comes to its memory limit, and one is killed there; drained, mail flows again"
    short = True

    def __init__(self) -> None:
        self._wrong: list[str] = []

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        parts = target.of("redis-queue")
        shards = [server(part) for part in parts]
        with queued(target):
            for redis in shards:
                redis.ask("config", "set", "maxmemory", str(int(_fact(redis, "memory", "used_memory")) + ROOM))
            codes = [self._send(target) for _ in range(ROOM // _LARGE * 2 * len(shards))]
            refused = [code for code in codes if code != 250]
            tell(f"{len(codes) - len(refused)} of {len(codes)} found room, the others heard {sorted(set(refused))}")
            if not refused:
                self._wrong.append("it never was full")
            if wrong := sorted(set(refused) - {451, 452}):
                self._wrong.append(f"mail for a full queue was answered {wrong}")
            killed = dice.choice(parts)
            killed.kill()
            killed.start()
        until(lambda: self._send(target) == 250, "a queue that was drained takes mail again", 60)
        for redis in shards:
            redis.ask("config", "set", "maxmemory", "0")

    def _send(self, target: Target) -> int:
        (attempt,) = target.mail.send(target.mail.letter(size=_LARGE))
        return attempt.code

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """As in Fault."""
        return self._wrong


def server(part: object) -> Redis:
    """The Redis of a part."""
    assert isinstance(part, StorePart)
    assert isinstance(part.server, Redis)
    return part.server


def _fact(redis: Redis, section: str, name: str) -> str:
    lines = (line.partition(":") for line in redis.ask("info", section).splitlines())
    return {key: value.strip() for key, _, value in lines}[name]


def _rewriting(redis: Redis) -> bool:
    return _fact(redis, "persistence", "aof_rewrite_in_progress") == "1"


def faults() -> Iterator[Fault]:
    """One of each."""
    yield KillSlowSync()
    yield KillWhileRewriting()
    yield SyncFails()
    yield Full()
    yield Everysec()
