"""All that one command injects: the faults it is asked for, on as many targets as they need, one after the other."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random

from .beside import Begins, Workers
from .faults import Fault, Tell
from .progress import JUDGING, SETTING_UP, Ahead
from .report import Report
from .run import Proof, Run
from .target import Options, Target

USUAL = Options(shards=2, replicas={"mx": 2, "inbound": 2})
"""The target of faults that do not ask for one of their own."""
MOST = 60
"""Injections into one target. Then it is judged and another is set up: its disks and what is read at the end stay
small, and what was found is known early."""
LONGEST = 600.0
"""Seconds that all faults of one target take, about, for the same reason."""

Open = Callable[[Path, Options], Target]
At = Callable[[Ahead], None]
"""Is told whenever something begins or has ended."""


class NoSuchFault(Exception):
    """A name that no fault and no family has."""


@dataclass(slots=True)
class Group:
    """What one target goes through."""

    options: Options
    schedule: list[Fault]

    def lasts(self, done: int = 0) -> float:
        """Seconds until it is judged, about, when so many of its faults are over."""
        whole = sum(fault.lasts for fault in self.schedule if fault.traffic)
        left = sum(fault.lasts for fault in self.schedule[done:])
        return (0 if done else SETTING_UP) + left + JUDGING * whole


def chosen(faults: Sequence[Fault], names: Iterable[str]) -> list[Fault]:
    """The faults with these names, or of these families; all without a name. Raises NoSuchFault."""
    wanted = set(names)
    known = {name for fault in faults for name in (fault.name, fault.family)}
    if unknown := sorted(wanted - known):
        families = ", ".join(dict.fromkeys(fault.family for fault in faults))
        raise NoSuchFault(f"no fault and no family is called {', '.join(unknown)}; families: {families}; see --list")
    return [fault for fault in faults if not wanted or fault.name in wanted or fault.family in wanted]


def groups(faults: Sequence[Fault], seed: int, program: Sequence[str] = ()) -> list[Group]:
    """Who shares a target: all that need no special one, and those with the same wishes; a control is alone."""
    made: list[tuple[Options | None, list[Fault]]] = []
    for fault in faults:
        same = [shared for options, shared in made if options == fault.options and not shared[0].control]
        if same and not fault.control:
            same[0].append(fault)
        else:
            made.append((fault.options, [fault]))
    found = []
    for options, shared in made:
        whole = schedule(shared, seed)
        wanted = options or USUAL
        wanted = replace(wanted, program=wanted.program or tuple(program))  # some plant a defect of their own
        found += [Group(wanted, part) for part in _parts(whole)]
    return found


def _parts(schedule: Sequence[Fault]) -> Iterator[list[Fault]]:
    """As many in a row as one target takes."""
    part: list[Fault] = []
    for fault in schedule:
        if part and (len(part) == MOST or sum(each.lasts for each in part) + fault.lasts > LONGEST):
            yield part
            part = []
        part.append(fault)
    if part:
        yield part


def schedule(faults: Sequence[Fault], seed: int) -> list[Fault]:
    """Each as often as it wants to be injected: in rounds, each round in another order."""
    dice, rounds = Random(f"{seed} schedule"), max(fault.times for fault in faults)
    whole: list[Fault] = []
    for number in range(rounds):
        turn = [fault for fault in faults if fault.times > number]
        if rounds > 1:
            dice.shuffle(turn)
        whole += turn
    return whole


class Campaign:
    """Runs groups of faults and makes the report: ``jobs`` of them at a time, each in a process of its own, or one
    after the other in ours."""

    def __init__(
        self,
        target: str,
        open_target: Open,
        folder: Path,
        *,
        seed: int,
        patience: float,
        tell: Tell,
        at: At = lambda ahead: None,
        jobs: int = 1,
    ) -> None:
        self._open = open_target
        self._folder = folder
        self._seed = seed
        self._patience = patience
        self._tell = tell
        self._at = at
        self._jobs = jobs
        self.report = Report(target, seed)

    def run(self, groups: Sequence[Group], deadline: float = 0.0) -> Report:
        """Go through the groups, until ``deadline`` (monotonic; 0: all of them) or a KeyboardInterrupt."""
        self._groups, self._deadline, self._ahead = groups, deadline, Ahead(groups, self._jobs)
        for group in groups:
            for fault in group.schedule:
                self.report.row(fault)  # in this order, whatever ends first
        (self._run_beside if self._jobs > 1 else self._run_in_turn)()
        return self.report

    def _run_in_turn(self) -> None:
        for number in range(len(self._groups)):
            if self._may_begin(number):
                self._took(number, self._prove(number, self._tell, partial(self._begins, number)))

    def _run_beside(self) -> None:
        """Those that take longest first, so that none is alone at the end."""
        waiting = deque(sorted(range(len(self._groups)), key=lambda number: -self._groups[number].lasts()))
        workers = Workers()
        with workers.interrupts():
            while waiting or len(workers):
                self.report.interrupted |= workers.interrupted
                while waiting and len(workers) < self._jobs:
                    number = waiting.popleft()
                    if self._may_begin(number):
                        workers.begin(number, self._blank(number), partial(self._prove, number))
                for number, said in workers.heard():
                    if isinstance(said, Proof):
                        self._took(number, said)
                    elif isinstance(said, int):
                        self._begins(number, said)
                    else:
                        self._tell(f"target {number + 1}: {said}")

    def _may_begin(self, number: int) -> bool:
        """Whether this group may; if not its faults are not run."""
        schedule = self._groups[number].schedule
        why = "interrupted" if self.report.interrupted else "the time was over" if self._late() else ""
        if why:
            for fault in dict.fromkeys(schedule):
                self.report.not_run(fault, why)
            self._ahead.ends(number)
        else:
            self._at(self._ahead)
            self._tell(f"target {number + 1} of {len(self._groups)}: {', '.join(_names(schedule))}")
        return not why

    def _begins(self, number: int, fault: int) -> None:
        self._ahead.begins(number, fault)
        self._at(self._ahead)

    def _took(self, number: int, proof: Proof) -> None:
        self._ahead.ends(number)
        self._at(self._ahead)
        before = len(self.report.findings)
        self.report.add(proof)
        self.report.interrupted |= proof.interrupted
        found = [f"{each.kind.upper()} ({each.fault}): {each.what}" for each in self.report.findings[before:]]
        acknowledged = proof.verdict.tally.acknowledged
        self._tell(f"target {number + 1} is judged: {acknowledged} acknowledged, {'; '.join(found) or 'nothing wrong'}")

    def _late(self) -> bool:
        return bool(self._deadline) and time.monotonic() > self._deadline

    def _blank(self, number: int) -> Proof:
        return Proof(self.report.target, list(dict.fromkeys(self._groups[number].schedule)))

    def _prove(self, number: int, tell: Tell, begins: Begins) -> Proof:
        group, proof = self._groups[number], self._blank(number)
        folder = self._folder / f"target-{number + 1}"
        folder.mkdir()
        try:
            target = self._open(folder, group.options)
            seed = self._seed + 1_000_003 * number  # other dice for each target
            run = Run(target, folder, seed=seed, patience=self._patience, tell=tell, begins=begins)
            proof = run.prove(group.schedule, self._late)
        except KeyboardInterrupt:
            proof.interrupted, proof.broke = True, "interrupted before it was judged"
        except Exception as error:  # whatever it is, what others have shown is reported all the same
            proof.broke = f"{type(error).__name__}: {error}"
        return proof


def _names(schedule: Sequence[Fault]) -> list[str]:
    return [f"{count} × {name}" if (count := [f.name for f in schedule].count(name)) > 1 else name
            for name in dict.fromkeys(fault.name for fault in schedule)]  # fmt: skip
