"""The lab leaves nothing behind: not after its end, and not when the one who made it was killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from engine import missing
from lab import Lab
from leftovers import leftovers
from running import until

pytestmark = pytest.mark.stack

MAKE_ONE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from lab import Lab
lab = Lab(Path(sys.argv[2]), nodes=1, managers=1)
lab.up()
lab.docker(1, "network", "create", "-d", "overlay", "left")
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    if why := missing():
        pytest.skip(why)
    return Lab(tmp_path / "lab", nodes=1, managers=1)


def test_nothing_is_left_behind(lab: Lab) -> None:
    with lab:
        assert lab.docker(1, "node", "ls", "-q")
        assert leftovers(lab.name, lab.folder)
    assert leftovers(lab.name, lab.folder) == []
    lab.down()  # again: nothing to do


def test_nothing_is_left_behind_by_one_that_was_killed(lab: Lab) -> None:
    here = str(Path(__file__).parent)
    command = [sys.executable, "-c", MAKE_ONE, here, str(lab.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == "up\n"
        maker.send_signal(signal.SIGKILL)
    # its machines ended with it
    until(lambda: not any(each.startswith("process") for each in leftovers(lab.name, lab.folder)), 10)
    lab.down()
    assert leftovers(lab.name, lab.folder) == []


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "root" in missing()
