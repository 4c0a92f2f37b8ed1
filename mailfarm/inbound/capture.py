"""Where captured mail goes: into the mailbox whose address a recipient is, or a default one, or a credential's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailfarm.errors import NotFound
from mailfarm.ids import Ids
from mailfarm.mailboxes import store
from mailfarm.mailboxes.announce import announce
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.ports import Bus, Database, Tx


@dataclass(frozen=True, slots=True)
class DefaultMailbox:
    """Where mail without a credential goes that has no mailbox of its own: an address, and whose it is. Whoever deletes
    that mailbox finds it made again with the next mail."""

    account: str
    address: str


@dataclass(frozen=True, slots=True)
class ByAddress:
    """Ask for the live mailbox of a recipient, among an account's; for the default mailbox's account, else that one."""

    address: str
    account: str


@dataclass(frozen=True, slots=True)
class ById:
    """Ask whether an account's mailbox lives."""

    id: str
    account: str


Wanted = ByAddress | ById


async def look(tx: Tx, wanted: Sequence[Wanted], default: DefaultMailbox) -> dict[Wanted, str | None]:
    """The id of the mailbox for each, or None if there is none that lives, by the database's clock. None for a
    ``ByAddress`` of the default mailbox's account means that this has to be made: ``ensure_default``."""
    found: dict[Wanted, str | None] = {}
    inbox: str | None = None
    for each in wanted:
        if isinstance(each, ById):
            found[each] = await _by_id(tx, each)
            continue
        found[each] = await _by_address(tx, each.account, each.address)
        if found[each] is None and each.account == default.account:
            inbox = inbox or await _by_address(tx, default.account, default.address)
            found[each] = inbox
    return found


async def ensure_default(database: Database, bus: Bus, ids: Ids, default: DefaultMailbox) -> Mailbox:
    """The default mailbox, made and announced if it does not live. For the start, and for mail that came without.
    Raises Conflict: another account has its address."""
    mailbox, events = await database.unit(lambda tx: store.ensure(tx, ids, default.account, default.address))
    announce(bus, events)
    return mailbox


async def _by_address(tx: Tx, account: str, address: str) -> str | None:
    mailbox = await store.by_address(tx, address)
    # another account's mailbox is as good as none
    return mailbox.id if mailbox is not None and mailbox.account == account and mailbox.live(tx.now) else None


async def _by_id(tx: Tx, wanted: ById) -> str | None:
    try:
        mailbox = await store.find(tx, wanted.account, wanted.id)
    except NotFound:
        return None
    return mailbox.id if mailbox.live(tx.now) else None
