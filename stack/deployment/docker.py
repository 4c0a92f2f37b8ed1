"""Docker's client, asked for JSON."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any

STACK = "mailfarm"
NAMESPACE = f"com.docker.stack.namespace={STACK}"


def say(text: str = "") -> None:
    print(text, flush=True)


class Missing(Exception):
    """Nothing was done: what is wrong, and what to do about it, a line each."""


class Docker:
    """The client. Raises Missing when it cannot do what only asks."""

    def __init__(self) -> None:
        self.program = os.environ.get("DOCKER", "docker")

    def run(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **(env or {})}
        try:
            return subprocess.run([self.program, *words], capture_output=True, text=True, env=environ, check=False)
        except FileNotFoundError:
            raise Missing(f"there is no program {self.program!r}; install Docker 20.10 or newer") from None

    def ask(self, *words: str) -> str:
        done = self.run(*words)
        if done.returncode:
            raise Missing(f"docker {' '.join(words[:3])}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def objects(self, kind: str, *words: str) -> list[dict[str, Any]]:
        """What `docker KIND ls -q …` names, inspected."""
        for _ in range(3):
            names = list(dict.fromkeys(self.ask(*kind.split(), "ls", "-q", *words).split()))
            if not names:
                return []
            done = self.run(*kind.split(), "inspect", *names)
            if done.returncode == 0:  # else one of them has gone meanwhile
                return list(json.loads(done.stdout))
        return []


def host(node: Mapping[str, Any]) -> str:
    return str(node["Description"]["Hostname"])


def in_registry(image: str) -> bool:
    """Whether its name begins with a registry's."""
    first, slash, _ = image.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")
