"""What the consumers of a mailbox's events were told, held against the messages that are in it.

Each message was told to each consumer at least once, by its id. A consumer drops repeats by the event's id, so a repeat
has the id, the change number and the message it had before, and no two events share an id, whoever is told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Told:
    """One event of a message that was filed. ``event`` is its own id, empty where a consumer is given none."""

    number: int
    message: str
    event: str = ""


class Hearing:
    """The events of one mailbox. ``filed`` are the messages that are there, with their change numbers; all of them, if
    it was read to the ``end``."""

    def __init__(self, filed: Mapping[str, int], end: bool = True) -> None:
        self._filed = filed
        self._end = end
        self._last = max(filed.values(), default=0)
        self._numbers: dict[int, str] = {}
        self._events: dict[str, str] = {}
        self._messages: dict[str, Told] = {}

    def judge(self, saw: Sequence[Told]) -> tuple[list[int], list[str]]:
        """The change numbers of messages that one consumer was not told, and what it was told that is not so."""
        wrong: list[str] = []
        for told in saw:
            wrong += [each for each in self._wrong(told) if each not in wrong]
        heard = {told.message for told in saw}
        missed = sorted(number for message, number in self._filed.items() if message not in heard)
        return missed if self._end else [], wrong

    def _wrong(self, told: Told) -> list[str]:
        """What contradicts the mailbox, or what anybody was told before."""
        found = []
        name = f"change {told.number}, message {told.message}"
        number = self._filed.get(told.message)
        if number is None and self._end and told.number <= self._last:  # what came later was not read any more
            found.append(f"{name}: no such message is there")
        elif number is not None and number != told.number:
            found.append(f"{name}: it is change {number}")
        if (other := self._numbers.setdefault(told.number, told.message)) != told.message:
            found.append(f"{name}: the same number as message {other}")
        if told.event:
            if (other := self._events.setdefault(told.event, told.message)) != told.message:
                found.append(f"{name}: event {told.event} was message {other} before, so who drops repeats loses one")
            before = self._messages.setdefault(told.message, told)
            if before.event != told.event:
                found.append(f"{name}: told as event {before.event} and as {told.event}")
        return found
