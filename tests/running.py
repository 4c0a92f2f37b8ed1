"""Real processes of mailfarm on free ports, for tests that use them from outside.

::

    with Running() as running: ...                        # a mailfarm dev: running.url, running.port("mx")
    with Cluster(folder, database, [queue], cache) as cluster:
        mx, api = cluster.start("mx", "api")              # a process each; the URLs are Postgres' and Redis'
        mx.port("mx"), api.url, mx.status("healthz")
        mx.stop(); mx.start()                             # on other ports
"""

from __future__ import annotations

import json
import selectors
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from servers import free_port

from mailfarm.prove.child import clean_environ, get, until

__all__ = ["Cluster", "Process", "Running", "Service", "clean_environ", "command", "free_port", "get", "until"]

FREE = "127.0.0.1:0"
FREE_PORTS = {
    "MAILFARM_API_LISTEN": FREE,
    "MAILFARM_SUBMISSION_CAPTURE": FREE,
    "MAILFARM_SUBMISSION_STARTTLS": FREE,
    "MAILFARM_SUBMISSION_TLS": FREE,
    "MAILFARM_MX_LISTEN": FREE,
}
TOKEN = "a-first-token-for-tests-0123456789"
STARTING = 60.0


class Process:
    """One ``mailfarm`` command that runs until it is told to stop. ``where`` is what it says when it listens."""

    program: Sequence[str] = (sys.executable, "-m", "mailfarm")
    """What is started; a test may name something that it has broken on purpose."""

    def __init__(self, words: Sequence[str], settings: Mapping[str, str], log: Path | None = None) -> None:
        self.words = words
        self.settings = dict(settings)
        self.where: dict[str, Any] = {}
        self._log_path = log
        self._log: Any = None
        self.process: subprocess.Popen[bytes]

    @property
    def name(self) -> str:
        return f"mailfarm {self.words[0]}"

    def begin(self) -> None:
        """Start, and do not wait for anything."""
        self._log = open(self._log_path, "ab") if self._log_path else None  # noqa: SIM115 - closed when it has ended
        self.process = subprocess.Popen(
            [*self.program, *self.words],
            env=clean_environ() | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log or subprocess.DEVNULL,
        )

    def listens(self, seconds: float = STARTING) -> Self:
        """Wait until it says where it listens."""
        self.where = json.loads(self._first_line(seconds))
        return self

    def start(self) -> Self:
        """Start, and wait until it listens."""
        self.begin()
        return self.listens()

    def _first_line(self, seconds: float) -> bytes:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            if not selector.select(seconds):
                self.kill()
                raise TimeoutError(f"{self.name} said nothing within {seconds} s{self.said()}")
        line = self.process.stdout.readline()
        if not line:
            code = self._ended(10)
            raise ChildProcessError(f"{self.name} ended with exit code {code} before it listened{self.said()}")
        return line

    def said(self) -> str:
        """The end of its log."""
        return "" if self._log_path is None else f":\n{self._log_path.read_text('utf-8', 'replace')[-3000:]}"

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

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def ended(self, seconds: float = 30) -> int:
        """Wait for the end. The exit code."""
        return self._ended(seconds)

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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class Running(Process):
    """A ``mailfarm dev``. It starts at once and returns when it listens; stopped by SIGTERM, or by ``kill`` as a power
    cut would."""

    def __init__(self, data: Path | None = None, log: Path | None = None, **settings: str) -> None:
        keeping = ["--data", str(data)] if data else ["--ephemeral"]
        super().__init__(["dev", "--json", *keeping], FREE_PORTS | settings, log)
        self.start()


class Service(Process):
    """A service by itself. ``status_at`` is where it tells of itself, also while it starts."""

    def __init__(self, word: str, settings: Mapping[str, str], log: Path) -> None:
        self.word = word
        self.status_at = f"127.0.0.1:{free_port()}"
        listening = {
            "mx": ("MAILFARM_MX_LISTEN",),
            "submission": (
                "MAILFARM_SUBMISSION_CAPTURE",
                "MAILFARM_SUBMISSION_STARTTLS",
                "MAILFARM_SUBMISSION_TLS",
            ),
            "api": ("MAILFARM_API_LISTEN",),
            "live": ("MAILFARM_LIVE_LISTEN",),
        }.get(word, ())
        ports = dict.fromkeys(listening, FREE)
        super().__init__([word, "--json"], {"MAILFARM_STATUS_LISTEN": self.status_at} | ports | dict(settings), log)

    def status(self, page: str) -> tuple[int, str]:
        """Ask its status address for a page: the code, 0 if nobody answers, and the text."""
        return get(f"http://{self.status_at}/{page}")

    def log(self) -> str:
        """What it has logged."""
        assert self._log_path is not None
        return self._log_path.read_text("utf-8", "replace")


class Cluster:
    """Services by themselves, on stores they share. ``folder`` takes their logs and a certificate; ``settings`` are
    everybody's. Sign in with ``token``."""

    def __init__(self, folder: Path, database: str, queues: Sequence[str], cache: str, **settings: str) -> None:
        from mailfarm.net.tls import dev_certificate

        self.folder = folder
        self.token = settings.get("MAILFARM_API_FIRST_TOKEN", TOKEN)
        pair = dev_certificate(folder, "localhost", datetime.now(UTC))
        self.settings = {
            "MAILFARM_DATABASE_URL": database,
            "MAILFARM_QUEUE_URL": ",".join(queues),
            "MAILFARM_CACHE_URL": cache,
            "MAILFARM_CERTIFICATE": str(pair.certificate),
            "MAILFARM_KEY": str(pair.key),
            "MAILFARM_API_AUTH": "token",
            "MAILFARM_API_FIRST_TOKEN": TOKEN,
            "MAILFARM_STORE_TIMEOUT": "2",
            **settings,
        }
        self.services: list[Service] = []

    def schema(self) -> str:
        """Bring the database's schema up to date; what the command said."""
        done = command("schema", **self.settings)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def service(self, word: str, **settings: str) -> Service:
        """A service that is not started yet."""
        log = self.folder / f"{word}-{len(self.services)}.log"
        made = Service(word, self.settings | settings, log)
        self.services.append(made)
        return made

    def start(self, *words: str, **settings: str) -> list[Service]:
        """Start a service for each word, and wait until all serve."""
        made = [self.service(word, **settings) for word in words]
        for service in made:
            service.begin()
        return [service.listens() for service in made]

    @property
    def running(self) -> list[Service]:
        """The services whose process has not ended."""
        return [each for each in self.services if hasattr(each, "process") and each.process.poll() is None]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        running = self.running
        for service in running:
            service.send_signal(signal.SIGTERM)
        for service in running:
            try:
                service._ended(30)
            except subprocess.TimeoutExpired:  # it was killed; a test that stops a service itself asks how it ended
                continue


def command(*words: str, seconds: float = 60, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a ``mailfarm`` command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "mailfarm", *words],
        env=clean_environ() | settings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
