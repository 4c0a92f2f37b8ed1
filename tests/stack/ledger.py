"""Steady traffic from a test, and its oracle: whatever was answered 250 is readable, byte for byte, once.

::

    with Steady(client, folder, Plan(servers, recipients, ...)) as steady:
        ...                                       # update, break, scale
    steady.result["lost"]                         # what traffic.py counts
    found = check(farm, steady.ledger)            # raises AssertionError for a message that is not there
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from traffic import Plan
from wires import Client

_PROGRAM = Path(__file__).with_name("traffic.py")


class Steady:
    """Traffic from ``client`` (None: from here), from entering the ``with`` to its end."""

    def __init__(self, client: Client | None, folder: Path, plan: Plan) -> None:
        self.ledger = folder / f"{plan.label}.ledger"
        self.plan = plan
        self.result: dict[str, Any] = {}
        self._client = client
        self._process: subprocess.Popen[bytes] | None = None

    def acknowledged(self) -> int:
        """How many messages were answered 250 until now."""
        return self.ledger.read_bytes().count(b"\n") if self.ledger.exists() else 0

    def flowing(self, more: int = 20, seconds: float = 60) -> float:
        """Wait until so many more messages are answered 250; how many seconds that took."""
        began, wanted = time.monotonic(), self.acknowledged() + more
        while self.acknowledged() < wanted:
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() - began > seconds:
                raise TimeoutError(f"the traffic does not flow: {wanted - self.acknowledged()} of {more} are missing")
            time.sleep(0.02)
        return time.monotonic() - began

    def stop(self) -> dict[str, Any]:
        """Finish what is under way; what came of it."""
        process, self._process = self._process, None
        if process is not None:
            said, _ = process.communicate(timeout=120)
            self.result = json.loads(said)
        return self.result

    def __enter__(self) -> Steady:
        command = [sys.executable, str(_PROGRAM), str(self.ledger)]
        command = self._client.command(*command) if self._client else command
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asdict(self.plan)).encode() + b"\n")
        self._process.stdin.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and self._process is not None:
            self._process.kill()
            self._process.communicate()
        else:
            self.stop()


@dataclass(frozen=True, slots=True)
class Found:
    """What the oracle saw. ``lost`` are ids that were acknowledged and are not readable as they were sent."""

    acknowledged: int
    readable: int
    lost: tuple[str, ...]
    twice: int
    unacknowledged: int


def check(
    list_ids: Callable[[str], list[str]],
    read: Callable[[str], bytes],
    ledger: Path,
    *,
    seconds: float = 60,
    threads: int = 8,
) -> Found:
    """Read every message of the ledger's mailboxes and compare, until all are there or ``seconds`` have passed.

    ``list_ids`` gives the ids of the messages in the mailbox of an address, ``read`` the bytes of one.
    """
    label = ledger.stem
    entries = [json.loads(line) for line in ledger.read_text().splitlines()]
    wanted = {(entry["to"], entry["id"]): entry["sha256"] for entry in entries}
    seen: dict[str, tuple[str, str]] = {}
    deadline = time.monotonic() + seconds
    by_mailbox = defaultdict(set)
    for to, name in wanted:
        by_mailbox[to].add(name)

    def fetch(message: str) -> tuple[str, tuple[str, str]]:
        raw = read(message)
        start = raw.find(b"X-Ledger: ")
        if start < 0:
            return message, ("", "")  # somebody else's mail
        name = raw[start : raw.index(b"\r\n", start)].partition(b": ")[2].decode()
        return message, (name, hashlib.sha256(raw[start:]).hexdigest())

    with ThreadPoolExecutor(threads) as pool:
        while True:
            there: Counter[tuple[str, str, str]] = Counter()
            for to in by_mailbox:
                ids = list_ids(to)
                for message, what in pool.map(fetch, [each for each in ids if each not in seen]):
                    seen[message] = what
                there.update((to, *seen[each]) for each in ids if seen[each][0].startswith(f"{label}-"))
            lost = [name for (to, name), digest in wanted.items() if (to, name, digest) not in there]
            if not lost or time.monotonic() > deadline:
                break
            time.sleep(0.2)
    return Found(
        len(wanted),
        len(wanted) - len(lost),
        tuple(lost),
        sum(count - 1 for count in there.values()),
        sum((to, name) not in wanted for to, name, _ in there),
    )
