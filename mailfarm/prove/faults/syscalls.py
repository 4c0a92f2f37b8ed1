"""SIGKILL at every system call of one transaction: whatever was done by then, nothing that was acknowledged is gone.

One message is sent under strace, to count what each thread calls. Then, for each of these calls, a message is sent
again and the process is killed as a thread enters its n-th call of that name since strace attached. The message is sent
again until it is acknowledged, as RFC 1047 has clients do. A thorough run goes through all calls, another one through a
few of them by chance.

=====================  ==============================================
``syscalls-mx``        from accept to 250
``syscalls-inbound``   from taking an entry to its end
``syscalls-dev``       from accept to 250, in every thread
=====================  ==============================================
"""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from mailfarm.prove import trace
from mailfarm.prove.processes import well
from mailfarm.prove.smtp import Letter
from mailfarm.prove.target import Door, Options, Part, Target
from mailfarm.prove.trace import SENDS, Call, Trace
from mailfarm.sdk import Farm

from . import Fault, Tell
from .queued import READABLE, until

SAMPLE = 4
"""Calls of a run that is not thorough."""
_PATIENCE = 60.0
_SAID = '"250 2.0.0 spooled as '
_SLOWEST = 5.0
"""Seconds within which a call that comes has come."""
_TEXT = 64
Point = tuple[int, str, int]
"""A thread, by its age, and which of its calls of a name."""


class Syscalls(Fault):
    """One kind of process."""

    family = "syscalls"
    traffic = False

    def __init__(self, kind: str, target: str, options: Options, says: str) -> None:
        self.kind = kind
        self.lasts = 600.0 if kind == "dev" else 60.0  # that has seven times as many calls
        self.name = f"syscalls-{kind}"
        self.targets = (target,)
        self.short = kind != "inbound"
        self.options = options
        self.says = f"SIGKILL at every system call of {kind}, {says}"
        self._last: Counter[str] = Counter()

    def missing(self, target: str) -> str:
        """As in Fault."""
        return super().missing(target) or trace.missing()

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        parts = target.of(self.kind)
        for _ in parts:
            self._readable(target, self._deliver(target, target.mail.letter()))
        points = self._points(target, parts[0])
        whole = len(points)
        if not self.thorough:
            points = dice.sample(points, min(SAMPLE, whole))
        killed = 0
        step = max(20, len(points) // 5)
        for number, point in enumerate(points):
            if number and number % step == 0:
                tell(f"{number} of {len(points)} calls so far, killed at {killed}")
            part = parts[number % len(parts)]
            until(partial(well, part), f"{part.name} serves", _PATIENCE)
            killed += self._kill_at(target, part, point)
        tell(f"killed at {killed} of {len(points)} calls tried; a transaction has {whole}")
        tell(", ".join(f"{name} {count}" for name, count in self._last.most_common()))

    def _points(self, target: Target, part: Part) -> list[Point]:
        """The calls of a transaction, thread by thread."""
        pid = part.pid()
        ages = {thread: age for age, thread in enumerate(trace.threads(pid))}
        with Trace([pid], target.folder / "syscalls.strace", octets=_TEXT) as traced:
            letter = self._deliver(target, target.mail.letter(), part)
            if self.kind == "inbound":
                self._readable(target, letter)
                time.sleep(0.2)  # and its entry is ended
            calls = traced.detach()
        counts: Counter[tuple[int, str]] = Counter()
        points = []
        for call in self._window(calls):
            if call.thread in ages:
                counts[ages[call.thread], call.name] += 1
                points.append((ages[call.thread], call.name, counts[ages[call.thread], call.name]))
        return points

    def _window(self, calls: Sequence[Call]) -> Sequence[Call]:
        ends = [call.entered for call in calls if call.name in SENDS and _SAID in call.text]
        return [call for call in calls if not ends or call.entered <= ends[-1]]

    def _kill_at(self, target: Target, part: Part, point: Point) -> bool:
        """Send a message and kill the process at this call; start it, and send again. Whether it came to the call."""
        age, name, number = point
        pid = part.pid()
        threads = trace.threads(pid)
        letter, acked = target.mail.letter(), False
        file = target.folder / "syscalls.strace"
        deadly = [f"{name}:signal=SIGKILL:when={number}"]
        with Trace([threads[min(age, len(threads) - 1)]], file, inject=deadly, octets=_TEXT, whole=False) as traced:
            acked = self._send(target, letter, part)
            killed = traced.ended(_SLOWEST if self.kind == "inbound" or not acked else 0.2)
            calls = traced.detach()
        part.kill()
        if killed:
            self._last[_last(calls)] += 1
        part.start()
        if not acked:
            self._deliver(target, letter)
        return killed

    def _deliver(self, target: Target, letter: Letter, part: Part | None = None) -> Letter:
        """Send it until it is acknowledged."""
        until(lambda: self._send(target, letter, part), f"{letter.id} is acknowledged", _PATIENCE)
        return letter

    def _send(self, target: Target, letter: Letter, part: Part | None) -> bool:
        """Whether it was acknowledged. By the listener ``part`` if that is one, else by any."""
        door = None
        if part is not None and self.kind == "mx":
            host, port = target.smtp[target.of("mx").index(part)]
            door = Door(host, port)
        (attempt,) = target.mail.send(letter, door, timeout=20)
        return attempt.outcome == "acked"

    def _readable(self, target: Target, letter: Letter) -> None:
        with Farm(target.url, target.token or None, timeout=30) as farm:
            farm.mailbox(letter.to[0]).wait_for(subject=letter.id, timeout=READABLE)


def _last(calls: Sequence[Call]) -> str:
    """What the process was about to do."""
    if not calls:
        return "its first call"
    last = calls[-1]
    return f"{last.name} {Path(last.file).suffix}" if last.file.startswith("/") else last.name


def faults() -> Iterator[Fault]:
    """One for each kind."""
    yield Syscalls("mx", "processes", Options(replicas={"mx": 3}), "from accept to 250")
    leases = {"MAILFARM_INBOUND_LEASE": "5"}
    yield Syscalls("inbound", "processes", Options(settings=leases), "from taking an entry to its end")
    yield Syscalls("dev", "dev", Options(), "from accept to 250")
