"""SIGSTOP for longer than every lease: a process that does nothing, holds what it holds, and then goes on as if no time
had passed.

Leases are the worker's on what it has taken (``MAILFARM_INBOUND_LEASE``) and those of places in the limiter (60 s).
The short form has leases of two seconds for the worker; the long one takes all of them as they are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

from mailfarm.prove.child import until
from mailfarm.prove.target import SERVICES, Options, Part, Target

from . import Fault, Tell
from .roles import role_of, roles

LEASE = 2.0
LEASES = Options(replicas={"inbound": 2}, settings={"MAILFARM_INBOUND_LEASE": f"{LEASE:g}"})
"""Two workers, so that one takes over what the other holds."""
LEASES_AS_THEY_ARE = Options(replicas={"inbound": 2})
BEHIND_SENTINEL = (replace(LEASES, sentinel=True), replace(LEASES_AS_THEY_ARE, sentinel=True))
"""The same where Sentinel watches the queue: with short leases, and with those of long stops."""
PAST = 2 * LEASE
IN_SHORT = {"inbound", "redis-queue"}
"""Those of the short run."""
LONGEST = 60.0
LONG_PAST = LONGEST + 15.0
"""Longer than every lease, as they are by default."""
FOLLOWING = 60.0
"""Seconds within which a master that was replaced follows the new one."""


class Stop(Fault):
    """One process of a kind stands still, while mail flows."""

    family = "stops"

    def __init__(self, kind: str, *, long: bool) -> None:
        self.kind = kind
        self.short = not long and kind in IN_SHORT
        self._seconds = LONG_PAST if long else PAST
        self.name = f"stop-{'long-' if long else ''}{kind}"
        self.says = f"SIGSTOP of {kind} for {self._seconds:g} s, longer than " + (
            "every lease" if long else f"a worker's lease of {LEASE:g} s"
        )
        self.lasts = self._seconds + 1
        self.options = LEASES_AS_THEY_ARE if long else LEASES

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = self.part(target, dice)
        time.sleep(dice.uniform(0, 0.5))
        part.pause()
        try:
            time.sleep(self._seconds)
        finally:
            part.resume()

    def part(self, target: Target, dice: random.Random) -> Part:
        """Which one of its kind."""
        return dice.choice(target.of(self.kind))


class StopBehindSentinel(Stop):
    """Sentinel, the queue's replica, or its master, which Sentinel then replaces: it goes on as if it were master."""

    short = False

    def __init__(self, kind: Literal["sentinel", "queue-replica", "queue-master"], *, long: bool) -> None:
        super().__init__(kind, long=long)
        self.options = BEHIND_SENTINEL[long]

    def part(self, target: Target, dice: random.Random) -> Part:
        """As in Stop; the server that has the role now. Raises NotHere."""
        if self.kind == "sentinel":
            return super().part(target, dice)
        return roles(target)[self.kind == "queue-replica"]

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault. It is over when there is one master, and the other follows."""
        before = roles(target)[0]
        super().inject(target, dice, tell)
        until(lambda: sorted(map(role_of, target.of("redis-queue"))) == ["master", "slave"], FOLLOWING, 0.1)
        after = roles(target)[0]
        tell(f"{after.name} is the master" + (f" in place of {before.name}" if after is not before else ", as before"))


def faults() -> Iterator[Fault]:
    """A fault for each kind, for a moment and for long."""
    for long in (False, True):
        for kind in (*SERVICES, "redis-queue", "redis-cache", "postgres"):
            yield Stop(kind, long=long)
        for behind in ("sentinel", "queue-replica", "queue-master"):
            yield StopBehindSentinel(behind, long=long)
