"""What the database could not work on: a row that somebody keeps locked, a page that is damaged.

A batch with mail for such a mailbox would fail as a whole, again and again, and everyone else's mail with it. So the
mailbox is remembered, and what leads to it goes back into the queue for a while, without using up a try. After the
pause one message tries alone, another one each time; when it is filed, all the others are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from mailfarm.ports import Attempt

FIRST_PAUSE = 5.0
"""Seconds until the first message tries again."""
LONGEST_PAUSE = 60.0
"""The pauses double up to this."""
MOST = 10_000
"""Mailboxes and messages that are remembered, about 2 MB; the oldest ones are forgotten."""


class Held:
    """Mailboxes, by id, and messages that lead to several, by spool id, that wait. ``seconds`` is a steady clock."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._until: OrderedDict[str, tuple[float, float, int]] = OrderedDict()  # until when, the pause, how often

    def __len__(self) -> int:
        return len(self._until)

    def __contains__(self, key: str) -> bool:
        return key in self._until

    def key(self, attempt: Attempt) -> str:
        """What is to blame when this one alone cannot be filed: its mailbox, or the message when it has several."""
        leads = set(attempt.spooled.mailboxes)
        return leads.pop() if len(leads) == 1 else attempt.spooled.id

    def why(self, attempt: Attempt) -> str | None:
        """What it waits for, if so."""
        if not self._until:
            return None
        keys = (attempt.spooled.id, *attempt.spooled.mailboxes)
        return next((key for key in keys if key in self._until), None)

    def left(self, key: str) -> float:
        """Seconds until one may try; 0 when that is now."""
        return max(0.0, self._until[key][0] - self._seconds()) if key in self._until else 0.0

    def hold(self, key: str) -> float:
        """It failed, or is about to be tried and nobody else need do that; the seconds until the next time."""
        _, pause, times = self._until.pop(key, (0.0, FIRST_PAUSE / 2, 0))
        pause = min(2 * pause, LONGEST_PAUSE)
        self._until[key] = (self._seconds() + pause, pause, times + 1)
        if len(self._until) > MOST:
            self._until.popitem(last=False)
        return pause

    def choose(self, key: str, among: Sequence[Attempt]) -> Attempt:
        """The one that tries: not always the same, for it may be the one to blame."""
        return among[self._until[key][2] % len(among)] if key in self._until else among[0]

    def free(self, attempt: Attempt) -> None:
        """It was filed."""
        for key in (attempt.spooled.id, *attempt.spooled.mailboxes):
            self._until.pop(key, None)
