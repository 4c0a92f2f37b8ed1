"""What a measurement leaves behind: JSON, a Markdown table, a chart, and the machine it was made on.

A machine that others use gives other numbers. ``machine`` says how many cores they use before a measurement, and
warns; ``Others`` says how many they used during it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from children import WORK, tree_cpu

RESULTS = Path(__file__).resolve().parent / "results"
BUSY = 0.3
"""Cores that others may use while something is measured, before its numbers mean less."""
OTHERS = "others, cores"
"""The column that says how many they used."""


class Others:
    """How many cores were kept busy by other processes than this one and its children, since this was made."""

    def __init__(self) -> None:
        self._began, self._used = time.monotonic(), _used_by_others()

    def cores(self) -> float:
        """The mean until now. Children must be running still, or have been waited for."""
        took = max(time.monotonic() - self._began, 0.01)
        return max(0.0, (_used_by_others() - self._used) / took)


class Calmest:
    """A row that is measured again while others use the machine: ``while kept.wanted: kept.add(row)``.

    At most ``turns`` rows are wanted, none after one that was calm, and ``row`` is the one that was least disturbed.
    The rows have ``Others.cores`` in the column ``OTHERS``. With ``patience`` it waits for a calm machine first."""

    def __init__(self, head: Sequence[str], turns: int, patience: Patience | None = None) -> None:
        self._head, self._turns, self._at = head, turns, list(head).index(OTHERS)
        self._patience = patience or Patience(0.0)
        self._rows: list[Sequence[Any]] = []

    @property
    def wanted(self) -> bool:
        """Whether another row is."""
        if self._rows and (len(self._rows) >= self._turns or self.row[self._at] <= BUSY):
            return False
        self._patience.wait()
        return True

    def add(self, row: Sequence[Any]) -> None:
        """Take a row, and say it."""
        self._rows.append(row)
        told = zip(self._head, row, strict=True)
        tell("  ".join(value if isinstance(value, str) else f"{name} {_cell(value)}" for name, value in told))

    @property
    def row(self) -> Sequence[Any]:
        """The best so far."""
        return min(self._rows, key=lambda row: float(row[self._at]))


class Patience:
    """Waits until others leave the machine alone, for so many seconds all in all."""

    def __init__(self, seconds: float) -> None:
        self._left = seconds

    def wait(self) -> None:
        """Return when the machine was calm for two seconds, or when there is no patience left."""
        began = time.monotonic()
        while (waited := time.monotonic() - began) < self._left:
            others = Others()
            time.sleep(2)
            if others.cores() <= BUSY:
                break
        self._left -= waited


def options(doc: str | None, turns: int = 3) -> argparse.ArgumentParser:
    """The command line that the scripts have in common: --quick, --turns, --patience. ``doc`` is the script's."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less of it, in seconds; kept in .make/bench")
    parser.add_argument(
        "--turns", type=int, default=0, help=f"how often a disturbed row is measured ({turns}; quick: 1)"
    )
    parser.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait, in all, for a machine that is idle"
    )
    return parser


def machine(where: str | Path | None = None) -> dict[str, Any]:
    """What the numbers depend on; ``where`` is a folder on the disk of the stores. Says so on standard error when
    others use the machine."""
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in _read("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    others = Others()
    time.sleep(0.5)
    busy = others.cores()
    if busy > BUSY:
        tell(f"the machine is busy: others use {busy:.1f} of its {os.cpu_count()} cores; rates will be lower")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "cores_others_use": round(busy, 2),
        "fdatasync_per_second": round(syncs_a_second(Path(where or WORK))),
    }


def syncs_a_second(folder: Path, seconds: float = 0.3) -> float:
    """How often the disk under a folder can make 4 KB durable, one after another: the floor of every store."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"fdatasync-{os.getpid()}"
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


def tell(line: str) -> None:
    """Say how it goes, on standard error."""
    print(line, file=sys.stderr, flush=True)


def save(name: str, quick: bool, form: dict[str, Any], text: str, picture: str = "") -> Path:
    """Keep all: a full run in ``bench/results/``, a quick one in ``.make/bench/``. Returns the table's path."""
    folder = WORK if quick else RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(form, indent=1) + "\n")
    path = folder / f"{name}.md"
    path.write_text(text + "\n")
    if picture:
        path.with_suffix(".svg").write_text(picture)
    return path


def save_rows(
    name: str,
    quick: bool,
    facts: dict[str, Any],
    head: Sequence[str],
    rows: Sequence[Sequence[object]],
    picture: str,
    targets: Sequence[dict[str, Any]] = (),
) -> Path:
    """Keep a table whose JSON is its rows, and print it. ``targets`` are what it says of what is aimed at, for that
    of ``make bench``: forms with ``what``, ``target``, ``moonshot``, ``measured`` (text) and ``met`` (yes or no)."""
    text = f"{about(facts)}\n\n{table(head, rows)}"
    form = {"machine": facts, "rows": [dict(zip(head, row, strict=True)) for row in rows], "targets": list(targets)}
    path = save(name, quick, form, text, picture)
    print(text)
    tell(f"\nkept in {path.parent}")
    return path


def about(facts: dict[str, Any]) -> str:
    """One line about the machine."""
    return (
        f"{facts['cores']} cores of {facts['cpu']}, Linux {facts['kernel']}, Python {facts['python']}, "
        f"{facts['fdatasync_per_second']} fdatasync a second, load {facts['load_average']} and "
        f"{facts['cores_others_use']} cores used by others before; {facts['at']}"
    )


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _used_by_others() -> float:
    """Seconds of CPU since the machine started, without those of this process and its children. Interrupts are left
    out: our own packets are in them."""
    user, nice, system, _idle, _wait, _irq, _softirq, steal, *_ = _read("/proc/stat").split(maxsplit=11)[1:]
    all_of_it = (int(user) + int(nice) + int(system) + int(steal)) / os.sysconf("SC_CLK_TCK")
    return all_of_it - tree_cpu(os.getpid())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
