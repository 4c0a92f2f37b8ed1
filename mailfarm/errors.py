"""What can go wrong between rooms of the house.

A ``Temporary`` error may pass if the work is tried again, a ``Permanent`` one will not. Unknown means temporary.
The text of an error is for the person who can change something; it holds no secret.
"""

from __future__ import annotations

from collections.abc import Sequence


class MailfarmError(Exception):
    """The base of every error mailfarm raises on purpose."""


class Temporary(MailfarmError):
    """Trying again later may succeed."""


class Permanent(MailfarmError):
    """Trying again will fail in the same way."""


class QueueUnavailable(Temporary):
    """The queue did not confirm; whether it holds the entry is unknown. SMTP 451 4.3.0."""


class QueueRefuses(QueueUnavailable):
    """The queue's server answers, and will not work with us, or may not be trusted with mail: somebody has to change a
    setting."""


class QueueFull(Temporary):
    """The queue has no room: disk, memory budget or backlog. SMTP 452 4.3.1."""


class TooLarge(QueueFull):
    """The queue has no room for so much, and never will have as its servers are set up. SMTP 552 5.3.4."""


class QueueBehind(QueueFull):
    """The queue has room, and more comes in than is worked off. ``by`` says how far, from ``HALF`` on; at 1.0
    less should come in, and nothing at ``NOBODY``. ``allowed`` is how many seconds mail may wait, where that is what
    is exceeded. SMTP 451 4.3.2."""

    HALF = 0.5
    NOBODY = 2.0
    ALLOWED = 60.0

    def __init__(self, text: str, by: float, allowed: float = ALLOWED) -> None:
        super().__init__(text)
        self.by = by
        self.allowed = allowed


class DatabaseUnavailable(Temporary):
    """The database does not answer, is locked, or is full."""


class RowsUnavailable(DatabaseUnavailable):
    """The database is there and works, but not on this: a row that someone keeps locked, a page that is damaged, a
    statement that takes too long. What touches other rows may well be done."""


class SchemaMismatch(Permanent):
    """The database was written by a newer version, or is none of ours."""


class Damaged(Permanent):
    """What is stored is not what was stored: the disk, or someone else, has changed it. A backup may have it whole."""


class LeaseLost(Temporary):
    """The fence is old: another worker has the entry now, or it was ended."""


class NotFound(Permanent):
    """What was asked for does not exist, or belongs to another account."""


class Conflict(Permanent):
    """It cannot be so twice: an address that is taken."""


class Invalid(Permanent):
    """A value breaks its rules; the text names the value and the rule."""


class CursorTooOld(Permanent):
    """Events after the cursor are no longer kept: list again (``resync``)."""

    def __init__(self, oldest: int, last: int) -> None:
        super().__init__(f"events up to {oldest - 1} are no longer kept; list the mailbox and go on from {last}")
        self.oldest = oldest
        self.last = last


class ConfigurationError(Permanent):
    """Every mistake found in the settings, together, one line each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = tuple(mistakes)
