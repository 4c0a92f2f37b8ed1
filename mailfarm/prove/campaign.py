"""All that one command injects: the faults it is asked for, on as many targets as they need, one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from .faults import Fault, Tell
from .report import Report
from .run import Proof, Run
from .target import Options, Target

USUAL = Options(shards=2, replicas={"mx": 2, "inbound": 2})
"""The target of faults that do not ask for one of their own."""
MOST = 60
"""Injections into one target. Then it is judged and another is set up: its disks and what is read at the end stay
small, and what was found is known early."""

Open = Callable[[Path, Options], Target]


class NoSuchFault(Exception):
    """A name that no fault and no family has."""


@dataclass(slots=True)
class Group:
    """What one target goes through."""

    options: Options
    schedule: list[Fault]


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
        found += [Group(wanted, whole[start : start + MOST]) for start in range(0, len(whole), MOST)]
    return found


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
    """Runs groups of faults and makes the report."""

    def __init__(self, target: str, open_target: Open, folder: Path, *, seed: int, patience: float, tell: Tell) -> None:
        self._open = open_target
        self._folder = folder
        self._seed = seed
        self._patience = patience
        self._tell = tell
        self.report = Report(target, seed)

    def run(self, groups: Sequence[Group], deadline: float = 0.0) -> Report:
        """Go through the groups, until ``deadline`` (monotonic; 0: all of them) or a KeyboardInterrupt."""
        for number, group in enumerate(groups):
            if self._late(deadline):
                for fault in dict.fromkeys(group.schedule):
                    self.report.not_run(fault, "the time was over")
                continue
            self._tell(f"target {number + 1} of {len(groups)}: {', '.join(_names(group.schedule))}")
            proof = self._prove(group, number, deadline)
            self.report.add(proof)
            if proof.interrupted:
                self.report.interrupted = True
                break
        return self.report

    def _late(self, deadline: float) -> bool:
        return bool(deadline) and time.monotonic() > deadline

    def _prove(self, group: Group, number: int, deadline: float) -> Proof:
        folder = self._folder / f"target-{number + 1}"
        folder.mkdir()
        proof = Proof(self.report.target, list(dict.fromkeys(group.schedule)))
        try:
            target = self._open(folder, group.options)
            seed = self._seed + 1_000_003 * number  # other dice for each target
            run = Run(target, folder, seed=seed, patience=self._patience, tell=self._tell)
            proof = run.prove(group.schedule, lambda: self._late(deadline))
        except KeyboardInterrupt:
            proof.interrupted, proof.broke = True, "interrupted before it was judged"
        except Exception as error:  # whatever it is, what others have shown is reported all the same
            proof.broke = f"{type(error).__name__}: {error}"
        return proof


def _names(schedule: Sequence[Fault]) -> list[str]:
    return [f"{count} × {name}" if (count := [f.name for f in schedule].count(name)) > 1 else name
            for name in dict.fromkeys(fault.name for fault in schedule)]  # fmt: skip
