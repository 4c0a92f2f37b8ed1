"""The order oracle, at the target's stores: nothing is broken, everything is watched (``prove/order.py``).

Mail is sent one at a time while strace is beside all who take part. The controls do not sync before they answer: they
lose no mail here, for nothing ends, and must be found out all the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from mailfarm.prove import order, trace
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.order import Step
from mailfarm.prove.target import Options, Target
from mailfarm.prove.trace import HEARS, SENDS, SYNCS, Call, Trace
from mailfarm.sdk import Farm

from . import Fault, Tell
from .queued import READABLE
from .redis import EVERYSEC

MESSAGES = 8
_PAUSE = 0.4  # seconds between two messages, and for the end of the last one's entry
Look = Callable[[Sequence[Call]], list[Step]]


class Order(Fault):
    """Messages, one at a time, under the eyes of strace. ``looks`` are functions of ``prove/order.py``; those in
    ``each`` have a step for each message."""

    family = "order"
    traffic = False
    kinds: tuple[str, ...]
    looks: tuple[Look, ...]
    each: tuple[Look, ...]
    inject_calls: tuple[str, ...] = ()

    def __init__(self) -> None:
        self._wrong: list[str] = []

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        self._deliver(target)  # what is done once is done
        pids = [pid for kind in self.kinds for part in target.of(kind) for pid in _family(part.pid())]
        file = target.folder / "order.strace"
        with Trace(pids, file, calls=(*SENDS, *HEARS, *SYNCS), inject=self.inject_calls) as traced:
            acked = 0
            for _ in range(MESSAGES):
                acked += self._deliver(target)
                time.sleep(_PAUSE)
            calls = traced.detach()
        for look in self.looks:
            steps = look(calls)
            wrong = [step for step in steps if step.wrong]
            tell(f"{look.__name__}: {len(steps) - len(wrong)} of {len(steps)} in order")
            if wrong:
                self._wrong.append(f"{look.__name__}: {len(wrong)} of {len(steps)}: {wrong[0].wrong}")
            if not steps or (look in self.each and len(steps) != acked):
                self._wrong.append(f"{look.__name__}: of {acked} messages the trace shows {len(steps)}")

    def _deliver(self, target: Target) -> bool:
        """Whether a message was acknowledged; then it is readable."""
        letter = target.mail.letter()
        (attempt,) = target.mail.send(letter)
        if attempt.outcome != "acked":
            return False
        with Farm(target.url, target.token or None, timeout=30) as farm:
            farm.mailbox(attempt.to).wait_for(subject=letter.id, timeout=READABLE)
        return True

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """As in Fault."""
        return self._wrong

    def seen(self, verdict: Verdict) -> bool:
        """As in Fault."""
        return bool(self._wrong)


class Services(Order):
    """Redis and PostgreSQL, with those who use them."""

    name = "order-services"
    short = True
    says = "mail is synced by Redis before 250, and filed and synced by PostgreSQL before its entry is ended"
    options = Options()
    kinds = ("mx", "inbound", "redis-queue", "postgres")
    looks: tuple[Look, ...] = (order.spooled, order.redis_answers, order.committed, order.ended)
    each: tuple[Look, ...] = (order.spooled, order.committed, order.ended)


class Everysec(Services):
    """A Redis that syncs once a second."""

    name = "order-everysec"
    short = False
    says = "control: appendfsync everysec, which must be found out"
    control = True
    options = Options(redis_options=EVERYSEC)
    looks = each = (order.spooled,)


class FsyncOff(Services):
    """A PostgreSQL that does not sync."""

    name = "order-fsync-off"
    short = False
    says = "control: PostgreSQL with fsync=off, which must be found out"
    control = True
    options = Options(postgres_options=("-c", "fsync=off"))
    looks = each = (order.committed,)


class Sqlite(Order):
    """SQLite in mailfarm dev."""

    name = "order-sqlite"
    short = True
    says = "mail is synced to SQLite's log before 250"
    targets = ("dev",)
    options = Options()
    kinds = ("dev",)
    looks = each = (order.logged,)


class SqliteUnsynced(Sqlite):
    """The control: syncs that never happen."""

    name = "order-sqlite-unsynced"
    says = "control: no sync of SQLite's ever happens, which must be found out"
    control = True
    inject_calls = ("fdatasync:retval=0", "fsync:retval=0")


def _family(pid: int) -> list[int]:
    """A process and those it has forked."""
    return [pid, *trace.children(pid)]


def faults() -> Iterator[Fault]:
    """One of each."""
    yield Services()
    yield Sqlite()
    yield Everysec()
    yield FsyncOff()
    yield SqliteUnsynced()
