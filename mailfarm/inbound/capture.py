"""Where captured mail goes: into the mailbox whose address a recipient is, or a default one, or a credential's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from mailfarm.errors import Conflict
from mailfarm.ids import Ids
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import key_of
from mailfarm.mailboxes.announce import announce
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.ports import Bus, Database, Tx
from mailfarm.values import value


@dataclass(frozen=True, slots=True)
class DefaultMailbox:
    """Where mail without a credential goes that has no mailbox of its own: an address, and whose it is. Whoever deletes
    that mailbox finds it made again with the next mail."""

    account: str
    address: str


@value
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


@dataclass(frozen=True, slots=True)
class Leads:
    """The mailbox that lives and takes the mail, or None. ``own``: it was meant by its id or its very address; not so
    when it takes what is for no other, or for its address with a +tag."""

    mailbox: Mailbox | None
    own: bool


NOWHERE: Final = Leads(None, False)


async def look(tx: Tx, wanted: Sequence[Wanted], default: DefaultMailbox) -> dict[Wanted, Leads]:
    """Where each leads, by the database's clock. Nowhere for a ``ByAddress`` of the default mailbox's account means
    that this has to be made: ``ensure_default``."""
    addresses = [each.address for each in wanted if isinstance(each, ByAddress)]
    mailboxes = await store.by_addresses(tx, [*addresses, default.address]) if addresses else {}
    named = await store.by_ids(tx, [each.id for each in wanted if isinstance(each, ById)])
    found: dict[Wanted, Leads] = {}
    for each in wanted:
        if isinstance(each, ById):
            found[each] = _by_id(named.get(each.id), each, tx.now)
            continue
        found[each] = _by_address(mailboxes, each.account, each.address, tx.now)
        if found[each].mailbox is None and each.account == default.account:
            found[each] = Leads(_by_address(mailboxes, default.account, default.address, tx.now).mailbox, False)
    return found


async def ensure_default(database: Database, bus: Bus, ids: Ids, default: DefaultMailbox) -> Mailbox:
    """The default mailbox, made and announced if it does not live. For the start, and for mail that came without.
    Raises Conflict: another account has its address."""
    try:
        mailbox, events = await database.unit(lambda tx: store.ensure(tx, ids, default.account, default.address))
    except Conflict:  # taken since we looked, perhaps by a replica of ours that does the same
        mailbox, events = await database.unit(lambda tx: store.ensure(tx, ids, default.account, default.address))
    announce(bus, events)
    return mailbox


def _by_address(mailboxes: Mapping[str, Mailbox | None], account: str, address: str, now: int) -> Leads:
    mailbox = mailboxes[address]
    # another account's mailbox is as good as none
    if mailbox is None or mailbox.account != account or not mailbox.live(now):
        return NOWHERE
    return Leads(mailbox, key_of(mailbox.address) == key_of(address))


def _by_id(mailbox: Mailbox | None, wanted: ById, now: int) -> Leads:
    if mailbox is None or mailbox.account != wanted.account or not mailbox.live(now):
        return NOWHERE
    return Leads(mailbox, True)
