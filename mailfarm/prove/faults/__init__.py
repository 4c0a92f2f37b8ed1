"""The faults, a module each family. ``every()`` gives one of each, in the order in which they are injected."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from mailfarm.prove.target import Options, Target

if TYPE_CHECKING:
    from mailfarm.prove.oracle import Verdict

Tell = Callable[[str], None]


class NotHere(Exception):
    """Raised by ``inject``: it cannot be injected here, and why. Reported as "not run"."""


class Fault(ABC):
    """Something that breaks. A run injects it ``times`` times, and measures after each how long mail takes to be
    readable again."""

    name: str
    """Its name, which stays: ``kill-mx``."""
    family: str
    says: str
    """What happens, in one line."""
    targets: tuple[str, ...] = ("processes",)
    control = False
    """A positive control: mail must be lost by it, or the proof is void."""
    options: Options | None = None
    """The target it needs. A fault with options of its own has a target of its own; None: any will do."""
    times = 1
    at_once = 1
    """How many processes one injection kills, in the family of kills."""
    lasts = 5.0
    """Seconds one injection takes, about, until mail flows again: for who waits for it."""
    short = False
    """Whether the short run has it."""
    thorough = False
    """Set for a full run: leave nothing to the dice that can be gone through."""
    traffic = True
    """Whether it wants steady mail around it; without, it sends its own by ``target.mail``."""

    def missing(self, target: str) -> str:
        """Why it cannot be injected on this machine into a target of this name; empty if it can."""
        return "" if target in self.targets else f"not for {target}"

    @abstractmethod
    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """Break it, hold it, and heal it: what was stopped has been started again when this returns, yet need not be
        healthy. All chance is ``dice``, so that a seed gives the same faults again. Raises NotHere."""

    def seen(self, verdict: Verdict) -> bool:
        """Of a control: whether the proof noticed what it does."""
        return bool(verdict.tally.lost)

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """What this fault's own claims find wrong at the end, a sentence each."""
        return []


def every() -> list[Fault]:
    """One of each fault."""
    from . import (
        clocks,
        disks,
        failover,
        fences,
        kills,
        order,
        partitions,
        poison,
        postgres,
        redis,
        spools,
        sqlite,
        stops,
        swallowed,
        swarm,
        syscalls,
    )

    stores = (redis, failover, spools, order, postgres, sqlite, disks, syscalls)
    modules = (kills, stops, partitions, fences, *stores, swallowed, poison, clocks, swarm)
    return [fault for module in modules for fault in module.faults()]
