"""The ledger: what clients were told, one line for each attempt and recipient, synced before it counts.

A folder holds the ledgers of one target, a file for each process that sends. An outcome is

    acked      2xx after the end of the content: the server must not lose it (RFC 5321 §6.1)
    refused    before its content was complete, or with 5xx: it must not be there
    unknown    4xx after the end of the content, or no answer: it may be there (RFC 1047)
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Outcome = Literal["acked", "refused", "unknown"]
MOST = 500_000
"""Lines a ledger takes, some 120 MB; a client that finds it full stops sending."""


class LedgerBroken(Exception):
    """What clients were told could not be written down, so the ledger is not whole any more."""


class LedgerFull(LedgerBroken):
    """The ledger has as many lines as it takes."""


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
    """Writes one file, ``name.ledger`` in ``folder``, of ``most`` lines. ``broken`` says why something is not in it."""

    def __init__(self, folder: Path, name: str, most: int = MOST) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.ledger"
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115 - until close
        self._lines = 0
        self._most = most
        self.broken = ""

    def write(self, attempts: Iterable[Attempt]) -> None:
        """Append them, with one sync; all of them or none. Raises LedgerFull, and LedgerBroken where the disk is."""
        lines = [json.dumps(asdict(attempt)).encode() + b"\n" for attempt in attempts]
        if not lines:
            return
        if self._lines + len(lines) > self._most:
            self.broken = f"the ledger {self.path.name} is full: it takes {self._most} lines"
            raise LedgerFull(self.broken)
        before, data = os.fstat(self._file.fileno()).st_size, b"".join(lines)
        try:
            while data:  # a disk that is nearly full takes a part of it
                data = data[self._file.write(data) :]
            os.fdatasync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # half a line would keep the rest from being read
                os.ftruncate(self._file.fileno(), before)
            self.broken = f"the ledger {self.path.name} could not be written: {error.strerror}"
            raise LedgerBroken(self.broken) from error
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
