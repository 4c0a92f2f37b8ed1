"""A mailbox: where messages are kept, and how long it lives.

==========  ==========================================  ==================================
kind        ends                                        for
==========  ==========================================  ==================================
sandbox     never, unless a lifetime is asked for       an application or a test under work
disposable  after an hour, or the lifetime asked for,   one sign-up, one test run
            two weeks at most
permanent   never                                       people
==========  ==========================================  ==================================

A lifetime counts from the start. A mailbox that has ended takes no mail and is not shown any more, from that very
microsecond by the database's clock; the sweep clears it away soon after, and only then is its address free again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from mailfarm.errors import Invalid

Kind = Literal["sandbox", "disposable", "permanent"]

SECOND = 1_000_000
DEFAULT_LIFETIME = 3600
LONGEST_DISPOSABLE = 14 * 86400
LONGEST = 10 * 365 * 86400
"""No lifetime and no retention is longer, in seconds."""
LATEST_START = 365 * 86400
"""No mailbox starts later than this from now, in seconds."""


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A mailbox as it is stored. Times are microseconds; ``retention`` is the seconds a message is kept, None: as long
    as the mailbox. ``cursor`` is the last change number given out, changes above ``oldest`` are kept as events."""

    id: str
    account: str
    address: str
    kind: Kind
    created_at: int
    starts_at: int
    ends_at: int | None
    retention: int | None
    cursor: int
    oldest: int
    messages: int
    unseen: int

    def live(self, now: int) -> bool:
        """Whether it takes mail."""
        return self.starts_at <= now and not self.ended(now)

    def ended(self, now: int) -> bool:
        """Whether its time is over."""
        return self.ends_at is not None and self.ends_at <= now


@dataclass(frozen=True, slots=True)
class NewMailbox:
    """What is asked of a new mailbox; everything may be left out.

    ``lifetime`` and ``retention`` are seconds, ``starts_at`` is microseconds; a start in the past means now.
    """

    address: str | None = None
    kind: Kind = "sandbox"
    lifetime: int | None = None
    starts_at: int | None = None
    retention: int | None = None


def check_retention(retention: int | None) -> int | None:
    """``retention``, if it keeps its rule. Raises Invalid."""
    return None if retention is None else _span("retention", retention, LONGEST)


def span_of_life(new: NewMailbox, now: int) -> tuple[int, int | None]:
    """When the mailbox starts and ends, in microseconds. Raises Invalid."""
    if new.kind not in get_args(Kind):
        raise Invalid(f"kind is {new.kind!r}; it must be one of {', '.join(get_args(Kind))}")
    start = now if new.starts_at is None else max(new.starts_at, now)
    if start > now + LATEST_START * SECOND:
        raise Invalid(f"starts_at is more than {LATEST_START // 86400} days ahead")
    return start, end_of_life(new.kind, new.lifetime, start)


def end_of_life(kind: Kind, lifetime: int | None, start: int) -> int | None:
    """When a mailbox of ``kind`` ends, if it lives ``lifetime`` seconds from ``start``. Raises Invalid."""
    if kind == "permanent":
        if lifetime is not None:
            raise Invalid("a permanent mailbox has no lifetime; ask for a sandbox or a disposable one")
        return None
    if kind == "disposable":
        lifetime = _span("lifetime", DEFAULT_LIFETIME if lifetime is None else lifetime, LONGEST_DISPOSABLE)
        return start + lifetime * SECOND
    return None if lifetime is None else start + _span("lifetime", lifetime, LONGEST) * SECOND


def check_end(mailbox: Mailbox, ends_at: int | None, now: int) -> int | None:
    """``ends_at`` as the new end of ``mailbox``, if that keeps the rules of its kind. Raises Invalid."""
    if ends_at is None:
        if mailbox.kind == "disposable":
            raise Invalid("a disposable mailbox must end; ask for a lifetime of up to two weeks")
        return None
    if mailbox.kind == "permanent":
        raise Invalid("a permanent mailbox has no end")
    longest = LONGEST_DISPOSABLE if mailbox.kind == "disposable" else LONGEST
    if not 0 < ends_at - max(now, mailbox.starts_at) <= longest * SECOND:
        raise Invalid(f"ends_at must lie ahead, after the mailbox starts, and at most {longest // 86400} days")
    return ends_at


def _span(name: str, seconds: int, longest: int) -> int:
    if not 1 <= seconds <= longest:
        raise Invalid(f"{name} is {seconds} seconds; it must be from 1 to {longest}")
    return seconds
