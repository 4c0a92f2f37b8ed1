"""What was filed is kept, however PostgreSQL or SQLite ends; and the control, which loses mail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import nothing_lost, proof_of

from mailfarm.prove.faults import postgres, sqlite


@pytest.fixture(autouse=True)
def _stores(component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "postgres", "strace"):
        component(name)


def test_a_postgres_that_ends_at_the_worst_moments_loses_nothing(tmp_path: Path) -> None:
    faults = [fault for fault in postgres.faults() if not fault.control]
    proof = proof_of(faults, tmp_path)
    nothing_lost(proof)
    told = [each.told for each in proof.injected if each.fault.name.startswith("postgres-restart")]
    assert told == [["a unit was open"]] * 2


def test_a_postgres_that_writes_after_it_answers_is_found_out(tmp_path: Path) -> None:
    (fault,) = [fault for fault in postgres.faults() if fault.control]
    proof = proof_of([fault], tmp_path, patience=5)
    assert proof.verdict.tally.lost
    assert not proof.verdict.tally.ghosts


def test_a_sqlite_whose_syncs_are_slow_or_fail_loses_nothing(tmp_path: Path) -> None:
    proof = proof_of(list(sqlite.faults()), tmp_path, "dev")
    nothing_lost(proof)
    assert [each.told[0].partition("; ")[2] for each in proof.injected if each.told] == ["answered [451]"] * 2
