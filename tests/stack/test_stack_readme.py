"""The README's five commands, run exactly as they are written there, on a fresh machine: to a delivered mail."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from lab import LOCK, ROOT, Lab, turn
from leftovers import leftovers
from table import Table

pytestmark = pytest.mark.stack

BLOCK = re.compile(r"<!-- five commands -->\n+```\w*\n(.*?)```\n+<!-- /five commands -->", re.S)
"""The block lies between two comments that nobody sees."""


def commands(text: str) -> list[str]:
    """The lines of the block, without those that are only a comment."""
    found = BLOCK.search(text)
    assert found, "README.md has no fenced block between <!-- five commands --> and <!-- /five commands -->"
    return [line for line in found[1].splitlines() if line.strip() and not line.startswith("#")]


def test_the_five_commands(images: Path, table: Table, tell: Callable[[str], None], tmp_path: Path) -> None:
    lines = commands((ROOT / "README.md").read_text("utf-8"))
    assert len(lines) == 5
    project = tmp_path / "mailfarm"
    copy_of_the_project(project)
    names = sorted(set(re.findall(r"\b(?:[a-z0-9-]+\.)+example\.(?:org|com|net)\b", "\n".join(lines))))
    began = time.monotonic()
    with turn(LOCK, tell), Lab(nodes=1, managers=0, disk=images, hosts=names, tell=tell) as lab:
        for line in lines:
            tell(f"$ {line}")
            # No registry is reached from here: BARE=1 lets the images be made of Debian's packages.
            code, said = lab.machines[1].follow("bash", "-c", line, tell=tell, folder=project, BARE="1")
            assert code == 0, f"{line}\n{said[-3000:]}"
    tell(
        table.fact("the README's five commands, one machine, to a delivered mail", f"{time.monotonic() - began:.0f} s")
    )
    assert leftovers(lab.name, lab.folder) == []


def copy_of_the_project(to: Path) -> None:
    """The files of the project, and what was fetched for the images before."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name, follow_symlinks=False)
    (to / ".make").mkdir()
    subprocess.run(["cp", "-a", "--reflink=auto", ROOT / ".make" / "stack", to / ".make"], check=True)
