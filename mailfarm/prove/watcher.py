"""Ends what stands still when the one who stopped it is gone.

::

    python -m mailfarm.prove.watcher < pipe

PostgreSQL's processes end when the first of them has, but for one that is stopped (SIGSTOP): it hears of nothing. So
before processes are stopped a child of ours is told of them, and when its pipe closes, however we ended, it kills those
that it was not told are going on again. A process is known by its id and its start (proc_pid_stat(5)), so that nobody
else's is killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path


class Watcher:
    """The child. It is started when it is first needed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def hold(self, pids: Iterable[int]) -> None:
        """These are to be stopped: kill them when we are gone."""
        self._say("hold", pids)

    def release(self, pids: Iterable[int]) -> None:
        """These go on."""
        self._say("release", pids)

    def _say(self, verb: str, pids: Iterable[int]) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mailfarm.prove.watcher"], stdin=subprocess.PIPE, start_new_session=True
            )
        assert self._process.stdin is not None
        lines = [f"{verb} {pid} {started}\n" for pid in pids if (started := start_of(pid))]
        self._process.stdin.write("".join(lines).encode())
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it go; what it still holds is killed."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def start_of(pid: int) -> str:
    """When a process began, in ticks since the machine did; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def main() -> int:
    """Listen until the pipe closes, and kill what is held then."""
    held: set[tuple[int, str]] = set()
    for line in sys.stdin:
        verb, pid, started = line.split()
        (held.add if verb == "hold" else held.discard)((int(pid), started))
    for each, started in held:
        if start_of(each) == started:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
    return 0


if __name__ == "__main__":
    sys.exit(main())
