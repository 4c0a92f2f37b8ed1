"""What the bench asks of a server: to run, to say whose CPU is whose, and to show that it has what it acknowledged."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Self

from corpus import Mail, corpus, halves, stamp

MAILBOXES = 100
"""How many addresses there are: ``box0@mailfarm.test`` and so on."""
INBOX = "inbox@mailfarm.test"
"""Where everything goes that is sent to a server for development."""
ADDRESSES = tuple(f"box{number}@mailfarm.test" for number in range(MAILBOXES))


_SAMPLES = 3


@lru_cache
def _mails(kind: str) -> list[Mail]:
    return corpus(kind)


class Missing(Exception):
    """A peer cannot run here; the text says why, in one line."""


@dataclass(slots=True)
class Sent:
    """What the generator was told 250 for: the ``label`` and numbers of the messages, each in so many ``copies``.
    ``times`` are when each was accepted (monotonic); ``kind`` is the corpus they are from."""

    label: str
    numbers: Sequence[int]
    times: Sequence[float] = ()
    copies: int = 1
    kind: str = "4000"

    def samples(self) -> list[int]:
        """Some numbers, to read what they are of octet for octet."""
        return list(self.numbers[:: max(1, len(self.numbers) // _SAMPLES)])[:_SAMPLES]

    def content(self, number: int) -> bytes:
        """What was sent under a number."""
        mails = _mails(self.kind)
        before, after = halves(mails[number % len(mails)].content)
        return before + stamp(self.label, number) + after

    @property
    def last(self) -> float:
        """When the last one was accepted."""
        return max(self.times, default=0.0)


@dataclass(slots=True)
class Peer(ABC):
    """A server under measurement. Entering its context starts it; leaving ends every process of it.

    ``promise`` says what a message is when 250 is said. ``keeps`` is False where it is thrown away. ``extra`` are
    options of the generator for this server alone, a PROXY header for example.
    """

    name: str
    promise: str
    keeps: bool = False
    smtp: int = 0
    extra: tuple[str, ...] = ()
    parts: dict[str, int] = field(default_factory=dict)
    _running: ExitStack = field(default_factory=ExitStack)

    @abstractmethod
    def start(self) -> None:
        """Start everything; fill in ``smtp`` and ``parts`` (process ids by name). Raises Missing."""

    def ready(self) -> None:  # noqa: B027 - most have nothing to do
        """Called before each measurement."""

    def settled(self, sent: Sent, seconds: float) -> float:
        """Wait until all that was sent is readable; the time (monotonic) at which the last was. Raises SystemExit.
        What keeps nothing has nothing to wait for."""
        return sent.last

    def check(self, sent: Sent) -> str:
        """Read back what was acknowledged: what is wrong with it, or nothing. Called after ``settled``."""
        return ""

    def clean(self) -> None:  # noqa: B027 - most have nothing to do
        """Forget what was sent, where that keeps the next measurement from being slower than this one."""

    def facts(self) -> Mapping[str, Any]:
        """Versions and settings worth keeping with the figures."""
        return {}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._running.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()
