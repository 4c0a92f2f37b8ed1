"""A worker is cut off after it took an entry, its lease ends, another one takes the entry, and the first comes back.

Whoever files first files, the other finds it ``filed``; and the fence of the lease that has ended ends nothing. What
the queue's Redis keeps of an entry's turn (``mailfarm:{inbound}:turns``) is looked at for who holds it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

from mailfarm.prove.child import until
from mailfarm.prove.oracle import Verdict
from mailfarm.prove.target import Target
from mailfarm.prove.wire import Wire
from mailfarm.prove.wire_link import Direction
from mailfarm.sdk import Farm

from . import Fault, Tell
from .stops import LEASES

TURNS = "mailfarm:{inbound}:turns"
WITHIN = 60.0


class Heard:
    """Whether a word went up on a new connection of a wire, and was answered."""

    def __init__(self, wire: Wire, word: str) -> None:
        self._word = word.encode()
        self.answered = False
        wire.watch(lambda: Listening(self))

    def has(self, data: bytes) -> bool:
        """Whether it is said here."""
        return self._word in data


class Listening:
    """One connection."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._said = False

    def passes(self, way: Direction, data: bytes) -> bytes:
        """As in Tap."""
        if way == "up":
            self._said |= self._heard.has(data)
        elif self._said:
            self._heard.answered = True
        return data


class LeaseLost(Fault):
    """``first`` is who files: the worker whose lease has ended, before the one that holds the entry now, or that."""

    family = "partitions"
    traffic = False
    lasts = 6.0
    options = replace(LEASES, settings={"MAILFARM_INBOUND_LEASE": "3"})

    def __init__(self, first: Literal["old", "new"]) -> None:
        self._first = first
        self.short = first == "old"
        self.name = f"lease-lost-{first}-files-first"
        self.says = "a worker is parted from the queue after it took mail; its lease ends and another takes it; " + (
            "it files first and cannot end the entry" if first == "old" else "the other files, and it comes too late"
        )
        self._wrong: list[str] = []

    def inject(self, target: Target, dice: random.Random, tell: Tell) -> None:
        """As in Fault."""
        old, new = target.of("inbound")
        queue: Any = target.of("redis-queue")[0]
        to_queue, old_to_database, new_to_database = (
            target.wire(old.name, queue.name),
            target.wire(old.name, "postgres"),
            target.wire(new.name, "postgres"),
        )

        def fence() -> str:
            """Of the only entry that is handed out; empty when it has ended."""
            turns: str = queue.server.ask("hvals", TURNS)
            return turns.split()[1] if turns else ""

        letter = target.mail.letter()
        until(lambda: not fence(), WITHIN)  # what was sent before can be read a moment before its entry has ended
        new.pause()
        try:
            old_to_database.stall()
            if any(attempt.outcome != "acked" for attempt in target.mail.send(letter)):
                self._wrong.append("mail was not taken while nothing was wrong with the queue")
                return
            lost = until(fence, WITHIN)
            to_queue.stall()
            if self._first == "old":
                new_to_database.stall()
            new.resume()
            until(lambda: fence() != lost, WITHIN)
            taken = fence()
            heard = Heard(to_queue, lost)
            if self._first == "old":
                old_to_database.heal()
                self._until_readable(target, letter.id)
            else:
                until(lambda: not fence(), WITHIN)  # filed, and ended
                self._until_readable(target, letter.id)
                old_to_database.heal()
            to_queue.cut()  # what it says from here on, it says on connections that are listened to
            to_queue.heal()
            until(lambda: heard.answered, WITHIN)
            tell(f"{old.name} said {lost}, which had ended; {new.name} had {taken or 'ended it'}")
            if self._first == "old" and fence() != taken:
                self._wrong.append(f"the fence {lost} of a lease that had ended did something to the entry of {taken}")
            new_to_database.heal()
            until(lambda: not fence(), WITHIN)
        finally:
            new.resume()
            to_queue.watch(None)
            for wire in (to_queue, old_to_database, new_to_database):
                wire.heal()

    def _until_readable(self, target: Target, subject: str) -> None:
        with Farm(target.url, target.token or None, ca=target.cafile or None) as farm:
            inbox = farm.mailbox(target.mail.mailboxes[0])
            until(lambda: any(message.subject == subject for message in inbox.messages()), WITHIN, 0.1)
            time.sleep(0.2)  # and no second one comes at once

    def judge_more(self, target: Target, verdict: Verdict) -> list[str]:
        """As in Fault: nothing is in a mailbox twice, as no attempt here was unknown."""
        twice = [f"{fate.id} was filed {fate.copies} times" for fate in verdict.fates.values() if fate.copies > 1]
        return self._wrong + twice


def faults() -> Iterator[Fault]:
    """Both orders."""
    yield LeaseLost("old")
    yield LeaseLost("new")
