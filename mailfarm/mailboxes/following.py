"""Mail whose mailbox has gone while an address of it leads to another one: it was deleted and made again.

A listener remembers for up to five seconds where an address leads, and the bus may lose the event that would have told
it. What it accepts then is spooled for a mailbox that is no more; 250 was said for an address that lives.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from mailfarm.ports import Spooled, Tx

from . import store
from .changes import marks
from .mailbox import Mailbox

AT_ONCE = 500
"""Addresses in one statement."""


async def follow_addresses(tx: Tx, mail: Sequence[Spooled], there: Container[str]) -> Mapping[str, tuple[str, ...]]:
    """By spool id, the mailboxes of all mail that leads elsewhere now. ``there`` are the mailboxes that live. Within
    the account of the mail only, and never away from a mailbox that lives."""
    gone = [each for each in mail if any(mailbox not in there for mailbox in each.mailboxes)]
    if not gone:
        return {}
    # A credential with a mailbox of its own means that one, whatever the recipients are, and goes with it.
    shown = list({each.origin.credential for each in gone} - {""})
    free = {""}
    if shown:
        rows = await tx.rows(f"select id from credential where id in ({marks(shown)}) and mailbox is null", shown)
        free |= {row[0] for row in rows}
    gone = [each for each in gone if each.origin.credential in free]
    asked = sorted({address for each in gone for address, mailbox in _leads(each) if mailbox not in there})
    found: dict[str, Mailbox | None] = {}
    for start in range(0, len(asked), AT_ONCE):
        found |= await store.by_addresses(tx, asked[start : start + AT_ONCE])

    def now(each: Spooled, address: str, mailbox: str) -> str:
        other = None if mailbox in there else found.get(address)
        return other.id if other is not None and other.account == each.account and other.live(tx.now) else mailbox

    moved = {each.id: tuple([now(each, *lead) for lead in _leads(each)]) for each in gone}
    return {each.id: moved[each.id] for each in gone if moved[each.id] != each.mailboxes}


def _leads(mail: Spooled) -> Sequence[tuple[str, str]]:
    return [
        (recipient.address, mailbox)
        for recipient, mailbox in zip(mail.envelope.recipients, mail.mailboxes, strict=True)
    ]
