"""A ``mailfarm dev`` of one's own: a real process on free ports, for tests that use it from outside."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

FREE = "127.0.0.1:0"
FREE_PORTS = {
    "MAILFARM_API_LISTEN": FREE,
    "MAILFARM_SUBMISSION_CAPTURE": FREE,
    "MAILFARM_SUBMISSION_STARTTLS": FREE,
    "MAILFARM_SUBMISSION_TLS": FREE,
    "MAILFARM_MX_LISTEN": FREE,
}


class Running:
    """Starts at once and returns when it listens; stopped by SIGTERM, or by ``kill`` as a power cut would."""

    def __init__(self, data: Path | None = None, log: Path | None = None, **settings: str) -> None:
        command = [sys.executable, "-m", "mailfarm", "dev", "--json"]
        command += ["--data", str(data)] if data else ["--ephemeral"]
        environ = {k: v for k, v in os.environ.items() if not k.startswith("MAILFARM_")}
        self._log = open(log, "ab") if log else None  # noqa: SIM115 - closed in stop
        self.process = subprocess.Popen(
            command,
            env=environ | FREE_PORTS | settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log or subprocess.DEVNULL,
        )
        self.where: dict[str, Any] = json.loads(self._first_line(30))

    def _first_line(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.kill()
                raise TimeoutError(f"mailfarm dev said nothing within {seconds} s")
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"mailfarm dev ended with exit code {self.process.wait()} before it listened")
        return line

    @property
    def url(self) -> str:
        """The base address of the API."""
        return str(self.where["http"])

    def port(self, *path: str) -> int:
        """A listener's port, as in ``port("smtp", "capture")`` or ``port("mx")``."""
        value: Any = self.where
        for key in path:
            value = value[key]
        return int(str(value).rpartition(":")[2])

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM, then wait for the end. The exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self._ended(seconds)

    def kill(self) -> int:
        """SIGKILL: nothing is finished, nothing flushed."""
        if self.process.poll() is None:
            self.process.kill()
        return self._ended(10)

    def _ended(self, seconds: float) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            assert self.process.stdout is not None
            self.process.stdout.close()
            if self._log:
                self._log.close()

    def rss(self) -> int:
        """Resident memory in octets."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise ProcessLookupError(self.process.pid)

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def until(condition: Any, seconds: float = 10, every: float = 0.01) -> Any:
    """Wait until ``condition()`` is true and return what it gave; TimeoutError after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not so within {seconds} s: {condition}")
        time.sleep(every)
    return value
