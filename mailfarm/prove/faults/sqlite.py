"""SQLite, in mailfarm dev: killed while its syncs are slow, and syncs that fail.

A kill proves little of SQLite, which writes before it syncs and syncs before it answers: see the order oracle
(``order.py``). A sync that fails must be answered with 452 or 451, and mail be taken again as soon as syncs work.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from mailfarm.prove import trace
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.target import Target
from mailfarm.prove.trace import SYNCS, Trace

from . import Fault, Tell

SLOW = 0.3
"""Seconds that a sync takes where it is slow."""
FAILS = 2.0
"""Seconds for which each sync fails."""


class KillSlowSync(Fault):
    """mailfarm dev is killed while each sync takes long."""

    name = "sqlite-kill-slow-sync"
    family = "sqlite"
    says = f"mailfarm dev is killed while each sync takes {SLOW:g} s"
    targets = ("dev",)
    times = 2
    short = True

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("dev")
        delay = f"fdatasync:delay_enter={int(SLOW * 1e6)}"
        with Trace([part.pid()], target.folder / "sqlite.strace", calls=SYNCS, inject=[delay]):
            time.sleep(dice.uniform(0.5, 2))
            part.kill()
        part.start()


class SyncFails(Fault):
    """Each sync of SQLite fails for a while."""

    family = "sqlite"
    targets = ("dev",)
    short = True

    def __init__(self, error: str) -> None:
        self.name = f"sqlite-sync-fails-{error.lower()}"
        self.says = f"every sync of SQLite fails with {error} for {FAILS:g} s: 452 or 451, and no restart"
        self._error = error
        self._wrong: list[str] = []

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        part = target.part("dev")
        before = part.pid()
        failing = [f"fdatasync,fsync:error={self._error}"]
        codes: list[int] = []
        with Trace([before], target.folder / "sqlite.strace", calls=SYNCS, inject=failing) as traced:
            until = time.monotonic() + FAILS
            while time.monotonic() < until:
                (attempt,) = target.mail.send(target.mail.letter())
                codes.append(attempt.code)
                time.sleep(0.1)
            failed = sum(call.result == -1 for call in traced.detach())
        tell(f"{failed} syncs failed; answered {sorted(set(codes))}")
        if wrong := sorted(set(codes) - {451, 452}):
            self._wrong.append(f"mail that could not be synced was answered {wrong}")
        if part.pid() != before:
            self._wrong.append("mailfarm dev has ended")
        if not part.running():
            part.start()

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """As in Fault."""
        return self._wrong


def faults() -> Iterator[Fault]:
    """One of each."""
    yield KillSlowSync()
    yield SyncFails("EIO")
    yield SyncFails("ENOSPC")
