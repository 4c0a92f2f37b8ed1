"""Clocks an hour off, and a message that kills its worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mailfarm.prove.faults import Fault
from mailfarm.prove.faults.clocks import HOUR, KINDS, Clock
from mailfarm.prove.faults.poison import Poison
from mailfarm.prove.processes import Processes
from mailfarm.prove.run import Run
from mailfarm.prove.target import Options


@pytest.mark.parametrize("fault", [Clock(KINDS, -HOUR), Poison("exits")], ids=lambda fault: fault.name)
def test_nothing_is_lost_and_nobody_else_is_concerned(
    tmp_path: Path, component: Callable[[str], Path], fault: Fault
) -> None:
    component("faketime"), component("redis-server"), component("postgres")
    (tmp_path / "target").mkdir()
    proof = Run(Processes(tmp_path / "target", fault.options or Options()), tmp_path).prove([fault])
    assert not proof.broke
    assert proof.verdict.clean, (proof.verdict.wrong, proof.verdict.tally)
    assert proof.injected[0].recovered is not None


def test_without_faketime_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "package faketime" in Clock(KINDS, HOUR).missing("processes")
    assert Clock(KINDS, HOUR).missing("dev") == "not for dev"
