"""A process that is killed as it enters a system call, at a few of those of one transaction; all of them: --full."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from proving import nothing_wrong, proof_of

from mailfarm.prove.faults.syscalls import SAMPLE, Syscalls, faults


@pytest.mark.parametrize("fault", list(faults()), ids=lambda fault: fault.name)
def test_nothing_is_lost_wherever_a_process_ends(
    fault: Syscalls, component: Callable[[str], Path], tmp_path: Path
) -> None:
    for name in ("redis-server", "postgres", "strace"):
        component(name)
    (target,) = fault.targets
    proof = proof_of([fault], tmp_path, target)
    nothing_wrong(proof)
    (injected,) = proof.injected
    killed, tried, whole = map(int, re.findall(r"\d+", injected.told[0]))
    assert tried == SAMPLE
    assert killed >= tried - 1  # a call that the count saw by chance may not come again
    assert whole > 15
    assert proof.verdict.tally.acknowledged >= tried
