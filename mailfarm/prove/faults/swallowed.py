"""A swallowed 250: mail is accepted, its reply gets lost, and the client sends it again (RFC 1047).

A wire in front of ``mx`` cuts the connection when the reply to the final dot comes. Both copies are kept, and counted,
and the second says of which it is one; with ``MAILFARM_MX_FOLD`` the second is the first.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

from mailfarm.prove.child import until
from mailfarm.prove.ledger import Attempt
from mailfarm.prove.smtp import Letter
from mailfarm.prove.target import Door, Options, Target
from mailfarm.prove.wire import Wires
from mailfarm.prove.wire_link import Direction
from mailfarm.sdk import Farm, FarmError, Inbox

from . import Fault, Tell

LETTERS = 5
_END = b"\r\n.\r\n"
READABLE = 30.0
"""Seconds within which what was acknowledged can be read."""


class Swallow:
    """Cuts a connection at the first reply after the end of data."""

    def __init__(self) -> None:
        self._last = b""

    def passes(self, way: Direction, data: bytes) -> bytes | None:
        """As in Tap."""
        if way == "up":
            self._last = (self._last + data)[-len(_END) :]
        elif self._last == _END:
            return None
        return data


class Swallowed(Fault):
    """``fold`` is the setting."""

    family = "swallowed"
    targets = ("processes", "dev")

    def __init__(self, *, fold: bool) -> None:
        self._fold = fold
        self.name = "swallowed-250-folded" if fold else "swallowed-250"
        self.says = "the reply to the final dot is lost and the client sends again: " + (
            "the second is the first, as a setting wants it" if fold else "both are kept, the second marked as a copy"
        )
        self.options = Options(settings={"MAILFARM_MX_FOLD": "yes"}) if fold else None
        self.short = not fold
        self._wrong: list[str] = []

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        host, port = dice.choice(target.smtp)
        with Farm(target.url, target.token or None, ca=target.cafile or None) as farm, Wires() as wires:
            inbox = farm.mailbox(target.mail.mailboxes[0])
            wire = wires.wire((host, port))
            wire.watch(Swallow)
            for _ in range(LETTERS):
                if self._wrong:
                    return
                letter = target.mail.letter(size=dice.choice((500, 60_000)))
                before = inbox.refresh()
                first = _sent(target, letter, Door(wire.host, wire.port))
                until(lambda: wire.open == 0)
                second = _sent(target, letter, Door(host, port))
                if (first.outcome, second.outcome) != ("unknown", "acked"):
                    self._wrong.append(f"{letter.id} was {first.outcome}, then {second.outcome}")
                else:
                    self._look(inbox, before.cursor, before.messages, letter.id)
        tell(f"{LETTERS} replies were swallowed, and sent again")

    def _look(self, inbox: Inbox, cursor: int, messages: int, subject: str) -> None:
        """In the wait for exactly so many, in the list, in the mailbox's count, and as a copy."""
        wanted = 1 if self._fold else 2
        try:
            inbox.wait_for_all(wanted, subject=subject, after=cursor, timeout=READABLE)
            found = inbox.wait_for_all(wanted, subject=subject, after=cursor, timeout=1, exact=True)
        except FarmError as error:
            self._wrong.append(f"{subject}: {error}")
            return
        listed = [message.id for message in inbox.messages(after=cursor)]
        if listed != [message.id for message in found]:
            self._wrong.append(f"{subject} is listed {len(listed)} times, and waits find {wanted}")
        if inbox.refresh().messages != messages + wanted:
            self._wrong.append(f"{subject}: the mailbox counts {inbox.state.messages}, after {messages} and {wanted}")
        copies = [message.duplicate_of for message in found]
        if copies != [None, *[found[0].id] * (wanted - 1)]:
            self._wrong.append(f"{subject}: {[message.id for message in found]} are marked as copies of {copies}")

    def judge_more(self, target: Target, verdict: object) -> list[str]:
        """As in Fault."""
        return self._wrong


def _sent(target: Target, letter: Letter, door: Door) -> Attempt:
    """What became of the letter once it was not refused any more: there may be no room yet after another fault."""
    deadline = time.monotonic() + READABLE
    while True:
        (attempt,) = target.mail.send(letter, door)
        if attempt.outcome != "refused" or time.monotonic() > deadline:
            return attempt
        time.sleep(0.2)


def faults() -> Iterator[Fault]:
    """As it is by default, and folded."""
    yield Swallowed(fold=False)
    yield Swallowed(fold=True)
