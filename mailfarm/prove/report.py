"""What came of it all: a row for each fault, what is wrong, and whether that is a proof. As a table, and as JSON."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from .course import Course, course_of
from .faults import Fault
from .oracle import Fate, Tally, Verdict, tally
from .run import Injected, Proof
from .traffic import COUNTS

SHOWN: Final = 20
"""Findings of one kind that are spelt out; of more the number is given."""
HEAD: Final = (
    "fault",
    "injected",
    "acked",
    "lost",
    "ghosts",
    "dup.",
    "unknown",
    "refused",
    "bound",
    "p50 s",
    "max s",
    "",
)
SILENT: Final = 10
"""Messages after which clients of whom none was acknowledged are a finding."""
KINDS: Final = {
    "lost": "acknowledged, and not readable",
    "altered": "read back with other content",
    "ghost": "refused, and there all the same",
    "excess": "there more often than attempts account for",
    "stray": "there, and nobody sent it",
    "gap": "a change number is missing, or there twice",
    "missed": "a consumer of events was not told",
    "mistold": "a consumer of events was told what is not so",
    "unread": "not judged: a mailbox could not be read",
    "silent": "nothing of what clients sent there was acknowledged",
    "control": "a control was not found out: the proof would not notice a loss",
    "wrong": "a claim of the fault itself does not hold",
    "broke": "could not be judged",
}


@dataclass(slots=True)
class Row:
    """One fault."""

    name: str
    family: str
    says: str
    control: bool
    injected: int = 0
    attempts: int = 0
    acknowledged: int = 0
    refused: int = 0
    unknown: int = 0
    duplicates: int = 0
    lost: int = 0
    altered: int = 0
    ghosts: int = 0
    not_judged: int = 0
    """Of those acknowledged."""
    recovery: list[float] = field(default_factory=list)
    seconds: float = 0.0
    remarks: list[str] = field(default_factory=list)
    not_run: str = ""

    @property
    def judged(self) -> int:
        """What was acknowledged, and is known to be there or not."""
        return self.acknowledged - self.not_judged

    @property
    def bound(self) -> float | None:
        """With 95 % confidence no more than this share of what was acknowledged is lost, if each is by itself: 3/n, and
        never more than all. None where something was, and where nothing is known."""
        return min(3 / self.judged, 1.0) if self.judged and not self.lost else None

    @property
    def median(self) -> float | None:
        """Seconds to recover, half of the times or less."""
        return sorted(self.recovery)[(len(self.recovery) - 1) // 2] if self.recovery else None

    @property
    def longest(self) -> float | None:
        """Seconds to recover, at most."""
        return max(self.recovery, default=None)


@dataclass(slots=True)
class Finding:
    """Something that is wrong. ``kind`` is one of KINDS."""

    kind: str
    fault: str
    what: str


@dataclass(slots=True)
class Report:
    """All targets of one command."""

    target: str
    seed: int
    began: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    seconds: float = 0.0
    rows: dict[str, Row] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    sequence: list[dict[str, Any]] = field(default_factory=list)
    """Every injection, in order, and what it said of itself."""
    clients: dict[str, dict[str, int]] = field(default_factory=dict)
    """By the kind of listener they sent to: what clients counted (``traffic.COUNTS``)."""
    consumers: dict[str, dict[str, int]] = field(default_factory=dict)
    """By kind of consumer: how many events it was told, again, not at all, and how often it was cut."""
    courses: list[Course] = field(default_factory=list)
    readable_after: float = 0.0
    """The longest a target took from the end of its traffic until all that was acknowledged was read, seconds."""
    interrupted: bool = False
    require_all: bool = False
    _since: float = field(default_factory=time.monotonic)

    def row(self, fault: Fault) -> Row:
        """The fault's row."""
        if fault.name not in self.rows:
            self.rows[fault.name] = Row(fault.name, fault.family, fault.says, fault.control)
        return self.rows[fault.name]

    def not_run(self, fault: Fault, why: str) -> None:
        """Say why a fault was not injected."""
        row = self.row(fault)
        if row.injected:
            row.remarks.append(f"not as often as it should: {why}")
        else:
            row.not_run = row.not_run or why

    def add(self, proof: Proof) -> None:
        """Take in what one target went through."""
        self.seconds = round(time.monotonic() - self._since, 1)
        for injected in proof.injected:
            self._count(injected)
        ended = "interrupted" if proof.interrupted else "its target broke" if proof.broke else "the time was over"
        for fault in proof.faults:
            if all(injected.fault is not fault for injected in proof.injected):
                self.not_run(fault, ended)
        by_fault = _by_fault(proof)
        for fault in proof.faults:
            self._sum_up(self.row(fault), tally(by_fault[fault.name]))
        self._find(proof, {fault.name: tally(by_fault[fault.name]) for fault in proof.faults})
        for kind, numbers in proof.traffic.clients.items():
            all_of_them = self.clients.setdefault(kind, dict.fromkeys(COUNTS, 0))
            for name, number in numbers.items():
                all_of_them[name] += number
        of_control = any(fault.control for fault in proof.faults)  # whose mail is gone on purpose
        for consumer, counted in () if of_control else proof.consumers.items():
            of_kind = self.consumers.setdefault(
                consumer.split()[0], {"told": 0, "again": 0, "missed": 0, "cuts": 0, "consumers": 0}
            )
            of_kind["told"] += counted["told"]
            of_kind["again"] += proof.verdict.repeats.get(consumer, 0)
            of_kind["missed"] += len(proof.verdict.missed.get(consumer, []))
            of_kind["cuts"] += counted["cuts"]
            of_kind["consumers"] += 1
        self.courses += course_of(proof)
        self.readable_after = max(self.readable_after, proof.verdict.seconds)

    def _count(self, injected: Injected) -> None:
        row = self.row(injected.fault)
        if injected.not_here:
            self.not_run(injected.fault, injected.not_here)
            return
        if row.not_run:
            row.remarks.append(f"not as often as it should: {row.not_run}")
            row.not_run = ""
        row.injected += 1
        row.seconds += injected.healed - injected.began
        if injected.recovered is not None:
            row.recovery.append(round(injected.recovered, 2))
        self.sequence.append({"fault": row.name, "told": injected.told, "recovered": injected.recovered})

    def _sum_up(self, row: Row, counted: Tally) -> None:
        row.attempts += counted.attempts
        row.acknowledged += counted.acknowledged
        row.refused += counted.refused
        row.unknown += counted.unknown
        row.duplicates += counted.duplicates
        row.lost += len(counted.lost)
        row.altered += len(counted.altered)
        row.ghosts += len(counted.ghosts)
        row.not_judged += len(counted.not_judged)
        if counted.not_judged:
            row.remarks.append(f"{len(counted.not_judged)} not judged")

    def _find(self, proof: Proof, tallies: dict[str, Tally]) -> None:
        names = ", ".join(tallies)
        if proof.broke:
            self._note("broke", names, [proof.broke])
        verdict, control = proof.verdict, any(fault.control for fault in proof.faults)
        self._note("unread", names, _unread(verdict))
        for name, counted in tallies.items():
            if control:
                seen = all(fault.seen(verdict) for fault in proof.faults)
                found = "found out, as it must be" if seen else "not found out"
                self.rows[name].remarks.append(f"control: lost {len(counted.lost)}, {found}")
                void = proof.broke or proof.interrupted or verdict.unread or self.rows[name].not_run
                if not (seen or void):
                    self._note("control", name, ["it lost nothing that was noticed"])
                continue
            self._note("lost", name, counted.lost)
            self._note("altered", name, counted.altered)
            self._note("ghost", name, counted.ghosts)
            self._note("excess", name, counted.excess)
        if control:
            return
        self._note("stray", names, verdict.strays)
        self._note("gap", names, [f"{box}: {_some(numbers)}" for box, numbers in verdict.gaps.items()])
        self._note("missed", names, [f"{consumer}: {_some(numbers)}" for consumer, numbers in verdict.missed.items()])
        self._note("mistold", names, [f"{consumer}: {each}" for consumer, all_of_it in verdict.mistold.items()
                                      for each in all_of_it])  # fmt: skip
        self._note("silent", names, _silent(proof))
        self._note("wrong", names, verdict.wrong)

    def _note(self, kind: str, fault: str, what: list[str]) -> None:
        self.findings += [Finding(kind, fault, each) for each in what[:SHOWN]]
        if len(what) > SHOWN:
            self.findings.append(Finding(kind, fault, f"and {len(what) - SHOWN} more"))

    @property
    def total(self) -> Row:
        """All rows but those of controls."""
        controls = any(row.control for row in self.rows.values())
        whole = Row("all", "", "controls left out" if controls else "", False)
        for row in self.rows.values():
            if not row.control:
                for name in ("injected", "attempts", "acknowledged", "refused", "unknown", "duplicates", "lost",
                             "altered", "ghosts", "not_judged"):  # fmt: skip
                    setattr(whole, name, getattr(whole, name) + getattr(row, name))
                whole.recovery += row.recovery
                whole.seconds += row.seconds
        return whole

    @property
    def left_out(self) -> list[Row]:
        """Faults that were not injected."""
        return [row for row in self.rows.values() if row.not_run]

    @property
    def proved(self) -> bool:
        """Whether nothing is wrong, something was acknowledged while something was injected, and nothing was left out
        that had to be there."""
        enough = self.total.injected > 0 and self.total.judged > 0
        only_controls = bool(self.rows) and all(row.control for row in self.rows.values())
        return (
            not self.findings
            and not self.interrupted
            and (enough or (only_controls and any(row.injected for row in self.rows.values())))
            and not (self.require_all and self.left_out)
        )

    def form(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "proved": self.proved,
            "target": self.target,
            "seed": self.seed,
            "began": self.began,
            "seconds": self.seconds,
            "interrupted": self.interrupted,
            "total": _row_form(self.total),
            "bound_95": self.total.bound,
            "readable_after": round(self.readable_after, 2),
            "faults": [_row_form(row) for row in self.rows.values()],
            "findings": [asdict(finding) for finding in self.findings],
            "clients": self.clients,
            "consumers": self.consumers,
            "sequence": self.sequence,
            "courses": [asdict(course) for course in self.courses],
        }

    def text(self) -> str:
        """The table, for a terminal."""
        lines = [HEAD, *(_cells(row) for row in [*self.rows.values(), self.total])]
        widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD) - 1)]
        shown = []
        for line in lines:
            cells = [line[0].ljust(widths[0])]
            cells += [cell.rjust(width) for cell, width in zip(line[1:-1], widths[1:], strict=True)]
            shown.append("  ".join([*cells, line[-1]]).rstrip())
        shown.insert(1, "-" * (sum(widths) + 2 * (len(widths) - 1)))
        return "\n".join([*shown, "", *self._sentences()])

    def _sentences(self) -> list[str]:
        total, said = self.total, []
        if total.acknowledged:
            said.append(
                f"{total.acknowledged} acknowledged, {total.lost} lost, {total.ghosts} ghosts, {total.duplicates} "
                f"duplicates, {total.unknown} unknown, {total.injected} faults injected"
            )
            if total.not_judged:
                said.append(f"{total.not_judged} of those acknowledged are not judged: they could not be read")
            if total.bound:
                least = f"0 lost of {total.judged}"
                said.append(f"{least}: at most {total.bound:.2g} of it under these faults, with 95 % confidence (3/n)")
        for kind, counted in self.clients.items():
            said.append(f"clients of {kind}: " + ", ".join(f"{counted[name]} {_plain(name)}" for name in COUNTS))
        for kind, counted in self.consumers.items():
            said.append(
                f"{kind}: {counted['consumers']} consumers were told {counted['told']} events, {counted['again']} of "
                f"them again, missed {counted['missed']}, were cut {counted['cuts']} times"
            )
        said += [f"not run: {row.name}: {row.not_run}" for row in self.left_out]
        said += [f"{finding.kind.upper()} ({finding.fault}): {finding.what}" for finding in self.findings]
        if self.interrupted:
            said.append("interrupted: what was to come is not proved")
        if not (total.injected or self.findings or self.proved):
            controls = any(row.injected for row in self.rows.values())
            said.append("no fault was injected" + (" but controls" if controls else ""))
        if self.require_all and self.left_out:
            said.append("not all could be injected, and all were required")
        said.append("proved" if self.proved else "NOT proved")
        return said


def _row_form(row: Row) -> dict[str, Any]:
    form = asdict(row)
    form["recovery_p50"], form["recovery_max"] = row.median, row.longest
    form["bound_95"] = None if row.control else row.bound
    form["seconds"] = round(row.seconds, 1)
    return form


def _cells(row: Row) -> tuple[str, ...]:
    if row.not_run:
        return (row.name, *("-" for _ in range(10)), "not run: " + row.not_run)
    numbers = (row.injected, row.acknowledged, row.lost, row.ghosts, row.duplicates, row.unknown, row.refused)
    times = tuple("-" if value is None else f"{value:.1f}" for value in (row.median, row.longest))
    return (row.name, *map(str, numbers), bound_of(row, "-"), *times, "; ".join(dict.fromkeys(row.remarks)))


def bound_of(row: Row, none: str) -> str:
    """A row's bound; ``none`` where it has none, as a control."""
    return none if row.bound is None or row.control else f"{row.bound:.2g}"


def _by_fault(proof: Proof) -> dict[str, list[Fate]]:
    """Each message under the fault that had begun last when its last attempt ended; the first, for those before."""
    found: dict[str, list[Fate]] = defaultdict(list)
    injected = [each for each in proof.injected if not each.not_here]
    begins = [each.began for each in injected]
    for fate in proof.verdict.fates.values():
        place = max(bisect_right(begins, fate.ended) - 1, 0)
        found[injected[place].fault.name if injected else proof.faults[0].name].append(fate)
    return found


def _unread(verdict: Verdict) -> list[str]:
    """A line for each mailbox that could not be read: why, and what of it is not judged."""
    found = []
    for address, why in verdict.unread.items():
        names = [fate.id for fate in verdict.fates.values() if fate.to == address and fate.not_judged]
        found.append(f"{address}: {why}; acknowledged, and not judged: {_some(names) or 'nothing, all was found'}")
    return found


def _silent(proof: Proof) -> list[str]:
    """The kinds of listener at which clients did nothing."""
    return [
        f"{kind}: {counted['begun']} messages were begun, {counted['no_session']} found no session"
        for kind, counted in proof.traffic.clients.items()
        if not counted["acked"] and counted["begun"] + counted["left_out"] >= SILENT
    ]


def _plain(name: str) -> str:
    return {"no_session": "without a session", "acked": "attempts acknowledged"}.get(name, name.replace("_", " "))


def _some(numbers: Sequence[int | str]) -> str:
    return ", ".join(map(str, numbers[:10])) + (f" and {len(numbers) - 10} more" if len(numbers) > 10 else "")
