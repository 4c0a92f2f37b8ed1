"""The scripts that measure the pieces of a cluster work, at their smallest setting; their numbers are not looked at."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
import report
from children import tree_cpu

BENCH = Path(__file__).resolve().parents[2] / "bench"
SMALLEST = {
    "queues": ("--quick", "--seconds", "0.1"),
    "file": ("--quick", "--messages", "100"),
    "cluster": ("--only", "one", "--seconds", "0.3", "--turns", "1"),
    "cache": ("--quick", "--seconds", "0.02"),
    "recipients": ("--quick", "--seconds", "0.02"),
}
OTHERS = ["compare", "growth", "idle", "lists", "overload", "parse", "push", "saturation", "simulate", "stack", "tls"]
ROWS = {"queues": 6, "file": 4, "cluster": 1, "cache": 15, "recipients": 8}


def script(name: str, *options: str, work: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run one to its end, with its quick results in ``work``."""
    code = "import runpy, sys, pathlib, children; children.WORK = pathlib.Path(sys.argv.pop(1)); del sys.argv[0]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(work or "."), str(BENCH / f"{name}.py"), *options]
    environ = {"PYTHONPATH": str(BENCH), "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", SMALLEST)
def test_it_measures_and_keeps_a_table_a_chart_and_the_numbers(
    name: str, tmp_path: Path, component: Callable[[str], Path]
) -> None:
    component("redis-server")
    component("postgres")
    done = script(name, *SMALLEST[name], work=tmp_path)
    assert done.returncode == 0, done.stderr
    form = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(form["rows"]) == ROWS[name]
    assert all(row[report.OTHERS] >= 0 for row in form["rows"])
    assert {"cpu", "cores", "load_average", "cores_others_use"} <= set(form["machine"])
    table = (tmp_path / f"{name}.md").read_text()
    assert table.count("\n|") == ROWS[name] + 2
    assert table in done.stdout
    ElementTree.parse(tmp_path / f"{name}.svg")


@pytest.mark.parametrize("name", [*SMALLEST, *OTHERS])
def test_help_says_what_it_measures(name: str) -> None:
    done = script(name, "--help")
    assert done.returncode == 0, done.stderr
    assert "--quick" in done.stdout


def test_an_overload_is_measured_and_comes_to_its_end(tmp_path: Path, component: Callable[[str], Path]) -> None:
    component("redis-server")
    component("postgres")
    done = script("overload", "--quick", "--seconds", "2", "--age", "1", "--mailboxes", "10", work=tmp_path)
    assert done.returncode == 0, done.stderr
    form = json.loads((tmp_path / "overload.json").read_text())
    noisy, quiet = form["table"]
    assert form["sustainable_per_second"] > 0
    assert noisy[1] > quiet[1] > 0
    assert set(form["peak_mib"]) == {"mx", "inbound", "redis"}


def test_a_busy_api_is_measured_beside_an_idle_one(tmp_path: Path, component: Callable[[str], Path]) -> None:
    component("redis-server")
    component("postgres")
    done = script("saturation", "--quick", "--rounds", "1", "--seconds", "0.5", work=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "saturation.json").read_text())["rows"]
    assert [row["where"] for row in rows] == ["cluster"] * 6 + ["dev"] * 2
    assert all(row["250 p50 ms"] > 0 and row["errors"] == 0 for row in rows)
    assert all((row["answers/s"] is None) == (row["the API is"] == "idle") for row in rows)


def test_a_row_is_measured_again_until_others_are_quiet() -> None:
    kept = report.Calmest(("name", report.OTHERS), 3)
    for cores in (2.0, 1.0, 3.0, 0.0):
        if kept.wanted:
            kept.add(("a", cores))
    assert kept.row == ("a", 1.0)
    kept = report.Calmest(("name", report.OTHERS), 3)
    for cores in (2.0, 0.1, 0.0):
        if kept.wanted:
            kept.add(("a", cores))
    assert kept.row == ("a", 0.1)


def test_what_a_child_used_is_ours_also_after_it_ended() -> None:
    used = tree_cpu(os.getpid())
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert tree_cpu(os.getpid()) - used > 0.25
