"""``mailfarm prove``: the short run, the same with planted defects, and how it ends."""

from __future__ import annotations

import faulthandler
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from running import clean_environ, until
from servers import server_folder

from mailfarm import cli
from mailfarm.prove.campaign import MOST
from mailfarm.prove.child import runs
from mailfarm.prove.command import MOST_KILLS
from mailfarm.prove.progress import Progress

PLANTED = Path(__file__).with_name("planted")
SECONDS = 600
FENCE = "lease-lost-old-files-first"
HASTE = ("--patience", "10", "--kills", "2", "--faults")
"""Where mail is lost it is not waited for long."""


@pytest.fixture(autouse=True)
def needs(component: Callable[[str], Path]) -> None:
    for name in ("redis-server", "postgres"):
        component(name)


def prove(*words: str, folder: Path, planted: str = "") -> tuple[int, dict[str, Any], str]:
    """Run the command: its exit code, its report as JSON, and what it printed."""
    faulthandler.dump_traceback_later(SECONDS + 60, exit=True)  # instead of what a single test may take
    program = ["--program", f"{sys.executable} {PLANTED / planted}"] if planted else []
    command = [sys.executable, "-m", "mailfarm", "prove", *words, "--report", str(folder), *program]
    scratch = server_folder()  # what is not proved is kept
    done = subprocess.run(
        command, env=clean_environ() | {"TMPDIR": str(scratch)}, capture_output=True, text=True, timeout=SECONDS,
        check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    shutil.rmtree(scratch)
    assert (folder / "report.json").exists(), done.stdout + done.stderr
    return done.returncode, json.loads((folder / "report.json").read_text("utf-8")), done.stdout + done.stderr


def kinds(report: dict[str, Any]) -> set[str]:
    return {finding["kind"] for finding in report["findings"]}


def test_the_short_run_proves_it(tmp_path: Path, component: Callable[[str], Path]) -> None:
    """What ``make test`` has of it: each kind of process is killed, and nothing is lost. So is what the planted defects
    below are found by. None of its faults is passed over."""
    for name in ("strace", "faketime"):
        component(name)
    code, report, said = prove("processes", "--short", "--require-all", folder=tmp_path)
    assert code == 0, said
    assert report["proved"]
    assert report["findings"] == []
    total = report["total"]
    assert (total["lost"], total["ghosts"], total["altered"]) == (0, 0, 0)
    assert total["acknowledged"] > 100
    ran = {row["name"] for row in report["faults"] if row["injected"] and row["family"] == "kills"}
    assert len(ran) == 10, said
    assert {FENCE, "kill-mx", "kill-inbound"} <= {row["name"] for row in report["faults"] if row["injected"]}
    assert all(len(row["recovery"]) == row["injected"] for row in report["faults"] if row["family"] == "kills")
    assert set(report["consumers"]) == {"sse", "websocket", "wait"}
    assert all(counted["told"] > 0 and counted["missed"] == 0 for counted in report["consumers"].values())
    assert f"0 lost of {total['acknowledged']}: at most" in said


def test_dev_is_proved_and_the_same_seed_gives_the_same_faults(tmp_path: Path) -> None:
    told = []
    for name, seed in (("a", "7"), ("b", "7"), ("c", "8")):
        code, report, said = prove("dev", "--kills", "2", "--faults", "kills", "--seed", seed, folder=tmp_path / name)
        assert code == 0, said
        told.append([(each["fault"], each["told"]) for each in report["sequence"]])
    assert told[0] == told[1]
    assert told[0] != told[2]
    assert len(told[0]) == 2


def test_250_before_the_queue_has_confirmed_is_found(tmp_path: Path) -> None:
    code, report, said = prove(*HASTE, "kill-mx", folder=tmp_path, planted="early_250.py")
    assert code == 1, said
    assert "lost" in kinds(report)


def test_250_before_the_commit_of_dev_is_found(tmp_path: Path) -> None:
    code, report, said = prove("dev", *HASTE, "kills", folder=tmp_path, planted="early_250.py")
    assert code == 1, said
    assert "lost" in kinds(report)


def test_an_entry_that_is_ended_before_its_commit_is_found(tmp_path: Path) -> None:
    code, report, said = prove(*HASTE, "kill-inbound", folder=tmp_path, planted="early_end.py")
    assert code == 1, said
    assert "lost" in kinds(report)


def test_a_fence_that_nobody_looks_at_is_found(tmp_path: Path) -> None:
    code, report, said = prove("--faults", FENCE, folder=tmp_path, planted="no_fence.py")
    assert code == 1, said
    assert "wrong" in kinds(report)


def test_a_name_that_no_fault_has_is_wrong_usage(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailfarm", "prove", "--faults", "kill-nothing"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("mailfarm prove: no fault and no family is called kill-nothing; families: kills")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["dev", "--faults", "kill-mx"], "none of these faults is for dev: see mailfarm prove dev --list"),
        (["dev", "--kills", "0"], "--kills 0: give a number above 0"),
        (["dev", "--kills", str(MOST_KILLS + 1)], f"--kills {MOST_KILLS + 1}: at most {MOST_KILLS}"),
        (["dev", "--jobs", "0"], "--jobs 0: give a number above 0"),
        (["stack", "--jobs", "2"], "--jobs 2: there is one stack"),
        (["dev", "--minutes", "0"], "--minutes 0: give a number above 0"),
        (["dev", "--patience", "nan"], "--patience nan: give a number above 0"),
        (["dev", "--report", "/dev/null/x"], "--report /dev/null/x: nothing can be written there: Not a directory"),
        (["processes"], "processes needs what is not on this machine: redis-server, redis-cli; try mailfarm prove dev"),
    ],
)
def test_what_cannot_be_used_is_said_in_a_line_at_once(words: list[str], said: str) -> None:
    poor = {"PATH": "/nowhere"} if words == ["processes"] else {}
    done = subprocess.run(
        [sys.executable, "-m", "mailfarm", "prove", *words], env=clean_environ() | poor, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (2, f"mailfarm prove: {said}\n")


def test_every_fault_is_listed_with_what_it_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mailfarm", "prove", "--list"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0
    assert "  kill-postgres " in done.stdout
    assert "  kill-dev " not in done.stdout
    assert "fsync=off, which must be found out (a control: it must be found out)" in done.stdout


def test_it_has_a_page_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["help", "prove"]) == 0
    assert "--seed" in capsys.readouterr().out
    assert cli.main(["help", "proving"]) == 0
    assert "3/n" in capsys.readouterr().out


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_one_line_on_a_terminal_only(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(said, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(sys, "stderr", said)
    progress = Progress()
    for line in ("one", "two" * 100):
        progress.tell(line)
    progress.end()
    assert said.getvalue().count("\n") == (0 if terminal else 2)
    assert said.getvalue().endswith("\r\x1b[K" if terminal else "\n")
    if terminal:
        assert max(map(len, said.getvalue().split("\r"))) < 200


class Underway:
    """A run that has begun to send. ``children`` are the processes that it started, and theirs. ``stopped``: it goes on
    until so many of them stand still."""

    def __init__(self, folder: Path, words: Sequence[str], stopped: int = 0) -> None:
        command = [sys.executable, "-m", "mailfarm", "prove", *words, "--report", str(folder)]
        self.folder = folder
        self.process = subprocess.Popen(
            command, env=clean_environ() | {"TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        until((lambda: len(self.still()) >= stopped) if stopped else self._acknowledged, 60)
        self.children = descendants(self.process.pid)

    def still(self) -> list[int]:
        """Those that are stopped (SIGSTOP)."""
        return [child for child in descendants(self.process.pid) if state(child) == "T"]

    def _acknowledged(self) -> bool:
        """Whether the first fault is over: then the run sends a message of its own."""
        return any(b'"acked"' in path.read_bytes() for path in self.folder.rglob("own.ledger"))

    def gone(self) -> bool:
        return not any(runs(child) for child in self.children)


def descendants(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):  # it may end meanwhile
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found


@pytest.mark.parametrize(
    ("words", "many"),
    [(["processes", "--kills", "30"], 10), (["dev", "--kills", str(2 * MOST), "--jobs", "2"], 5)],
)
def test_what_it_started_ends_with_it_also_when_it_is_killed(words: list[str], many: int) -> None:
    folder = server_folder()
    run = Underway(folder, [*words, "--faults", "kills"])
    assert len(run.children) > many
    run.process.kill()
    run.process.communicate()
    until(run.gone, 20)
    shutil.rmtree(folder)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def test_what_it_stopped_ends_with_it_also_when_it_is_killed() -> None:
    """PostgreSQL's processes, of which only the first one dies with us."""
    folder = server_folder()
    run = Underway(folder, ["processes", "--faults", "stop-postgres"], stopped=10)
    still = run.still()
    run.process.kill()
    run.process.communicate()
    until(run.gone, 20)
    assert len(still) >= 10
    shutil.rmtree(folder)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_who_interrupts_it_gets_the_report_so_far(jobs: str, tmp_path: Path) -> None:
    run = Underway(tmp_path, ["dev", "--kills", str(3 * MOST), "--faults", "kills", "--jobs", jobs])
    os.kill(run.process.pid, signal.SIGINT)
    said, _ = run.process.communicate(timeout=120)
    assert run.process.returncode == 130, said
    until(run.gone, 20)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["interrupted"]
    assert not report["proved"]
    assert report["findings"] == [], said
    assert "interrupted: what was to come is not proved" in said
