"""What a lab leaves behind on the host: after ``down`` there must be nothing. Also finds it when a run was killed."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def leftovers(name: str, folder: Path) -> list[str]:
    """What there is of the lab ``name`` in ``folder``: processes, namespaces, mounts, interfaces, cgroups, files."""
    found = [f"network namespace {path.name}" for path in Path("/run/netns").glob(f"{name}-*")]
    found += [f"cgroup {path}" for path in cgroups(name)]
    found += [f"interface {path.name}" for path in Path("/sys/class/net").glob("*") if path.name.startswith("mailfarm")]
    with open("/proc/self/mounts") as file:
        found += [f"mount {line.split()[1]}" for line in file if name in line or str(folder) in line.split()[1]]
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            groups = (process / "cgroup").read_text()
            if int(process.name) != os.getpid() and (f"{folder}/" in words or f"/{name}" in groups):
                found.append(f"process {process.name}: {words[:120]}")
    if folder.exists():
        found.append(f"folder {folder}")
    return found


def cgroups(name: str) -> list[Path]:
    """The control groups a lab made: one tree (version 2), or one in each hierarchy (version 1)."""
    return [path for path in (_CGROUPS / name, *_CGROUPS.glob(f"*/{name}")) if path.is_dir()]


def remove_cgroups(name: str, seconds: float = 10) -> None:
    """Take them away; they are empty a moment after the lab's processes have ended."""
    deadline = time.monotonic() + seconds
    while tops := cgroups(name):
        for top in tops:
            for folder, _, _ in os.walk(top, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
        if time.monotonic() > deadline:
            return
        time.sleep(0.05)
