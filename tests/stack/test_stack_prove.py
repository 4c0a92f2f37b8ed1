"""``mailfarm prove stack`` against the lab's stack, as an operator types it on a machine outside the Swarm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from power import Switch
from swarm_deployment import Deployment
from table import Table
from trial import trial

pytestmark = pytest.mark.stack


def command(stack: Deployment, *words: str) -> list[str]:
    addresses = [word for each in stack.addresses for word in ("--address", each)]
    sources = [word for each in stack.lab.near.v4[:20] for word in ("--source", each)]
    engines = [word for number in (2, 3) for word in ("--engine", f"node{number}={engine(stack, number)}")]
    return [sys.executable, "-m", "mailfarm", "prove", "stack", *addresses, *sources, *engines, *words]


def engine(stack: Deployment, number: int) -> str:
    return f"unix://{stack.lab.machines[number].folder}/run/docker.sock"


def environ(stack: Deployment) -> dict[str, str]:
    return {
        **os.environ,
        "DOCKER_HOST": engine(stack, 1),
        "MAILFARM_URL": stack.url,
        "MAILFARM_TOKEN_FILE": str(stack.private / "first_token"),
        "MAILFARM_CA": str(stack.authority),
    }


def refused(stack: Deployment, words: Sequence[str]) -> str:
    done = subprocess.run(
        command(stack, *words),
        env=environ(stack),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    return done.stderr


def test_it_asks_before_it_breaks_anything(stack: Deployment) -> None:
    assert "--yes" in refused(stack, ())
    assert "node9" in refused(stack, ("--yes", "--engine", "node9=ssh://node9.example.org"))
    assert "belong together" in refused(stack, ("--yes", "--power-off", "true"))


def test_it_leaves_a_stack_alone_that_somebody_uses(stack: Deployment, table: Table, tmp_path: Path) -> None:
    with trial(stack, table, tmp_path, "a proof that is refused", rate=5.0) as run:
        said = refused(stack, ("--yes", "--short", "--report", str(tmp_path / "report")))
    assert "somebody uses this stack" in said
    assert "--although-mail-flows" in said
    run.assert_nothing_noticed()


def proved(stack: Deployment, table: Table, folder: Path, *words: str) -> dict[str, int]:
    """Prove the stack, with faults by ``words``: how often each was injected."""
    report = folder / "report"
    with Switch(stack.lab, folder / "power") as switch:
        power = ("--power-off", switch.command("off"), "--power-on", switch.command("on"))
        whole = command(stack, *words, "--yes", "--seed", "5", "--report", str(report), "--require-all", *power)
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(whole, env=environ(stack), text=True, **pipes) as process:
            said: list[str] = []

            def read() -> None:
                assert process.stdout is not None
                for line in process.stdout:
                    said.append(line.rstrip())
                    stack.tell(f"  {line.rstrip()[:200]}")

            reader = threading.Thread(target=read)
            reader.start()
            switch.serve(lambda: process.poll() is None)
            reader.join()
    assert process.returncode == 0, "\n".join(said[-60:])
    form = json.loads((report / "report.json").read_text("utf-8"))
    total = form["total"]
    names = ("injected", "acknowledged", "unknown", "lost", "altered", "ghosts", "duplicates")
    counts = ", ".join(f"{total[name]} {name}" for name in names)
    stack.tell(table.fact(f"mailfarm prove stack {' '.join(words)}, in {form['seconds']:.0f} s", counts))
    assert form["proved"]
    assert total["acknowledged"] > 500
    assert total["lost"] == total["altered"] == total["ghosts"] == 0
    assert (report / "report.html").stat().st_size > 0
    stack.until(stack.converged, 120, "the stack after it was proved")
    return {each["name"]: each["injected"] for each in form["faults"] if each["injected"]}


def test_nothing_is_lost(stack: Deployment, table: Table, tmp_path: Path) -> None:
    """Containers of every service are killed, all services are updated and scaled, a store is cut off, a node is
    drained and one loses power; what was answered 250 meanwhile is there, and nothing else is."""
    injected = proved(stack, table, tmp_path, "--short")
    assert set(injected) == {*("swarm-kill", "swarm-update", "swarm-scale", "swarm-part", "swarm-drain", "swarm-power")}


@pytest.mark.prove
def test_nothing_is_lost_however_long_they_stand_still_or_are_cut_off(
    stack: Deployment, table: Table, tmp_path: Path
) -> None:
    """Containers stand still and are parted for longer than every lease, and both queues go, one after the other."""
    names = ("swarm-pause", "swarm-part-long", "swarm-queues")
    assert set(proved(stack, table, tmp_path, "--faults", *names)) == set(names)
