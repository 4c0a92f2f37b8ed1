"""Mailboxes in the database. Every function runs inside a unit and awaits only its ``tx``.

A mailbox goes in two steps. *Closing* it is one small unit: it has ended, its address is free, its credentials are
gone, nobody finds it any more. *Clearing* away what was in it takes as many units of bounded work as it
takes, and leaves nothing behind. A closed mailbox has an ``address_key`` that no address has, ``!`` and its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

from mailfarm.errors import Conflict, Invalid, NotFound
from mailfarm.events import MailboxClosed, MailboxOpened
from mailfarm.ids import Ids
from mailfarm.mail.address import Address
from mailfarm.ports import NOW, Rows, Tx

from . import addresses, changes
from .addresses import Domains
from .mailbox import Mailbox, NewMailbox, check_end, check_retention, end_of_life, span_of_life


class _Keep(Enum):
    KEEP = "keep"


KEEP: Final = _Keep.KEEP
"""Leave this as it is."""
Keep = Literal[_Keep.KEEP]

_COLUMNS = "id, account, address, kind, created_at, starts_at, ends_at, retention, seq, oldest, messages, unseen"
_OPEN = "(ends_at is null or ends_at > ?)"
_DUE = "ends_at <= ? and address_key not like '!%'"
_BY_KEYS = f"select address_key, {_COLUMNS} from mailbox where address_key in (select v.column1 from (values ?) as v)"
_TAGGED = (
    "select v.column1 from (values ?) as v where exists"
    " (select 1 from mailbox m where m.address_key > v.column2 and m.address_key < v.column3)"
)
CLEAR_EVENTS = 5000
"""How many events one step of clearing deletes at most."""


async def create(tx: Tx, ids: Ids, account: str, new: NewMailbox, domains: Domains) -> tuple[Mailbox, MailboxOpened]:
    """A new mailbox. Raises Invalid, Conflict (the address is taken)."""
    starts_at, ends_at = span_of_life(new, tx.now)
    check_retention(new.retention)
    address = addresses.made(ids, domains) if new.address is None else addresses.given(new.address, domains)
    plain = address.without_tag
    if plain.key != address.key:
        # mail for user+tag goes to the mailbox of user, unless there is one for that very address: to make it must not
        # be a way to another account's mail
        holder = await tx.row("select account from mailbox where address_key = ?", (plain.key,))
        if holder is not None and holder[0] != account:
            raise Conflict(f"the address {address} is taken")
    made = Mailbox(ids.new(), account, str(address), new.kind, tx.now, starts_at, ends_at, new.retention, 0, 0, 0, 0)
    columns = ("id", "account", "address", "address_key", "kind", "created_at", "starts_at", "ends_at", "retention")
    row = (made.id, account, made.address, address.key, made.kind, tx.now, starts_at, ends_at, new.retention)
    if not await tx.insert("mailbox", columns, [row], ignore=True):
        held = await by_address(tx, str(address))
        if held is not None and held.ended(tx.now):
            raise Conflict(f"the mailbox of {address} has ended and is being cleared away; try again in a minute")
        raise Conflict(f"the address {address} is taken")
    return made, MailboxOpened(ids.new(), account, made.id, tx.now, made.address)


async def ensure(
    tx: Tx, ids: Ids, account: str, address: str
) -> tuple[Mailbox, Sequence[MailboxOpened | MailboxClosed]]:
    """The account's mailbox of ``address``, living: a permanent one is made if there is none, one that has ended makes
    room for it, and one that would start later starts now. With what is to be announced. Raises Conflict."""
    found = await by_address(tx, address)
    events: list[MailboxOpened | MailboxClosed] = []
    if (
        found is not None
        and found.account == account
        and Address.parse(found.address).key == Address.parse(address).key
    ):
        if found.live(tx.now):
            return found, ()
        if not found.ended(tx.now):
            await tx.execute("update mailbox set starts_at = ? where id = ?", (tx.now, found.id))
            return await find(tx, account, found.id), ()
        events.append(await _close(tx, ids, found.id, found.account, found.address))
    made, opened = await create(tx, ids, account, NewMailbox(address, "permanent"), Domains((), any=True))
    return made, (*events, opened)


async def find(tx: Tx, account: str, id: str) -> Mailbox:
    """The account's mailbox of this id, unless it has ended. Raises NotFound."""
    return found(id, *await tx.several([finding(tx, account, id)]))


def finding(tx: Tx, account: str, id: str) -> tuple[str, Sequence[Any]]:
    """The question of ``find``, to be asked together with others."""
    return f"select {_COLUMNS} from mailbox where id = ? and account = ? and {_OPEN}", (id, account, tx.now or NOW)


def found(id: str, rows: Sequence[tuple[Any, ...]]) -> Mailbox:
    """What it was answered. Raises NotFound."""
    if not rows:
        raise NotFound(f"there is no mailbox {id}")
    return Mailbox(*rows[0])


async def by_ids(tx: Tx, ids: Sequence[str]) -> dict[str, Mailbox]:
    """The mailboxes with these ids, of whatever accounts, that have not ended; some hundred at once, with one query."""
    sql = f"select {_COLUMNS} from mailbox where id in (select v.column1 from (values ?) as v) and {_OPEN}"
    (rows,) = await tx.several([(sql, [Rows([(id,) for id in ids]), tx.now or NOW])]) if ids else ((),)
    return {row[0]: Mailbox(*row) for row in rows}


async def by_address(tx: Tx, address: str) -> Mailbox | None:
    """The mailbox mail for ``address`` leads to, of any account: the one with that very address, else the one without
    the +tag. Also one that does not live yet or any more: ask ``Mailbox.live``."""
    return (await by_addresses(tx, [address]))[address]


async def by_addresses(tx: Tx, addresses_: Sequence[str]) -> dict[str, Mailbox | None]:
    """The same for some hundred addresses at once, with one query."""
    return {address: lead.mailbox for address, lead in (await leads(tx, addresses_))[0].items()}


class Lead(NamedTuple):
    """Where mail for an address leads. ``key`` is the address as it is compared; ``own``: the mailbox has that very
    one."""

    mailbox: Mailbox | None
    key: str
    own: bool


async def leads(tx: Tx, addresses_: Sequence[str], users: Sequence[str] = ()) -> tuple[dict[str, Lead], set[str]]:
    """The same with more to it; and those of ``users`` (what stands before the first +, as it is compared) of whom
    there is a mailbox with a +tag, in whatever domain. Asked together."""
    wanted = {address: _keys(address) for address in addresses_}
    keys = dict.fromkeys(key for some in wanted.values() for key in some)
    questions: list[tuple[str, Sequence[Any]]] = []
    if keys:
        questions.append((_BY_KEYS, [Rows([(key,) for key in keys])]))
    if users:
        # "," comes behind "+"
        questions.append((_TAGGED, [Rows([(user, f"{user}+", f"{user},") for user in users])]))
    answers = [*await tx.several(questions)] if questions else []
    tagged = {row[0] for row in answers.pop()} if users else set()
    found = {row[0]: Mailbox(*row[1:]) for rows in answers for row in rows}
    led: dict[str, Lead] = {}
    for address, some in wanted.items():
        key = next((key for key in some if key in found), None)
        own = some[0] if some else address
        led[address] = Lead(None, own, False) if key is None else Lead(found[key], own, key == own)
    return led, tagged


def _keys(address: str) -> tuple[str, ...]:
    """Under which keys an address may be found, the best first."""
    try:
        parsed = Address.parse(address)
    except ValueError:
        return ()
    return tuple(dict.fromkeys((parsed.key, parsed.without_tag.key)))


async def list_(
    tx: Tx, account: str, *, address: str | None = None, after: str = "", limit: int = 100
) -> Sequence[Mailbox]:
    """The account's mailboxes that have not ended, by id, a page at a time; with ``address``, at most the one that has
    this very address."""
    sql, params = f"select {_COLUMNS} from mailbox where account = ? and id > ? and {_OPEN}", [account, after, tx.now]
    if address is not None:
        try:
            key = Address.parse(address).key
        except ValueError:
            return []
        sql, params = f"{sql} and address_key = ?", [*params, key]
    return [Mailbox(*row) for row in await tx.rows(f"{sql} order by id limit ?", [*params, limit])]


async def change(
    tx: Tx,
    account: str,
    id: str,
    *,
    lifetime: int | Keep | None = KEEP,
    ends_at: int | Keep | None = KEEP,
    retention: int | Keep | None = KEEP,
) -> Mailbox:
    """Change when the mailbox ends (``lifetime`` seconds from now, or at ``ends_at`` microseconds; None: never) and how
    long messages filed from now on are kept. Raises NotFound, Invalid."""
    await tx.lock("mailbox", [id])
    mailbox = await find(tx, account, id)
    end, kept = mailbox.ends_at, mailbox.retention
    if lifetime is not KEEP and ends_at is not KEEP:
        raise Invalid("lifetime and ends_at say the same thing; give one of them")
    if lifetime is not KEEP:
        end = end_of_life(mailbox.kind, lifetime, max(tx.now, mailbox.starts_at))
    elif ends_at is not KEEP:
        end = check_end(mailbox, ends_at, tx.now)
    if retention is not KEEP:
        kept = check_retention(retention)
    await tx.execute("update mailbox set ends_at = ?, retention = ? where id = ?", (end, kept, id))
    return await find(tx, account, id)


async def delete(tx: Tx, ids: Ids, account: str, id: str) -> MailboxClosed:
    """Close a mailbox, and clear it in the same unit if that is little work; the sweep does the rest. Raises
    NotFound."""
    await tx.lock("mailbox", [id])
    mailbox = await find(tx, account, id)
    closed = await _close(tx, ids, mailbox.id, mailbox.account, mailbox.address)
    await _clear(tx, id)
    return closed


async def expire_mailboxes(tx: Tx, ids: Ids, limit: int) -> tuple[MailboxClosed, ...]:
    """Close at most ``limit`` mailboxes that have ended. Call again until it returns none."""
    await tx.lock("mailbox", ())
    rows = await tx.rows(f"select id from mailbox where {_DUE} order by ends_at limit ?", (tx.now, limit))
    due = [row[0] for row in rows]
    if not due:
        return ()
    await tx.lock("mailbox", due)
    # another sweep may have closed some meanwhile, and a reader may have given one more time
    rows = await tx.rows(
        f"select id, account, address from mailbox where {_DUE} and id in ({changes.marks(due)}) order by ends_at",
        (tx.now, *due),
    )
    return tuple([await _close(tx, ids, *row) for row in rows])


async def clear_closed(tx: Tx) -> bool:
    """One step of clearing a closed mailbox away. False when there is nothing left to clear."""
    await tx.lock("mailbox", ())
    row = await tx.row(
        "select id from mailbox where ends_at <= ? and address_key like '!%' order by ends_at, id limit 1", (tx.now,)
    )
    if row is None:
        return False
    await tx.lock("mailbox", row)  # two sweeps at one mailbox take turns
    await _clear(tx, row[0])
    return True


async def _close(tx: Tx, ids: Ids, id: str, account: str, address: str) -> MailboxClosed:
    # 0, not now: a clock that is set back must not bring a closed mailbox to life
    await tx.execute("update mailbox set ends_at = 0, address_key = ? where id = ?", (f"!{id}", id))
    await tx.execute("delete from credential where mailbox = ?", (id,))
    return MailboxClosed(ids.new(), account, id, tx.now, address)


async def _clear(tx: Tx, id: str) -> None:
    """Delete some messages, or some events, and with the last of them the mailbox itself."""
    if await changes.remove_some(tx, id):
        return
    some = "select seq from event where mailbox = ? order by seq limit ?"
    removed = await tx.execute(f"delete from event where mailbox = ? and seq in ({some})", (id, id, CLEAR_EVENTS))
    if removed < CLEAR_EVENTS:
        await tx.execute("delete from mailbox where id = ?", (id,))
