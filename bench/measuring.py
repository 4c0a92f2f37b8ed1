"""One measurement: the generator sends to one server, and what came of it is a plain form."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from children import WORK, tree_cpu
from peers.base import Peer, Sent

_LOAD = str(Path(__file__).resolve().parent / "load.py")


class Wrong(Exception):
    """A server did not keep what it acknowledged, or answered what it should not."""


def peak_mib(process: int) -> float:
    """The most memory a process has had resident; where it has children, what all of them have now, what they share
    counted once."""
    try:
        children = [
            word for task in Path(f"/proc/{process}/task").glob("*/children") for word in task.read_text().split()
        ]
        if not children:
            status = Path(f"/proc/{process}/status").read_text()
            return _kib(status, "VmHWM:") / 1024
        own = _kib(Path(f"/proc/{process}/smaps_rollup").read_text(), "Pss:") / 1024
        return own + sum(_share(int(child)) for child in children)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _share(process: int) -> float:
    try:
        return _kib(Path(f"/proc/{process}/smaps_rollup").read_text(), "Pss:") / 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0.0


def _kib(text: str, name: str) -> int:
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(name)), 0)


def generate(port: int, options: Sequence[str], label: str, patience: float) -> tuple[dict[str, Any], Sent]:
    """Run the generator: what it says, and what was accepted."""
    WORK.mkdir(parents=True, exist_ok=True)
    ledger = WORK / f"ledger-{os.getpid()}-{label}"  # two may run at the same time
    command = [sys.executable, _LOAD, f"127.0.0.1:{port}", "--label", label, "--ledger", str(ledger), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as load:
        try:
            said, complaint = load.communicate(timeout=patience)
        except BaseException:
            load.kill()
            raise
    if load.returncode not in (0, 1):
        raise SystemExit(f"the generator failed: {complaint[-2000:]}")
    with ledger.open("rb") as file:
        numbers, times = pickle.load(file)  # from our own child
    ledger.unlink()
    kind = options[options.index("--size") + 1] if "--size" in options else "4000"
    return json.loads(said), Sent(label, numbers, times, kind=kind)


def warm(peer: Peer, options: Sequence[str], copies: int, seconds: float) -> None:
    """Connections, caches, compilers: send until nothing is new to it."""
    measure(peer, options, seconds, copies)
    peer.clean()


def measure(peer: Peer, options: Sequence[str], seconds: float, copies: int = 1) -> dict[str, Any]:
    """Send to a peer for so long, wait until all is readable, and check that it is."""
    peer.ready()
    others, cpu = report.Others(), {part: tree_cpu(process) for part, process in peer.parts.items()}
    label = os.urandom(3).hex()
    options = ("--seconds", str(seconds), *options, *peer.extra)
    form, sent = generate(peer.smtp, options, label, seconds + 90)
    sent.copies = copies
    end = peer.settled(sent, 60 + seconds * 10) if peer.keeps else 0.0
    used = {part: tree_cpu(process) - cpu[part] for part, process in peer.parts.items()}
    busy = others.cores()
    count = max(form["messages"], 1)
    if problem := peer.check(sent):
        raise Wrong(f"{peer.name}: {problem}")
    return {
        "accepted_per_second": form["messages_per_second"],
        "readable_per_second": form["messages"] / (end - form["began"]) if end else None,
        "messages": form["messages"],
        "seconds": form["seconds"],
        "dot_ms": form["dot_ms"],
        "cpu_us": {part: seconds / count * 1e6 for part, seconds in used.items()},
        "generator_us": form["generator_cpu_us_per_message"],
        "generator_busy": form["generator_cpu_seconds"] / max(form["seconds"], 1e-9),
        "peak_mib": {part: peak_mib(process) for part, process in peer.parts.items()},
        "others": busy,
        "errors": form["errors"],
        "errors_total": form["errors_total"],
        "at": time.time(),
    }
