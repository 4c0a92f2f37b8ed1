"""What the queue's Redis has acknowledged is kept, however it ends; and the controls, which lose mail."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import chosen, nothing_lost, proof_of

from mailfarm.prove.faults import failover, redis


@pytest.fixture(autouse=True)
def _stores(component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "redis-sentinel", "postgres", "strace"):
        component(name)


def test_a_redis_that_ends_at_the_worst_moments_loses_nothing(tmp_path: Path) -> None:
    names = ("redis-kill-slow-sync", "redis-kill-rewriting", "redis-sync-fails", "redis-full")
    proof = proof_of(chosen(list(redis.faults()), *names), tmp_path)
    nothing_lost(proof)
    told = {each.fault.name: each.told for each in proof.injected}
    assert "the others heard [452]" in told["redis-full"][0] or "451" in told["redis-full"][0]


def test_a_redis_that_answers_before_it_syncs_is_found_out(tmp_path: Path) -> None:
    proof = proof_of(chosen(list(redis.faults()), "redis-everysec"), tmp_path, patience=5)
    assert proof.verdict.tally.lost
    assert not proof.verdict.tally.ghosts


def test_a_failover_loses_nothing(tmp_path: Path) -> None:
    failing_over, killed = chosen(list(failover.faults()), "redis-failover", "kill-sentinel")
    failing_over.times = killed.times = 1
    proof = proof_of([killed, failing_over, killed], tmp_path)  # one that was killed promotes as well
    nothing_lost(proof)
    assert [each.fault.name for each in proof.injected].count("kill-sentinel") == 2
    assert "+switch-master" in (tmp_path / "sentinel-1.log").read_text(), "the stores' logs are kept beside the others"


def test_a_failover_without_wait_is_found_out(tmp_path: Path) -> None:
    proof = proof_of(chosen(list(failover.faults()), "redis-failover-without-wait"), tmp_path, patience=5)
    assert proof.verdict.tally.lost
