"""Which faults share a target, in what order they are injected, and what ends them."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from running import free_port

from mailfarm.prove.campaign import LONGEST, MOST, At, Campaign, NoSuchFault, chosen, groups, schedule
from mailfarm.prove.dev import Dev
from mailfarm.prove.faults import Fault, NotHere, Tell, every
from mailfarm.prove.progress import Ahead
from mailfarm.prove.target import Options, Target
from mailfarm.sdk import FarmError


class Named(Fault):
    family = "named"
    says = "nothing"
    targets = ("dev",)

    def __init__(
        self, name: str, times: int = 1, options: Options | None = None, control: bool = False, lasts: float = 5.0
    ) -> None:
        self.name, self.times, self.options, self.control, self.lasts = name, times, options, control, lasts
        self.dice: list[float] = []

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        self.dice.append(dice.random())
        if self.name == "loses":
            lost = replace(target.mail.send(target.mail.letter())[0], id="own-0")
            with open(next(target.folder.glob("ledger/own.ledger")), "a") as ledger:
                ledger.write(json.dumps(asdict(lost)) + "\n")
        if self.name == "raises":
            raise FarmError("the API said no")
        if self.name.startswith("kills-"):
            os.kill(one_of_ours(f"mailfarm.prove.{self.name.removeprefix('kills-')}"), signal.SIGKILL)
        if self.name == "not-here":
            raise NotHere("there is no such thing here")
        if self.name == "breaks":
            target.parts[0].kill()
            raise TimeoutError("it broke")
        if self.name == "dies":
            os.kill(os.getpid(), signal.SIGKILL)


def one_of_ours(module: str) -> int:
    """The child of this process that runs a module."""
    children = [pid for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]
    return next(int(pid) for pid in children if module.encode() in Path(f"/proc/{pid}/cmdline").read_bytes())


def names(faults: list[Fault]) -> list[str]:
    return [fault.name for fault in faults]


def test_a_seed_gives_one_order_and_each_round_has_each_fault() -> None:
    faults: list[Fault] = [Named("a", 3), Named("b", 3), Named("c", 2), Named("d")]
    once, again, other = (names(schedule(faults, seed)) for seed in (1, 1, 2))
    assert once == again != other
    assert sorted(once) == ["a", "a", "a", "b", "b", "b", "c", "c", "d"]
    assert set(once[:4]) == {"a", "b", "c", "d"}


def test_who_needs_the_same_shares_a_target_and_a_control_shares_none() -> None:
    special = Options(shards=1)
    faults = [Named("a"), Named("b", options=special), Named("c"), Named("d", options=Options(shards=1)),
              Named("e", options=special, control=True), Named("f", options=special)]  # fmt: skip
    made = groups(faults, 1, ("python", "planted.py"))
    assert [names(group.schedule) for group in made] == [["a", "c"], ["b", "d", "f"], ["e"]]
    assert all(group.options.program == ("python", "planted.py") for group in made)
    assert made[1].options.shards == 1
    planted = Named("plants", options=Options(program=("python", "its_own.py")))
    assert groups([planted], 1)[0].options.program == ("python", "its_own.py")


def test_a_target_is_judged_after_so_many_faults() -> None:
    made = groups([Named("a", MOST), Named("b", MOST // 2)], 1)
    assert [len(group.schedule) for group in made] == [MOST, MOST // 2]


def test_a_target_is_judged_after_so_much_time() -> None:
    long = [Named(str(number), lasts=LONGEST / 3) for number in range(4)]
    assert [len(group.schedule) for group in groups([*long, Named("short")], 1)] == [3, 2]
    assert [len(group.schedule) for group in groups([Named("longer", 2, lasts=2 * LONGEST)], 1)] == [1, 1]


def test_what_is_left_is_by_what_each_fault_takes_and_never_less_than_the_longest_target() -> None:
    wishes = [Options(), Options(shards=2), Options(shards=3)]
    made = groups([Named(str(place), 2, each, lasts=100.0) for place, each in enumerate(wishes)], 1)
    one, two, five = Ahead(made, 1), Ahead(made, 2), Ahead(made, 5)
    assert (one.begun, one.of) == (0, 6)
    assert one.left > 600
    assert two.left == one.left / 2
    assert five.left == one.left / 3 == made[0].lasts()
    before = one.left
    one.begins(1, 0)
    assert one.begun == 1
    assert before - 120 < one.left < before - 100
    one.begins(1, 1)
    one.ends(1)
    assert (one.begun, one.left) == (2, before * 2 / 3)
    for place in (0, 2):
        one.ends(place)
    assert one.left == 0


def test_faults_are_chosen_by_name_or_family() -> None:
    faults = every()
    assert len({fault.name for fault in faults}) == len(faults)
    kills = chosen(faults, ["kills", "kill-mx"])
    assert {fault.family for fault in kills} == {"kills"}
    assert names(chosen(faults, ["kill-mx"])) == ["kill-mx"]
    assert chosen(faults, []) == faults
    with pytest.raises(NoSuchFault, match="no fault and no family is called nonsense"):
        chosen(faults, ["kill-mx", "nonsense"])


def test_every_fault_says_what_it_does_and_where() -> None:
    for fault in every():
        assert fault.says, fault.name
        assert set(fault.targets) <= {"dev", "processes", "stack"}
        assert fault.targets
        for target in ("dev", "processes", "stack"):
            if target not in fault.targets:
                assert fault.missing(target), fault.name


def campaign(folder: Path, jobs: int = 1, tell: Tell = lambda _: None, at: At = lambda _: None) -> Campaign:
    return Campaign(
        "dev", lambda place, options: Dev(place, options), folder, seed=1, patience=5, tell=tell, at=at, jobs=jobs
    )


def test_a_fault_that_breaks_the_run_is_reported_and_what_was_sent_is_judged(tmp_path: Path) -> None:
    breaks, after = Named("breaks"), Named("after")
    report = campaign(tmp_path).run(groups([breaks, after], 1))
    assert [(finding.kind, finding.what) for finding in report.findings] == [("broke", "TimeoutError: it broke")]
    assert after.dice == []
    assert report.total.acknowledged >= 10
    assert report.total.lost == 0


@pytest.mark.parametrize("how", ["raises", "kills-traffic", "kills-follower"])
def test_whatever_breaks_the_run_what_was_lost_until_then_is_said(tmp_path: Path, how: str) -> None:
    report = campaign(tmp_path).run(groups([Named("loses"), Named(how)], 1))
    assert {"broke", "lost"} <= {finding.kind for finding in report.findings}, report.text()
    assert report.rows["loses"].lost == 1


def test_what_cannot_be_injected_here_is_not_run_and_dice_differ_by_target(tmp_path: Path) -> None:
    first, second = Named("first"), Named("second", options=Options(settings={"MAILFARM_GRACE": "3"}))
    again = Named("first", options=Options(settings={"MAILFARM_GRACE": "4"}))
    report = campaign(tmp_path).run(groups([first, Named("not-here"), second, again], 1))
    assert report.proved, report.text()
    assert report.rows["not-here"].not_run == "there is no such thing here"
    assert report.rows["first"].injected == 2
    assert first.dice != again.dice


def test_when_the_time_is_over_the_rest_is_not_run(tmp_path: Path) -> None:
    fault = Named("late")
    report = campaign(tmp_path).run(groups([fault], 1), deadline=time.monotonic() - 1)
    assert fault.dice == []
    assert report.rows["late"].not_run == "the time was over"
    assert not report.proved


def test_a_target_that_does_not_start_is_reported(tmp_path: Path) -> None:
    wrong = Named("a", options=Options(settings={"MAILFARM_API_LISTEN": f"192.0.2.1:{free_port()}"}))
    report = campaign(tmp_path).run(groups([wrong], 1))
    assert [finding.kind for finding in report.findings] == ["broke"]
    assert "dev has ended with exit code 1" in report.findings[0].what


def others(number: int) -> Options:
    """So that it has a target of its own."""
    return Options(settings={"MAILFARM_GRACE": str(number)})


@pytest.mark.parametrize("jobs", [1, 2])
def test_targets_beside_one_another_give_the_report_of_those_in_turn(tmp_path: Path, jobs: int) -> None:
    lines: list[str] = []
    counts: list[tuple[int, int]] = []
    faults: list[Fault] = [Named("first"), Named("loses", options=others(1)), Named("third", 3, options=others(2))]
    proving = campaign(tmp_path, jobs, lines.append, lambda ahead: counts.append((ahead.begun, ahead.of)))
    report = proving.run(groups(faults, 1))
    assert [(finding.kind, finding.fault) for finding in report.findings] == [("lost", "loses")]
    assert [(row.name, row.injected, row.acknowledged > 0) for row in report.rows.values()] == [
        ("first", 1, True),
        ("loses", 1, True),
        ("third", 3, True),
    ]
    judged = {line.split()[1]: line for line in lines if "is judged" in line}
    assert judged["1"].endswith("acknowledged, nothing wrong")
    assert "LOST (loses): own-0 to " in judged["2"]
    assert counts == sorted(counts)
    assert counts[-1] == (5, 5)
    assert sum("third: nothing" in line for line in lines) == 3
    both = [next(place for place, line in enumerate(lines) if line.startswith(f"target {n} of")) for n in (1, 3)]
    assert (max(both) < min(place for place, line in enumerate(lines) if "judging" in line)) == (jobs == 2)


def test_a_process_that_dies_while_it_proves_is_reported_and_others_go_on(tmp_path: Path) -> None:
    report = campaign(tmp_path, 2).run(groups([Named("dies"), Named("second", options=others(1))], 1))
    assert [(finding.kind, finding.fault, finding.what) for finding in report.findings] == [
        ("broke", "dies", "the process that proves it ended with exit code -9")
    ]
    assert report.rows["dies"].not_run == "its target broke"
    assert report.rows["second"].injected == 1
