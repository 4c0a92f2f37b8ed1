"""Where Sentinel says where the queue is: services go there by wires of their own, and what happens on these."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from proving import chosen, nothing_lost, proof_of

from mailfarm.prove.announced import Announced
from mailfarm.prove.faults import partitions, stops

REPLY = b"*2\r\n$9\r\n127.0.0.1\r\n$5\r\n12345\r\n*2\r\n$4\r\nport\r\n:12346\r\n$7\r\na12345b\r\n"
TURNED = REPLY.replace(b"\n12345\r", b"\n45678\r").replace(b":12346\r", b":45679\r")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_ports_are_turned_however_a_reply_comes(size: int) -> None:
    tap = Announced({12345: 45678, 12346: 45679})
    assert b"".join(tap.passes("down", REPLY[at : at + size]) for at in range(0, len(REPLY), size)) == TURNED
    assert tap.passes("up", REPLY) == REPLY


def test_a_length_would_not_be_true_any_more() -> None:
    with pytest.raises(ValueError, match="five digits"):
        Announced({6379: 45678})


def test_a_master_that_is_away_or_comes_back_loses_nothing(tmp_path: Path, component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "redis-sentinel", "postgres"):
        component(name)
    every = [*partitions.faults(), *stops.faults()]
    proof = proof_of(chosen(every, "partition-mx-queue-master", "stop-queue-master"), tmp_path)
    nothing_lost(proof)
    parted, stopped = (each.told for each in proof.injected)
    assert parted[0].startswith("mx to redis-queue-1")
    assert stopped == ["redis-queue-1-replica is the master in place of redis-queue-1"]
    during = [each for each in proof.attempts if proof.injected[0].began < each.ended < proof.injected[0].healed]
    assert any(each.code == 451 for each in during)
