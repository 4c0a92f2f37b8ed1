"""Which mailbox mail for an address leads to: looked up together, and remembered for a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailfarm.events import LOOKUP, Event, MailboxChanged, MailboxClosed, MailboxOpened
from mailfarm.ids import Ids
from mailfarm.inbound.capture import DefaultMailbox, ensure_default
from mailfarm.mail.address import Address
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import key_of
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.net.ahead import Ahead
from mailfarm.net.lookups import Found, LookupCounter, Lookups
from mailfarm.ports import Bus, Database, Subscription, Tx

Led = tuple[Mailbox | None, bool]
"""The mailbox an address leads to, and whether it lives, by the database's clock."""


class Directory:
    """Asks for mailboxes by address. ``ours`` says whether a domain is; ``default`` takes what is for a postmaster
    without a mailbox."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        ids: Ids,
        default: DefaultMailbox,
        ours: Callable[[str], bool],
        reactor: Any,
        clock: Callable[[], int],
        counter: LookupCounter,
    ) -> None:
        self._database = database
        self._reactor = reactor
        self._bus = bus
        self._ids = ids
        self._default = default
        self._ours = ours
        self.mailboxes: Lookups[str, Led] = Lookups(
            "mailbox", self._look, reactor=reactor, clock=clock, counter=counter
        )
        self._hearing: Subscription | None = None

    def ahead(self) -> Ahead[str, Led]:
        """The look-ups of one session."""
        return Ahead(self.mailboxes, self._reactor)

    async def start(self) -> None:
        """Hear what ends a look-up."""
        self._hearing = await self._bus.subscribe(LOOKUP, self._hear, self.mailboxes.doubt)

    def stop(self) -> None:
        """Hear no more."""
        if self._hearing is not None:
            self._hearing.stop()

    def _hear(self, event: Event) -> None:
        if isinstance(event, MailboxOpened | MailboxClosed | MailboxChanged):
            self.mailboxes.forget(event.mailbox, key_of(event.address))

    async def _look(self, addresses: Sequence[str]) -> Mapping[str, Found[Led]]:
        async def look(tx: Tx) -> dict[str, Found[Led]]:
            mailboxes = await store.by_addresses(tx, addresses)
            return {address: _found(address, mailboxes[address], tx.now) for address in addresses}

        found = await self._database.read(look, once=True)
        for address, each in found.items():
            if not each.value[1] and self._is_postmaster(address):
                # rare enough for a unit of its own, which makes the mailbox if need be
                inbox = await ensure_default(self._database, self._bus, self._ids, self._default)
                found[address] = Found((inbox, True), each.now, "away", inbox.ends_at, (inbox.id, key_of(address)))
        return found

    def _is_postmaster(self, address: str) -> bool:
        return address[:11].lower() == "postmaster@" and self._ours(address[11:])


def _found(address: str, mailbox: Mailbox | None, now: int) -> Found[Led]:
    if mailbox is None or not mailbox.live(now):
        return Found((mailbox, False), now)
    key = key_of(address)
    # a mailbox for the address with its +tag may be made at any moment
    own = key == Address.parse(mailbox.address).key
    return Found((mailbox, True), now, "yes" if own else "away", mailbox.ends_at, (mailbox.id, key))
