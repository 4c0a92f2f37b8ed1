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


class KillEverything(Fault):
    """All processes at once, stores as well, in any order."""

    name = "kill-everything"
    family = "kills"
    says = "SIGKILL of every process, one right after the other"
    short = True

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        before, order = dice.uniform(0, LONGEST_WAIT), dice.sample(list(target.parts), len(target.parts))
        tell(f"after {before:.3f} s: {', '.join(part.name for part in order)}")
        time.sleep(before)
        for part in order:
            part.kill()
        for part in target.parts:
            part.start()


def faults() -> Iterator[Fault]:
    """A fault for each kind, and one for all of them."""
    for kind in dict.fromkeys(kind for kinds in KINDS.values() for kind in kinds):
        yield Kill(kind)
    yield KillEverything()
