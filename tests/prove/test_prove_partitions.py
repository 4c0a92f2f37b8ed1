"""Parts that stand still or do not hear each other for longer than a lease: nothing is lost, nothing filed twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mailfarm.prove.faults import Fault, every
from mailfarm.prove.run import Proof, Run, set_up
from mailfarm.prove.target import Options


def named(*names: str) -> list[Fault]:
    found = {fault.name: fault for fault in every()}
    return [found[name] for name in names]


def prove(folder: Path, *names: str) -> Proof:
    faults = named(*names)
    (folder / "target").mkdir()
    return Run(set_up(faults[0].targets[0], folder / "target", faults[0].options or Options()), folder).prove(faults)


def test_a_worker_that_stood_still_or_was_cut_off_longer_than_its_lease(
    tmp_path: Path, component: Callable[[str], Path]
) -> None:
    component("redis-server"), component("postgres")
    proof = prove(tmp_path, "stop-inbound", "stop-redis-queue", "partition-inbound-redis-queue")
    assert not proof.broke
    assert proof.verdict.clean, (proof.verdict.tally, proof.verdict)
    assert proof.verdict.tally.acknowledged > 50
    assert all(each.recovered is not None for each in proof.injected)


def test_a_fence_whose_lease_has_ended_ends_nothing(tmp_path: Path, component: Callable[[str], Path]) -> None:
    """A worker takes mail and is parted from the queue; its lease ends and another one takes the mail. Whoever of them
    files first, it is in the mailbox once, and only the other one's fence has ended the entry."""
    component("redis-server"), component("postgres")
    proof = prove(tmp_path, "lease-lost-old-files-first", "lease-lost-new-files-first")
    assert not proof.broke
    assert proof.verdict.clean, proof.verdict
    for each in proof.injected:
        assert "had ended" in each.told[0], each.told
    tally = proof.verdict.tally
    assert (tally.unknown, tally.duplicates) == (0, 0)
    assert tally.acknowledged == 4  # one each, and the probes
