"""The processes that are measured: started on free loopback ports, watched through /proc, ended by their process id.

A child is ended when its context ends, also on Ctrl-C and SIGTERM (call ``end_on_sigterm`` first). Linux only.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sink import find_smtp_sink, smtp_sink_command

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / ".make" / "bench"
_TICKS = os.sysconf("SC_CLK_TCK")
_FREE = "127.0.0.1:0"
_START = 30.0


class Child:
    """A process under measurement. ``smtp`` is its SMTP port, ``http`` the base address of its API, if it has one."""

    def __init__(self, name: str, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.smtp = 0
        self.http = ""
        self.where: dict[str, Any] = {}
        WORK.mkdir(parents=True, exist_ok=True)
        self._log_path = WORK / f"{name}.log"
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """SIGTERM, and SIGKILL if that is not heard within ten seconds."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def first_line(self) -> bytes:
        """What it says when it is ready. Raises SystemExit with the end of its log if it does not."""
        assert self._process.stdout
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                line = self._process.stdout.readline() if selector.select(_START) else b""
        except BaseException:
            self.end()
            raise
        if not line:
            self.end()
            raise SystemExit(f"{self.name} did not start:\n{self._log_path.read_text('utf-8', 'replace')[-2000:]}")
        return line

    def wait_for_port(self, port: int) -> None:
        """Return once something listens on the port."""
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.02)
            except BaseException:
                self.end()
                raise
        self.end()
        raise SystemExit(f"{self.name} did not start:\n{self._log_path.read_text('utf-8', 'replace')[-2000:]}")

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def peak_mib(self) -> float:
        """The most memory it has had resident."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(peak.split()[1]) / 1024


def tree_cpu(process: int) -> float:
    """Seconds of CPU of a process and of all its children, those too that it has waited for."""
    try:
        words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        children = [task.read_text() for task in Path(f"/proc/{process}/task").glob("*/children")]
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    used = sum(int(word) for word in words[11:15]) / _TICKS
    return used + sum(tree_cpu(int(child)) for line in children for child in line.split())


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def smtp_sink() -> Child | None:
    """Postfix's smtp-sink, or None where there is none."""
    found = find_smtp_sink()
    if found is None:
        return None
    program, environ = found
    port = free_port()
    child = Child("smtp-sink", smtp_sink_command(program, port), environ)
    child.wait_for_port(port)
    child.smtp = port
    return child


def edge() -> Child:
    """mailfarm's SMTP edge with a queue that keeps nothing."""
    child = Child("edge", [sys.executable, str(ROOT / "bench" / "edge.py")])
    child.where = json.loads(child.first_line())
    child.smtp = int(child.where["smtp"]["capture"].rpartition(":")[2])
    return child


class Farm(Child):
    """``mailfarm dev`` with its data in a folder of its own beside the other results, deleted at the end."""

    def __init__(self, **settings: str) -> None:
        WORK.mkdir(parents=True, exist_ok=True)
        self._data = tempfile.mkdtemp(prefix="data-", dir=WORK)
        environ = {
            "MAILFARM_API_LISTEN": _FREE,
            "MAILFARM_SUBMISSION_CAPTURE": _FREE,
            "MAILFARM_SUBMISSION_STARTTLS": _FREE,
            "MAILFARM_SUBMISSION_TLS": _FREE,
            "MAILFARM_MX_LISTEN": _FREE,
            "MAILFARM_LOG_LEVEL": "warn",
            **settings,
        }
        super().__init__("mailfarm", [sys.executable, "-m", "mailfarm", "dev", "--json", "--data", self._data], environ)
        self.where = json.loads(self.first_line())
        self.smtp = self.port("smtp", "capture")
        self.http = str(self.where["http"]).rstrip("/")

    def port(self, *path: str) -> int:
        """A listener's port, as in ``port("smtp", "tls")``."""
        value: Any = self.where
        for key in path:
            value = value[key]
        return int(str(value).rpartition(":")[2])

    def end(self) -> None:
        super().end()
        shutil.rmtree(self._data, ignore_errors=True)


def maildev() -> Child | None:
    """MailDev from ``.make/peers``, or None where it is not installed."""
    program = ROOT / ".make" / "peers" / "node_modules" / "maildev" / "bin" / "maildev"
    found = program if program.exists() else ROOT / ".make" / "peers" / "node_modules" / ".bin" / "maildev"
    node = shutil.which("node")
    if node is None or not found.exists():
        return None
    smtp, web = free_port(), free_port()
    arguments = ["--ip", "127.0.0.1", "--smtp", str(smtp), "--web", str(web), "--web-ip", "127.0.0.1", "--silent"]
    child = Child("maildev", [node, str(found.resolve()), *arguments])
    child.wait_for_port(smtp)
    child.wait_for_port(web)
    child.smtp, child.http = smtp, f"http://127.0.0.1:{web}"
    return child


def end_on_sigterm() -> None:
    """Make SIGTERM unwind the stack as Ctrl-C does, so that contexts end their children."""

    def stop(*_: object) -> None:
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, stop)
