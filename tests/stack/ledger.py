"""Steady traffic from a test, and its oracle: whatever was answered 250 is readable, byte for byte.

::

    with Steady(client, folder, Plan(servers, recipients, ...)) as steady:
        ...                                       # update, break, scale
    steady.result["lost"]                         # what traffic.py counts
    verdict = judged(stack, steady)               # what became of it: the oracle of ``mailfarm prove``
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from traffic import Plan
from wires import Client

from mailfarm.prove.ledger import Reading
from mailfarm.prove.oracle import Verdict, judge
from mailfarm.sdk import Farm

_PROGRAM = Path(__file__).with_name("traffic.py")


class Steady:
    """Traffic from ``client`` (None: from here), from entering the ``with`` to its end. Its ledger is in a folder of
    its own."""

    def __init__(self, client: Client | None, folder: Path, plan: Plan) -> None:
        self.ledger = folder / plan.label
        self.plan = plan
        self.result: dict[str, Any] = {}
        self._client = client
        self._process: subprocess.Popen[bytes] | None = None
        self._reading = Reading(self.ledger)
        self._acknowledged = 0

    def acknowledged(self) -> int:
        """How many messages were answered 250 until now."""
        self._acknowledged += sum(attempt.outcome == "acked" for attempt in self._reading.more())
        return self._acknowledged

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


def judged(farm: Callable[[], Farm], steady: Steady, seconds: float = 60) -> Verdict:
    """Read the mailboxes the traffic went to, through the API, until all it was promised is there or ``seconds`` have
    passed."""
    return judge(Reading(steady.ledger).more(), farm, steady.plan.recipients, seconds=seconds)
