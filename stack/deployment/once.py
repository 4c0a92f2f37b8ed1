"""Work that is done once beside the stack's Postgres: a task in the data network, on this node, and what it says.

Postgres may run on any node, so nothing is run in its container. A service of one task, with the image and the password
of the stack's own, does the work and is removed. Where it reads or writes a file, the file's folder is mounted, and it
runs as whoever called, so that the file is theirs.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .docker import STACK, Docker, Missing, in_registry

ENDED = ("complete", "failed", "rejected", "shutdown", "orphaned", "remove")
UNPLACED = 30.0
"""Seconds a task may wait for a node."""
PASSWORD = "/run/secrets/database_password"
SCRIPT = Path(__file__).with_name("postgres.bash")
ELSEWHERE = (
    "Postgres is not one of the stack's services (MAILFARM_DATABASE_URL): use its own tools, pg_dump and pg_restore"
)


class Failed(Exception):
    """The work was not done; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Postgres:
    """The stack's own: where it is, and with what to reach it."""

    host: str
    port: int
    user: str
    database: str
    image: str
    secret: str


def service(docker: Docker, word: str) -> dict[str, Any]:
    """A service of the stack. Raises Missing."""
    done = docker.run("service", "inspect", f"{STACK}_{word}")
    if done.returncode:
        raise Missing(f"the stack does not run here (no service {STACK}_{word}): {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def postgres(docker: Docker) -> Postgres:
    """Raises Missing: the stack does not run, or its database is elsewhere."""
    container = service(docker, "schema")["Spec"]["TaskTemplate"]["ContainerSpec"]
    environment = dict(pair.partition("=")[::2] for pair in container["Env"])
    parts = urlsplit(environment.get("MAILFARM_DATABASE_URL", ""))
    if parts.hostname != "postgres":
        raise Missing(ELSEWHERE)
    container = service(docker, "postgres")["Spec"]["TaskTemplate"]["ContainerSpec"]
    secret = next(each["SecretName"] for each in container["Secrets"] if each["File"]["Name"] == "database_password")
    return Postgres(
        parts.hostname, parts.port or 5432, parts.username or "", parts.path.strip("/"), container["Image"], secret
    )


class Once:
    """Runs one piece of work at a time under ``name``, which also keeps a second one from beginning."""

    def __init__(self, docker: Docker, server: Postgres, name: str, say: Callable[[str], None]) -> None:
        self.docker, self.server, self.say = docker, server, say
        self.name = f"{STACK}-{name}"
        self.node = docker.ask("info", "-f", "{{.Swarm.NodeID}}")

    def bash(self, *function: str, folder: Path | None = None, read_only: bool = False) -> list[str]:
        """Run a function of postgres.bash; the lines it said. ``folder`` is at /here. Raises Failed."""
        server = self.server
        words = [
            *("--entrypoint", "bash", "--user", f"{os.getuid()}:{os.getgid()}"),
            *("--secret", f"source={server.secret},target={PASSWORD},uid={os.getuid()},mode=0400"),
            *("--env", f"PGHOST={server.host}", "--env", f"PGPORT={server.port}", "--env", f"PGUSER={server.user}"),
            *("--env", f"DATABASE={server.database}", "--env", "HOME=/tmp"),
        ]
        if folder is not None:
            words += ["--mount", f"type=bind,source={folder},target=/here{',readonly' if read_only else ''}"]
        return self._run(server.image, words, ["-c", SCRIPT.read_text("utf-8"), "bash", *function])

    def schema(self, database: str) -> list[str]:
        """Run ``mailfarm schema`` on another database, with the image the stack has; the lines it said. Raises
        Failed."""
        server = self.server
        image = service(self.docker, "schema")["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"]
        url = f"postgresql://{server.user}@{server.host}:{server.port}/{database}"
        words = [
            *("--secret", f"source={server.secret},target={PASSWORD},uid=10001,mode=0400"),
            *("--env", f"MAILFARM_DATABASE_URL={url}", "--env", f"MAILFARM_DATABASE_PASSWORD_FILE={PASSWORD}"),
        ]
        return self._run(image, words, ["schema"])

    def clear(self) -> None:
        """Take away what an earlier run left. Raises Missing if one is at work."""
        if self.docker.run("service", "inspect", self.name).returncode:
            return
        state = (self._task() or {}).get("Status", {}).get("State", "complete")
        if state not in ENDED:
            raise Missing(f"another one is at work ({state}); if not: docker service rm {self.name}")
        self.remove()

    def remove(self) -> None:
        """End what runs, and wait until its container is gone."""
        container = ((self._task() or {}).get("Status", {}).get("ContainerStatus") or {}).get("ContainerID", "")
        deadline = time.monotonic() + 30
        while self.docker.run("service", "rm", self.name).returncode and time.monotonic() < deadline:
            if self.docker.run("service", "inspect", self.name).returncode:
                break  # it has gone
            time.sleep(0.5)
        while container and time.monotonic() < deadline and not self.docker.run("inspect", container).returncode:
            time.sleep(0.2)

    def _run(self, image: str, words: Sequence[str], command: Sequence[str]) -> list[str]:
        create = [
            *("service", "create", "--detach", "--quiet", "--name", self.name, "--restart-condition", "none"),
            *("--network", f"{STACK}_data", "--endpoint-mode", "dnsrr", "--constraint", f"node.id=={self.node}"),
            *("--init", "--read-only", "--cap-drop", "ALL", "--limit-memory", "1g", "--no-healthcheck"),
            *("--log-driver", "json-file"),
            *("--mount", "type=tmpfs,target=/tmp,tmpfs-size=16777216", "--stop-grace-period", "2s"),
            *(["--with-registry-auth"] if in_registry(image) else ["--no-resolve-image"]),
        ]
        done = self.docker.run(*create, *words, image, *command)
        if done.returncode:
            raise Failed(done.stderr.strip())
        try:
            return self._follow()
        finally:
            self.remove()

    def _follow(self) -> list[str]:
        """Tell what it says, until it has ended."""
        said: list[str] = []
        began = time.monotonic()
        while True:
            status = (self._task() or {"Status": {"State": "pending"}})["Status"]
            if status["State"] in ("running", *ENDED):
                lines = self._log()
                for line in lines[len(said) :]:
                    self.say(line)
                said = max(said, lines, key=len)
            if status["State"] == "complete":
                return said
            if status["State"] in ENDED or (status["State"] == "pending" and time.monotonic() - began > UNPLACED):
                why = status.get("Err") or status.get("Message", "") or "its task is not to be seen"
                if "non-zero exit" in why:  # what it said is why
                    why = said[-1] if said else why
                raise Failed(why)
            time.sleep(0.5)

    def _log(self) -> list[str]:
        try:
            done = subprocess.run(
                [self.docker.program, "service", "logs", "--raw", self.name],
                capture_output=True, text=True, errors="replace", timeout=15, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return []
        return [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]

    def _task(self) -> dict[str, Any] | None:
        ids = self.docker.run("service", "ps", "-q", "--no-trunc", self.name).stdout.split()
        done = self.docker.run("inspect", "--type", "task", *ids) if ids else None
        if done is None or done.returncode:
            return None
        tasks: list[dict[str, Any]] = json.loads(done.stdout)
        return max(tasks, key=lambda task: str(task["CreatedAt"]))


def amount(octets: float) -> str:
    """``17 MB``, in words a person reads."""
    for unit in ("octets", "kB", "MB", "GB"):
        if octets < 1000 or unit == "GB":
            return f"{octets:.0f} {unit}" if octets >= 10 or unit == "octets" else f"{octets:.1f} {unit}"
        octets /= 1000
    raise AssertionError("not reached")
