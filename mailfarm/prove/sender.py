"""Mail of our own, beside the steady traffic: probes, and what a fault sends itself. In the ledger as all else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

from .ledger import Attempt, Ledger, LedgerBroken
from .smtp import TIMEOUT, Letter, compose, send_once, unsettled
from .target import Door


class Sender:
    """Sends one message after the other and waits for the answer. ``mailboxes`` are those the oracle reads."""

    def __init__(self, folder: Path, mailboxes: Sequence[str], doors: Sequence[tuple[str, int]]) -> None:
        self.mailboxes = list(mailboxes)
        self._doors = [Door(host, port) for host, port in doors]
        self._ledger = Ledger(folder, "own")
        self._number = 0
        self._under_way: dict[str, tuple[Letter, Door]] = {}

    def letter(self, to: str = "", size: int = 500) -> Letter:
        """A new message for a mailbox, the first one if none is named."""
        self._number += 1
        name, to = f"own-{self._number}", to or self.mailboxes[0]
        return Letter(name, (to,), compose(name, [to], size, Random(name)))

    def send(self, letter: Letter, door: Door | None = None, timeout: float = TIMEOUT) -> list[Attempt]:
        """Send it once, by a connection of its own to ``door``, or to the mx listeners in turn; what came of it. Sent
        again it is the same message, as of a client that does not know what became of it. Raises LedgerBroken."""
        door = door or self._doors[self._number % len(self._doors)]
        self._under_way[letter.id] = letter, door
        attempts = asyncio.run(send_once(letter, door, timeout))
        self._ledger.write(attempts)
        del self._under_way[letter.id]
        return attempts

    def finish(self) -> None:
        """What was interrupted while it was sent may be there: write that down."""
        now = time.monotonic()
        for letter, door in self._under_way.values():
            with suppress(LedgerBroken):
                self._ledger.write(unsettled(letter, door, now))
        self._under_way.clear()

    @property
    def broken(self) -> str:
        """Why something that was sent is not in the ledger; empty if all is."""
        return self._ledger.broken

    def close(self) -> None:
        """No more is sent."""
        self._ledger.close()
