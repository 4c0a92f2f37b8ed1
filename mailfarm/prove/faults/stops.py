"""SIGSTOP for longer than every lease: a process that does nothing, holds what it holds, and then goes on as if no time
had passed.

Leases are the worker's on what it has taken (``MAILFARM_INBOUND_LEASE``) and those of places in the limiter (60 s).
The short form has leases of two seconds for the worker; the long one takes all of them as they are.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from mailfarm.prove.target import SERVICES, Options, Target

from . import Fault, Tell

LEASE = 2.0
LEASES = Options(replicas={"inbound": 2}, settings={"MAILFARM_INBOUND_LEASE": f"{LEASE:g}"})
"""Two workers, so that one takes over what the other holds."""
PAST = 2 * LEASE
IN_SHORT = {"inbound", "redis-queue"}
"""Those of the short run."""
LONGEST = 60.0
LONG_PAST = LONGEST + 15.0
"""Longer than every lease, as they are by default."""


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
        self.lasts = self._seconds + 3
        self.options = Options(replicas={"inbound": 2}) if long else LEASES

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = dice.choice(target.of(self.kind))
        time.sleep(dice.uniform(0, 0.5))
        part.pause()
        try:
            time.sleep(self._seconds)
        finally:
            part.resume()


def faults() -> Iterator[Fault]:
    """A fault for each kind, for a moment and for long."""
    for long in (False, True):
        for kind in (*SERVICES, "redis-queue", "redis-cache", "postgres"):
            yield Stop(kind, long=long)
