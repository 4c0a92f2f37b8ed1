"""The one matcher: what a list, a wait and a live subscription filter by.

``from`` and ``to``: a full address is equal, whatever the case, to the header's address or the envelope's; anything
else is found in ``name <address>``. ``subject`` and ``contains`` are found anywhere in the text; ``contains`` looks in
the subject, the text part and the visible text of the HTML part. Upper and lower case are the same (Unicode case
folding) and runs of white space count as one space. An empty criterion asks nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache

from mailfarm.errors import Invalid
from mailfarm.events import Person, Summary
from mailfarm.mail.address import Address

LONGEST = 1000
"""The longest criterion, in characters."""


def fold(text: str) -> str:
    """``text`` as it is compared."""
    return " ".join(text.casefold().split())


@lru_cache(maxsize=4096)
def address_key(text: str) -> str:
    """An address as it is compared, ``fold``ed where it is none by RFC 5321; empty for an empty one."""
    try:
        return Address.parse(text).key
    except ValueError:
        return fold(text)


# No white space, angle brackets or commas: what a person would take for one address.
_FULL = re.compile(r"[^\s<>,@]+@[^\s<>,@]*[^\s<>,@.]")


@dataclass(frozen=True, slots=True)
class Criteria:
    """What a message must meet, all of it."""

    from_: str = ""
    to: str = ""
    subject: str = ""
    contains: str = ""

    def __post_init__(self) -> None:
        for name, value in self.asked():
            if len(value) > LONGEST:
                raise Invalid(f"{name} is longer than {LONGEST} characters")

    def asked(self) -> tuple[tuple[str, str], ...]:
        """The criteria that ask something, by the names REST gives them."""
        every = (("from", self.from_), ("to", self.to), ("subject", self.subject), ("contains", self.contains))
        return tuple((name, value) for name, value in every if value)

    def __bool__(self) -> bool:
        return bool(self.asked())

    @property
    def from_key(self) -> str:
        """The full address ``from`` asks for as it is compared, empty if it asks for something else."""
        return _key(self.from_)

    @property
    def to_key(self) -> str:
        """The same for ``to``."""
        return _key(self.to)


def _key(text: str) -> str:
    return address_key(text) if _FULL.fullmatch(text) else ""


ALL = Criteria()
"""Asks nothing."""


class Matcher:
    """``Criteria`` made ready to be held against many messages."""

    __slots__ = ("_contains", "_from", "_subject", "_to", "criteria")

    def __init__(self, criteria: Criteria) -> None:
        self.criteria = criteria
        self._from = _Who(criteria.from_)
        self._to = _Who(criteria.to)
        self._subject = fold(criteria.subject)
        self._contains = fold(criteria.contains)

    @property
    def needs_text(self) -> bool:
        """Whether some messages cannot be judged by their summary alone."""
        return bool(self._contains)

    def failed(self, summary: Summary, text: Callable[[], str] | str = "") -> tuple[str, ...]:
        """The names of the criteria the message does not meet. ``text`` is its text and visible HTML text, or gives it,
        and is asked only where ``contains`` is not settled by the subject."""
        failed = []
        if self._from and not self._from.among(summary.sender, (summary.from_,) if summary.from_ else ()):
            failed.append("from")
        if self._to and not (
            any(self._to.among(address) for address in summary.recipients)
            or self._to.among("", (*summary.to, *summary.cc))
        ):
            failed.append("to")
        subject = fold(summary.subject) if self._subject or self._contains else ""
        if self._subject not in subject:
            failed.append("subject")
        if self._contains not in subject and self._contains not in fold(text if isinstance(text, str) else text()):
            failed.append("contains")
        return tuple(failed)

    def contained(self, text: str) -> bool:
        """Whether ``contains`` is met by this text, for a message whose subject does not meet it."""
        return self._contains in fold(text)

    def matches(self, summary: Summary, text: Callable[[], str] | str = "") -> bool:
        """Whether the message meets every criterion."""
        return not self.failed(summary, text)


class _Who:
    """A ``from`` or ``to`` criterion."""

    __slots__ = ("_key", "_part")

    def __init__(self, value: str) -> None:
        self._key = _key(value)
        self._part = "" if self._key else fold(value)

    def __bool__(self) -> bool:
        return bool(self._key or self._part)

    def among(self, address: str, people: Iterable[Person] = ()) -> bool:
        if self._key:
            return self._key == address_key(address) or any(self._key == address_key(each.address) for each in people)
        return self._part in fold(address) or any(
            self._part in fold(f"{each.name} <{each.address}>") for each in people
        )


def failed(criteria: Criteria, summary: Summary, text: Callable[[], str] | str = "") -> tuple[str, ...]:
    """``Matcher.failed`` for a single message."""
    return Matcher(criteria).failed(summary, text)


def matches(criteria: Criteria, summary: Summary, text: Callable[[], str] | str = "") -> bool:
    """``Matcher.matches`` for a single message."""
    return Matcher(criteria).matches(summary, text)
