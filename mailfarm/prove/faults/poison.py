"""A poison message: mail at which a worker fails every time, by an error, by dying, or by standing still.

mailfarm is started with a fault planted in its worker. The message is set aside after its tries: kept, listed by
``mailfarm queue`` and ``GET /v1/queue/entries``, downloadable octet for octet, and nobody else's mail waits for it or
is set aside with it. When the worker is mended a retry files it.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from mailfarm.prove.child import clean_environ, get, until
from mailfarm.prove.smtp import Letter
from mailfarm.prove.target import Part, Target
from mailfarm.sdk import Farm

from . import Fault, Tell
from .stops import LEASE, LEASES

How = Literal["raises", "exits", "hangs"]
PLANTED = """
import os, sys, time
from mailfarm.inbound import pipeline
real = pipeline.to_file
def to_file(packer, spooled, parsed, content):
    if os.environ.get("PROVE_POISON"):
        if b"poison-that-raises" in content: raise RuntimeError("planted")
        if b"poison-that-exits" in content: os._exit(9)
        if b"poison-that-hangs" in content: time.sleep(3600)
    return real(packer, spooled, parsed, content)
pipeline.to_file = to_file
from mailfarm.__main__ import main
sys.exit(main())
"""
OPTIONS = replace(
    LEASES,
    settings={**LEASES.settings, "PROVE_POISON": "yes"},
    program=(sys.executable, "-c", PLANTED),
)
HUNG = 2 * LEASE
STARTING = 15.0
"""Seconds without an answer after which a worker is killed, and by how much more one may be late that starts."""
SET_ASIDE = 120.0
"""Seconds for five tries, pauses of 2 to 16 seconds or leases between them, and the worker's start after each."""


class Poison(Fault):
    """``how`` the worker fails."""

    family = "poison"
    options = OPTIONS
    lasts = 30.0

    def __init__(self, how: How) -> None:
        self._how = how
        self.name = f"poison-{how}"
        self.short = how == "exits"
        does = {"raises": "raises an error", "exits": "dies", "hangs": "stands still until it is killed"}[how]
        self.says = f"a worker {does} at one message, every time it is tried"
        self._wrong: list[str] = []
        self._well: dict[str, float] = {}

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        plain = target.mail.letter()
        letter = replace(plain, content=plain.content + f"poison-that-{self._how}\r\n".encode())
        if any(attempt.outcome != "acked" for attempt in target.mail.send(letter)):
            self._wrong.append("the poison was not taken")
            return
        began, deaths = time.monotonic(), 0
        while not (entries := _aside(target)):
            if time.monotonic() - began > SET_ASIDE:
                self._wrong.append(f"{letter.id} was not set aside within {SET_ASIDE:g} s")
                break
            deaths += sum(self._revive(part) for part in target.of("inbound"))
            time.sleep(0.2)
        if entries:
            tell(f"set aside after {time.monotonic() - began:.0f} s, {deaths} deaths: {entries[0]['reason']}")
            self._look(target, letter, entries)
        self._mend(target, letter, entries)

    def _revive(self, part: Part) -> bool:
        """As Swarm or systemd would: start it again when it has ended, or has not been healthy for long."""
        now = time.monotonic()
        if part.running():
            if get(f"http://{getattr(part, 'status', '')}/healthz", timeout=0.5)[0]:
                self._well[part.name] = now
            if now - self._well.setdefault(part.name, now) < HUNG:
                return False
            part.kill()
        part.start()
        self._well[part.name] = now + STARTING
        return True

    def _look(self, target: Target, letter: Letter, entries: list[Any]) -> None:
        """What was set aside is this message, whole, and nothing else; and others go on."""
        ids = [entry["id"] for entry in entries]
        raw = _get(target, f"/v1/queue/entries/{ids[0]}/raw")
        if len(ids) != 1 or not raw.endswith(b"\r\n" + letter.content):
            self._wrong.append(f"{letter.id} is not what was set aside: {ids}, {raw[-80:]!r}")
        environ = getattr(target.of("inbound")[0], "environ", {})
        command = [*OPTIONS.program, "queue", "list"]
        listed = subprocess.run(command, env=clean_environ() | environ, capture_output=True, text=True, check=False)
        if ids[0] not in listed.stdout:
            self._wrong.append(f"mailfarm queue list does not have {ids[0]}: {listed.stdout}{listed.stderr[-500:]}")
        other = target.mail.letter()
        target.mail.send(other)
        until(lambda: self._readable(target, other), 20, 0.1)

    def _mend(self, target: Target, letter: Letter, entries: list[Any]) -> None:
        """Workers without the fault, and a retry by hand."""
        for part in target.of("inbound"):
            part.kill()
            part.start(environ={"PROVE_POISON": ""})
        for entry in entries:
            _get(target, f"/v1/queue/entries/{entry['id']}/retry", b"{}")
        until(lambda: self._readable(target, letter), SET_ASIDE, 0.1)
        target.healthy()
        for part in target.of("inbound"):  # for the next fault
            part.stop_clean()
            part.start()

    def _readable(self, target: Target, letter: Letter) -> bool:
        with Farm(target.url, target.token or None) as farm:
            return any(message.subject == letter.id for message in farm.mailbox(letter.to[0]).messages())

    def judge_more(self, target: Target, verdict: object) -> list[str]:
        """As in Fault."""
        return self._wrong


def _aside(target: Target) -> list[Any]:
    found: list[Any] = json.loads(_get(target, "/v1/queue/entries?state=aside"))["entries"]
    return found


def _get(target: Target, path: str, body: bytes | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {target.token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(target.url + path, body, headers), timeout=30) as answer:
        text: bytes = answer.read()
        return text


def faults() -> Iterator[Fault]:
    """Each way to fail."""
    yield Poison("raises")
    yield Poison("exits")
    yield Poison("hangs")
