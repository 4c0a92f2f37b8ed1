"""Docker's client, asked for JSON."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

STACK = "mailfarm"
NAMESPACE = f"com.docker.stack.namespace={STACK}"


def say(text: str = "") -> None:
    with suppress(OSError):  # a terminal that has gone is no reason to stop half way
        print(text, flush=True)


def complain(program: str, error: object) -> None:
    with suppress(OSError):
        for line in str(error).splitlines():
            print(f"{program}: {line}", file=sys.stderr, flush=True)


ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def heed_endings() -> None:
    """An end that is asked for, also by a terminal that closes, is a KeyboardInterrupt; what is ignored (nohup)
    stays so."""
    for number in ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def undisturbed() -> Iterator[None]:
    """What has to be put back is put back, however often an end is asked for."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ENDINGS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Missing(Exception):
    """Nothing was done: what is wrong, and what to do about it, a line each."""


class Docker:
    """The client. Raises Missing when it cannot do what only asks."""

    def __init__(self) -> None:
        self.program = os.environ.get("DOCKER", "docker")

    def run(
        self, *words: str, env: Mapping[str, str] | None = None, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, **(env or {})}
        try:
            return subprocess.run(
                [self.program, *words], capture_output=True, text=True, env=environ, input=given, check=False
            )
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
    """Whether it was made for a registry: `registry.example.org/mailfarm`, or `someone/mailfarm` on Docker's own."""
    return "/" in image
