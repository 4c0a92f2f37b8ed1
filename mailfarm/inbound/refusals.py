"""What was refused, told to whoever wonders why a mail did not come. Sampled and bounded: a hint, no ledger."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from mailfarm.events import Refused
from mailfarm.ids import Ids
from mailfarm.limits import Limit, gcra
from mailfarm.mail.reply import Reply
from mailfarm.ports import Bus, Origin

TOPIC: Final = "refused"
PER_ADDRESS: Final = Limit(10, 60)
IN_ALL: Final = Limit(1000, 60)
ADDRESSES: Final = 10_000
"""Addresses remembered; past it the one that was longest not told of is forgotten."""
LINES: Final = 8
"""Told of the SMTP lines that led to a refusal: the last ones."""
WIDTH: Final = 300
"""Characters told of each line, and of each other text."""
UNCLAIMED: Final = 10
"""Refusals a transaction keeps until it is known whose they are."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What is known of a refusal where it happens. ``address`` is the recipient as it was said, or empty."""

    address: str
    sender: str
    origin: Origin
    reply: Reply
    lines: tuple[str, ...]


def lines_to(transcript: tuple[str, ...], reply: Reply) -> tuple[str, ...]:
    """The SMTP lines that led to ``reply``, and it, which the transcript has not yet when the host decides."""
    last = f"S: {reply}"
    return transcript if transcript[-1:] == (last,) else (*transcript, last)


class Refusals:
    """Publishes ``Refused`` events of one service. ``clock`` gives microseconds."""

    def __init__(self, bus: Bus, ids: Ids, clock: Callable[[], int], service: str) -> None:
        self._bus = bus
        self._ids = ids
        self._clock = clock
        self._service = service
        self._tats: OrderedDict[str, float] = OrderedDict()
        self._tat = 0.0
        self.dropped = 0
        """Refusals that were not told, because there were too many."""

    def tell(self, account: str, refusal: Refusal, mailbox: str = "") -> bool:
        """Tell ``account`` of a refusal; ``mailbox`` is the id of the mailbox it concerns, if that is known.

        Whether it was told: it is not when the address, or all, had their share, nor when nobody may see it
        (``account`` is empty).
        """
        if not account:
            return False
        now = self._clock()
        # what names no recipient has its share by mailbox
        key = refusal.address.lower() or mailbox
        wait, tat = gcra(self._tats.get(key, 0.0), now / 1e6, PER_ADDRESS)
        wait_all, tat_all = gcra(self._tat, now / 1e6, IN_ALL)
        if wait or wait_all:
            self.dropped += 1
            return False
        self._tat = tat_all
        self._tats[key] = tat
        self._tats.move_to_end(key)
        if len(self._tats) > ADDRESSES:
            self._tats.popitem(last=False)
        self._bus.publish(
            TOPIC,
            Refused(
                id=self._ids.new(),
                account=account,
                at=now,
                service=self._service,
                client=refusal.origin.client,
                address=refusal.address[:WIDTH],
                sender=refusal.sender[:WIDTH],
                code=refusal.reply.code,
                enhanced=refusal.reply.enhanced,
                text=refusal.reply.text[:WIDTH],
                lines=tuple(line[:WIDTH] for line in refusal.lines[-LINES:]),
                mailbox=mailbox,
            ),
        )
        return True


class Unclaimed:
    """Refusals of one transaction of which it is not known yet whose they are: the recipient that is accepted next, or
    was last, says it. At most ``UNCLAIMED`` are kept."""

    __slots__ = ("_account", "_kept", "_mailbox", "_refusals")

    def __init__(self, refusals: Refusals) -> None:
        self._refusals = refusals
        self._account = ""
        self._mailbox = ""
        self._kept: list[Refusal] = []

    def add(self, refusal: Refusal) -> None:
        """One more."""
        if self._account:
            self._refusals.tell(self._account, refusal, self._mailbox)
        elif len(self._kept) < UNCLAIMED:
            self._kept.append(refusal)

    def claim(self, account: str, mailbox: str) -> None:
        """A recipient was accepted: this is the account, and this its mailbox."""
        self._account, self._mailbox = account, mailbox
        if self._kept:
            self.settle(lambda address: account, mailbox)

    def settle(self, owner: Callable[[str], str], mailbox: str = "") -> None:
        """The transaction is over, or its mailbox known: tell what is kept; ``owner`` gives the account for each
        address."""
        kept, self._kept = self._kept, []
        for refusal in kept:
            self._refusals.tell(owner(refusal.address), refusal, mailbox)
