"""Ports that stay ours, and processes that end with us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from running import until

from mailfarm.prove import servers
from mailfarm.prove.child import guarded, innermost, runs


def test_a_port_is_given_to_one_process_only(monkeypatch: pytest.MonkeyPatch) -> None:
    first = servers.free_port()
    assert 10240 <= first < 32768
    asked = f"from mailfarm.prove import servers; print(servers._hold({first}), servers._hold({first + 40000}))"
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
    chosen = iter([first, first, 10241])
    monkeypatch.setattr(servers.random.SystemRandom, "randrange", lambda *_: next(chosen))
    monkeypatch.setattr(servers, "_hold", lambda port: port != first)
    assert servers.free_port() == 10241


def test_what_is_held_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_MOST_HELD", len(servers._HELD) + 1)
    for _ in range(3):
        servers.free_port()
    assert len(servers._HELD) <= servers._MOST_HELD


PARENT = """
import subprocess, sys, time
from mailfarm.prove.child import guarded, innermost
before = sys.argv[1:]
process = subprocess.Popen(guarded(["sleep", "300"], before))
while open(f"/proc/{innermost(process, before)}/comm").read() != "sleep\\n":
    time.sleep(0.01)
print(process.pid, innermost(process, before), flush=True)
time.sleep(300)
"""


@pytest.mark.parametrize("before", [[], ["strace", "-f", "-o", "/dev/null"]])
def test_a_child_ends_with_who_started_it_also_behind_a_tracer(
    before: list[str], component: Callable[[str], Path]
) -> None:
    for name in before[:1]:
        component(name)
    parent = subprocess.Popen([sys.executable, "-c", PARENT, *before], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    outer, inner = map(int, parent.stdout.readline().split())
    assert (outer == inner) is not bool(before)
    assert runs(inner)
    parent.kill()
    parent.communicate()
    until(lambda: not runs(outer) and not runs(inner), 10)


def test_what_stands_in_front_is_passed_over(tmp_path: Path) -> None:
    process = subprocess.Popen(guarded(["sleep", "300"], ["env", "A=1"]))
    try:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "sleep\n", 10)
        assert innermost(process, ["env", "A=1"]) == process.pid
    finally:
        process.kill()
        process.wait()
