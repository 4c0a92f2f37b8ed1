"""SIGKILL of every kind of process, at a random moment while mail flows."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from mailfarm.prove.target import SERVICES, Target

from . import Fault, Tell

KINDS = {"dev": ("dev",), "processes": (*SERVICES, "redis-queue", "redis-cache", "postgres")}
LONGEST_WAIT = 1.0
"""Seconds of mail before the kill, and without the process after it, at most."""


class Kill(Fault):
    """One process of a kind is killed, is away for a moment, and is started again."""

    family = "kills"
    short = True

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.name = f"kill-{kind}"
        self.says = f"SIGKILL of {kind} at a random moment"
        self.targets = tuple(target for target, kinds in KINDS.items() if kind in kinds)

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = dice.choice(target.of(self.kind))
        before, away = dice.uniform(0, LONGEST_WAIT), dice.uniform(0, LONGEST_WAIT)
        tell(f"{part.name} after {before:.3f} s, away for {away:.3f} s")
        time.sleep(before)
        part.kill()
        time.sleep(away)
        part.start()


def faults() -> Iterator[Fault]:
    """A fault for each kind."""
    for kind in dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds):
        yield Kill(kind)
