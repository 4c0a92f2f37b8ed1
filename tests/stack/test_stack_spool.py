"""Every queue node is away while mail flows: listeners keep it on their nodes' disks, and all of it is there later."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from engine import LabError
from replicas import Replica
from swarm_deployment import Deployment
from table import Table
from test_stack_failures import ROUNDS, away
from trial import trial

pytestmark = pytest.mark.stack

WITH_A_SPOOL = ("mx", "submission", "spool")


def figure(stack: Deployment, replica: Replica, name: str) -> float:
    return stack.metrics(replica).get(f"mailfarm_spool_{name}", 0.0)


def in_all(stack: Deployment, name: str) -> float:
    """The sum over all that have a spool; -1 where one of them ends just now."""
    try:
        return sum(figure(stack, each, name) for word in WITH_A_SPOOL for each in stack.replicas(word))
    except LabError:
        return -1.0


def test_every_queue_node_is_away_and_a_listener_is_killed_meanwhile(
    stack: Deployment, table: Table, tmp_path: Path
) -> None:
    """What the one that is killed had kept is drained by whoever is on its node."""
    what = "every queue shard is away, and an mx is killed meanwhile"
    with trial(stack, table, tmp_path, what, seconds=150, rate=10.0, rounds=ROUNDS) as run:
        with ExitStack() as kept:
            for shard in ("redis-queue-1", "redis-queue-2"):
                kept.enter_context(away(stack, shard))
            flows = run.steady.flowing(60, 60)
            stack.until(lambda: in_all(stack, "entries") >= 40, 60, "mail in the spools")
            killed = max(stack.replicas("mx"), key=lambda each: figure(stack, each, "entries"))
            had = figure(stack, killed, "entries")
            assert had >= 10
            stack.signal(killed, "KILL")
            heir = stack.until(lambda: in_all(stack, "adopted_total") >= had, 90, "an heir of what the killed one kept")
            run.steady.flowing(20, 60)
        drained = stack.until(lambda: in_all(stack, "entries") == 0, 120, "empty spools")
        run.remarks = (
            f"60 more messages after {flows:.1f} s; {had:.0f} mails of the killed one taken over after {heir:.0f} s; "
            f"spools empty {drained:.0f} s after the shards were back"
        )
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_lost()
