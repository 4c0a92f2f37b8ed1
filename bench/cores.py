"""Which cores everything runs on. What is measured, its stores and the generator share two of them; who only watches
(subscribers, pollers) has the others where there are others."""

from __future__ import annotations

import os
from pathlib import Path


def allowed() -> list[int]:
    """The cores this process may use."""
    return sorted(os.sched_getaffinity(0))


def pin(cores: list[int], process: int = 0) -> None:
    """Keep a process with all its threads and children on these cores. 0: this thread, and whatever it starts after."""
    if not process:
        os.sched_setaffinity(0, cores)
        return
    for task in Path(f"/proc/{process}/task").glob("*"):
        try:
            os.sched_setaffinity(int(task.name), cores)
            children = (task / "children").read_text().split()
        except (ProcessLookupError, FileNotFoundError):
            continue  # it has ended since
        for child in children:
            pin(cores, int(child))
