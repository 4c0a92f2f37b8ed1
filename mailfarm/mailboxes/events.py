"""The changes of a mailbox, as they were: what a feed is filled from and what a client resumes with."""

from __future__ import annotations

from collections.abc import Sequence

from mailfarm.errors import CursorTooOld, Invalid
from mailfarm.events import Change
from mailfarm.ports import Tx

from . import store
from .changes import EVENTS_KEPT, event_from_row

LONGEST_PAGE = 1000

__all__ = ["EVENTS_KEPT", "LONGEST_PAGE", "after"]


async def after(tx: Tx, account: str, mailbox_id: str, after: int, limit: int = 500) -> tuple[Sequence[Change], int]:
    """At most ``limit`` changes after the change number ``after``, in order, and the number of the last of them (or
    ``after`` itself): go on from there.

    A message that has been deleted since shows no more than its id. Raises NotFound; CursorTooOld (its ``oldest`` is
    the first change kept); Invalid for a number that was never given out.
    """
    if not 1 <= limit <= LONGEST_PAGE:
        raise Invalid(f"limit is {limit}; it must be from 1 to {LONGEST_PAGE}")
    mailbox = await store.find(tx, account, mailbox_id)
    if not 0 <= after <= mailbox.cursor:
        raise Invalid(f"after is {after}; the mailbox's last change number is {mailbox.cursor}")
    if after < mailbox.oldest:
        raise CursorTooOld(mailbox.oldest + 1, mailbox.cursor)
    rows = await tx.rows(
        "select e.seq, e.data, m.summary from event e left join message m on m.mailbox = e.mailbox and m.seq = e.seq"
        " where e.mailbox = ? and e.seq > ? order by e.seq limit ?",
        (mailbox_id, after, limit),
    )
    found = [event_from_row(mailbox.account, mailbox_id, seq, data, summary) for seq, data, summary in rows]
    return found, found[-1].seq if found else after
