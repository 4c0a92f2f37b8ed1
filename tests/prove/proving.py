"""Runs of ``mailfarm prove`` as a test makes them: a few faults on one target, and the oracle."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path

from mailfarm.prove.campaign import USUAL
from mailfarm.prove.faults import Fault
from mailfarm.prove.run import Proof, Run, set_up


def proof_of(faults: Sequence[Fault], folder: Path, target: str = "processes", patience: float = 60) -> Proof:
    """Inject each of them as often as it wants to be into one target, with the options of the first."""
    run = Run(set_up(target, folder, faults[0].options or USUAL), folder, patience=patience)
    proof = run.prove([fault for fault in faults for _ in range(fault.times)])
    pickle.dumps(proof)  # it goes from one process to another where targets are proved beside one another
    return proof


def nothing_lost(proof: Proof) -> None:
    """Nothing is lost, altered or wrong in any other way, and mail came in."""
    nothing_wrong(proof)
    assert proof.verdict.tally.acknowledged > 10


def nothing_wrong(proof: Proof) -> None:
    """The same, for faults with little mail."""
    verdict = proof.verdict
    assert not proof.broke
    assert verdict.clean, (verdict.tally, verdict.wrong, verdict.strays, verdict.gaps, verdict.missed)
    assert all(each.recovered is not None for each in proof.injected), proof.injected


def chosen(faults: Sequence[Fault], *names: str) -> list[Fault]:
    """Those with these names, in their order."""
    by_name = {fault.name: fault for fault in faults}
    return [by_name[name] for name in names]
