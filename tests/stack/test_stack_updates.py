"""Rolling updates while mail flows: what is updated is not noticed, or costs what the table says."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swarm_deployment import SUBMISSION, Deployment
from table import Table
from trial import trial

pytestmark = pytest.mark.stack

NEVER_HEALTHY = (
    'HEALTHCHECK --interval=1s --timeout=1s --start-period=1s --retries=2 CMD ["false"]',
    'ENTRYPOINT ["/opt/mailfarm/bin/python", "-c", "import time; time.sleep(3600)"]',
)


@pytest.mark.parametrize("words", [("mx",), ("submission",), ("inbound", "sweep"), ("api", "live")], ids=" and ".join)
def test_an_update_is_not_noticed(stack: Deployment, table: Table, tmp_path: Path, words: tuple[str, ...]) -> None:
    image = stack.build(f"next-{words[0]}", f"LABEL lab={words[0]}")
    port = SUBMISSION if "submission" in words else 0
    what = f"update of {' and '.join(words)}"
    with (
        trial(stack, table, tmp_path, what, watch=("websocket", "wait"), submission=port) as run,
        ThreadPoolExecutor() as pool,
    ):
        updated = list(pool.map(lambda word: stack.update(word, "--image", image), words))
        run.took = max(each.seconds for each in updated)
    assert {each.state for each in updated} == {"completed"}
    run.assert_nothing_noticed()
    assert {replica.image for word in words for replica in stack.replicas(word)} == {image}


def test_traefik_goes_node_by_node(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """A host port has one owner: connects to that machine are lost, and a client that tries the next address sends.
    (An open WebSocket would keep each of them for the 30 s it may take to say goodbye.)"""
    with trial(stack, table, tmp_path, "update of traefik", watch=("wait",), kept=0, rate=10.0) as run:
        updated = stack.update("traefik", "--force")
        run.took = updated.seconds
    assert updated.state == "completed"
    assert run.result["unsent"] == 0, run.result
    run.assert_nothing_lost()


@pytest.mark.parametrize("word", ["redis-queue-1", "redis-cache", "postgres"])
def test_an_update_of_a_store_loses_no_mail(stack: Deployment, table: Table, tmp_path: Path, word: str) -> None:
    with trial(stack, table, tmp_path, f"update of {word}", watch=("websocket", "wait")) as run:
        updated = stack.update(word, "--force")
        run.took = updated.seconds
        stack.until(stack.converged, 60, f"the stack after the update of {word}")
    assert updated.state == "completed"
    run.assert_nothing_lost()


def test_mail_that_waits_outlives_the_restart_of_its_redis(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """No worker files what comes in, both shards are restarted, and then all of it is there."""
    with trial(stack, table, tmp_path, "both shards restart, full of mail", seconds=120) as run:
        stack.scale("inbound", 0)
        run.steady.flowing(100)
        took = [stack.update(word, "--force").seconds for word in ("redis-queue-1", "redis-queue-2")]
        waiting = run.steady.acknowledged() - len(run.inbox.messages())
        stack.scale("inbound", 2)
        run.remarks = f"{waiting} messages waited"
        run.took = sum(took)
    assert waiting >= 100
    run.assert_nothing_lost()


def test_a_version_that_never_gets_healthy_is_rolled_back(stack: Deployment, table: Table, tmp_path: Path) -> None:
    before = {replica.image for replica in stack.replicas("mx")}
    image = stack.build("never-healthy", *NEVER_HEALTHY)
    with trial(stack, table, tmp_path, "update of mx to a version that never gets healthy") as run:
        updated = stack.update("mx", "--image", image, "--no-healthcheck=false", "--health-start-period", "2s")
        run.took = updated.seconds
        run.remarks = updated.state.replace("_", " ")
    assert updated.state == "rollback_completed"
    run.assert_nothing_noticed()
    assert {replica.image for replica in stack.replicas("mx")} == before


def test_from_two_to_five_and_back(stack: Deployment, table: Table, tmp_path: Path) -> None:
    with trial(stack, table, tmp_path, "mx from 2 to 5 replicas and back", watch=("wait",)) as run:
        up = stack.scale("mx", 5)
        run.steady.flowing(40)
        down = stack.scale("mx", 2)
        run.remarks = f"up {up} s, down {down} s"
    run.assert_nothing_noticed()
