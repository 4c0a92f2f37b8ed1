"""The ledger: what clients were told, one line for each attempt and recipient, synced before it counts.

A folder holds the ledgers of one target, a file for each process that sends. An outcome is

    acked      2xx after the end of the content: the server must not lose it (RFC 5321 §6.1)
    refused    before its content was complete, or with 5xx: it must not be there
    unknown    4xx after the end of the content, or no answer: it may be there (RFC 1047)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["acked", "refused", "unknown"]
MOST = 500_000
"""Lines a ledger takes, some 120 MB; a client that finds it full stops sending."""


class LedgerFull(Exception):
    """The ledger has MOST lines."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try to send one message to one recipient. Times are ``time.monotonic()``, one clock for the machine."""

    id: str
    to: str
    outcome: Outcome
    code: int
    """The reply's; 0 where there was none."""
    sha256: str
    began: float
    ended: float
    server: str
    text: str = ""
    """The reply's after its code where that is not 2xx, the enhanced code first; at most 80 characters."""


class Ledger:
    """Writes one file, ``name.ledger`` in ``folder``."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.ledger"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close
        self._lines = 0

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append them, in one write and one sync. Raises LedgerFull, OSError."""
        lines = [json.dumps(asdict(attempt)).encode() + b"\n" for attempt in attempts]
        if not lines:
            return
        if self._lines + len(lines) > MOST:
            raise LedgerFull(f"{self.path} has {self._lines} lines")
        self._file.write(b"".join(lines))
        os.fdatasync(self._file.fileno())
        self._lines += len(lines)

    def close(self) -> None:
        """No more is written."""
        self._file.close()


class Reading:
    """Reads all ledgers of a folder, and what is appended to them from one call to the next."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._places: dict[Path, int] = {}

    def more(self) -> Iterator[Attempt]:
        """The attempts written since the last call, whole lines only."""
        for path in sorted(self._folder.glob("*.ledger")):
            with open(path, "rb") as file:
                file.seek(self._places.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._places[path] = self._places.get(path, 0) + len(line)
                    yield Attempt(**json.loads(line))
