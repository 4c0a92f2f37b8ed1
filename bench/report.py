"""What a measurement leaves behind: JSON, a Markdown table, and the machine it was made on."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from children import WORK

RESULTS = Path(__file__).resolve().parent / "results"


def machine() -> dict[str, Any]:
    """What the numbers depend on."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "fdatasync_per_second": round(syncs_a_second()),
    }


def syncs_a_second(seconds: float = 0.3) -> float:
    """How often the disk under the results can make 4 KB durable, one after another: the floor of every store."""
    WORK.mkdir(parents=True, exist_ok=True)
    path = WORK / "fdatasync"
    block, count = os.urandom(4096), 0
    with path.open("wb", buffering=0) as file:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            file.write(block)
            os.fdatasync(file.fileno())
            count += 1
    path.unlink()
    return count / seconds


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; numbers stand right."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(head[i]), *(len(row[i]) for row in cells)) for i in range(len(head))]
    right = [all(not isinstance(row[i], str) for row in rows) for i in range(len(head))]

    def line(values: Sequence[str]) -> str:
        padded = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (w - 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)]
    return "\n".join([line(head), line(rule), *map(line, cells)])


def median(values: Sequence[float]) -> float:
    """The middle one."""
    return statistics.median(values)


def save(name: str, quick: bool, form: dict[str, Any], text: str) -> Path:
    """Keep both: a full run in ``bench/results/``, a quick one in ``.make/bench/``. Returns the table's path."""
    folder = WORK if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(form, indent=1) + "\n")
    path = folder / f"{name}.md"
    path.write_text(text + "\n")
    return path


def about(facts: dict[str, Any]) -> str:
    """One line about the machine."""
    return (
        f"{facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}, Python {facts['python']}, "
        f"{facts['fdatasync_per_second']} fdatasync a second, load {facts['load_average']} before; {facts['at']}"
    )


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
