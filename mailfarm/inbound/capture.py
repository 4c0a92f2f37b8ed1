"""Where captured mail goes: into the mailbox whose address a recipient is, or a default one, or a credential's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mailfarm.errors import NotFound
from mailfarm.mailboxes import store
from mailfarm.ports import Tx


@dataclass(frozen=True, slots=True)
class DefaultMailbox:
    """Where mail without a credential goes that has no mailbox of its own, and whose that is."""

    id: str
    account: str


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
    """The id of the mailbox for each, or None if there is none that lives, by the database's clock."""
    return {
        each: await (_by_id(tx, each) if isinstance(each, ById) else _by_address(tx, each, default)) for each in wanted
    }


async def _by_address(tx: Tx, wanted: ByAddress, default: DefaultMailbox) -> str | None:
    mailbox = await store.by_address(tx, wanted.address)
    # another account's mailbox is as good as none
    if mailbox is not None and mailbox.account == wanted.account and mailbox.live(tx.now):
        return mailbox.id
    return await _by_id(tx, ById(default.id, default.account)) if wanted.account == default.account else None


async def _by_id(tx: Tx, wanted: ById) -> str | None:
    try:
        mailbox = await store.find(tx, wanted.account, wanted.id)
    except NotFound:
        return None
    return mailbox.id if mailbox.live(tx.now) else None
