"""Faults that take long and that no other test has, as many on one target as can share it. Run by ``make prove``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import chosen, nothing_wrong, proof_of

from mailfarm.prove.faults import every

TOGETHER = {
    "poison": ("poison-raises", "poison-hangs"),
    "clocks": ("clock-inbound-ahead", "clock-sweep-ahead", "clock-mx-api-ahead", "clock-inbound-behind"),
    "partitions": ("partition-mx-postgres", "partition-inbound-redis-cache", "partition-sweep-postgres"),
    "replica": ("partition-replica",),
    "sentinel": ("stop-sentinel", "stop-queue-replica", "partition-inbound-sentinel"),
    "redis-disk": ("disk-inodes-redis-queue", "disk-inodes-postgres", "disk-inodes-mx-incoming"),
    "spool-disk": ("disk-inodes-spool",),
}


@pytest.mark.prove
@pytest.mark.parametrize("names", TOGETHER.values(), ids=TOGETHER)
def test_nothing_is_lost(names: tuple[str, ...], tmp_path: Path, component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "redis-sentinel", "postgres"):
        component(name)
    faults = chosen(every(), *names)
    assert len({repr(fault.options) for fault in faults}) == 1
    if why := next(filter(None, (fault.missing("processes") for fault in faults)), ""):
        pytest.skip(why)
    proof = proof_of(faults, tmp_path)
    nothing_wrong(proof)
    assert [each.not_here for each in proof.injected] == [""] * len(faults)
