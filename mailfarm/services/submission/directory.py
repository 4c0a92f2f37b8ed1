"""Where captured mail goes: looked up together, and remembered for a moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mailfarm.events import LOOKUP, Event, MailboxChanged, MailboxClosed, MailboxOpened
from mailfarm.ids import Ids
from mailfarm.inbound.capture import ByAddress, DefaultMailbox, Leads, Wanted, ensure_default, look
from mailfarm.mailboxes.addresses import key_of
from mailfarm.net.ahead import Ahead
from mailfarm.net.lookups import Found, LookupCounter, Lookups
from mailfarm.ports import Bus, Database, Subscription, Tx


class Directory:
    """Asks for the id of the mailbox, None if there is none that lives. ``default`` takes what no other does."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        ids: Ids,
        default: DefaultMailbox,
        reactor: Any,
        clock: Callable[[], int],
        counter: LookupCounter,
    ) -> None:
        self._database = database
        self._reactor = reactor
        self._bus = bus
        self._ids = ids
        self._default = default
        self.mailboxes: Lookups[Wanted, str | None] = Lookups(
            "mailbox", self._look, reactor=reactor, clock=clock, counter=counter
        )
        self._hearing: Subscription | None = None

    def ahead(self) -> Ahead[Wanted, str | None]:
        """The look-ups of one session."""
        return Ahead(self.mailboxes, self._reactor)

    async def start(self) -> None:
        """Hear what ends a look-up."""
        if self._hearing is None:
            self._hearing = await self._bus.subscribe(LOOKUP, self._hear, self.mailboxes.doubt)

    def stop(self) -> None:
        """Hear no more."""
        if self._hearing is not None:
            self._hearing.stop()
            self._hearing = None

    async def get(self, wanted: Wanted) -> str | None:
        """The id of the mailbox. Raises DatabaseUnavailable; Conflict (another account has the default address)."""
        return await self.mailboxes.get(wanted)

    def _hear(self, event: Event) -> None:
        if isinstance(event, MailboxOpened):
            # what leads there already was looked up since: a hint that comes late makes nobody unknown
            self.mailboxes.forget(key_of(event.address), unless=event.mailbox)
        elif isinstance(event, MailboxClosed | MailboxChanged):
            self.mailboxes.forget(event.mailbox, key_of(event.address))

    async def _look(self, wanted: Sequence[Wanted]) -> Mapping[Wanted, Found[str | None]]:
        async def work(tx: Tx) -> tuple[Mapping[Wanted, Leads], int]:
            return await look(tx, wanted, self._default), tx.now

        leads, now = await self._database.read(work, once=True)
        found = {each: _found(each, leads[each], now) for each in wanted}
        missing = [
            each
            for each in wanted
            if leads[each].mailbox is None and isinstance(each, ByAddress) and each.account == self._default.account
        ]
        if missing:  # somebody deleted the default mailbox
            inbox = await ensure_default(self._database, self._bus, self._ids, self._default)
            found.update({each: _found(each, Leads(inbox, False), now) for each in missing})
        return found


def _found(wanted: Wanted, leads: Leads, now: int) -> Found[str | None]:
    if leads.mailbox is None:
        return Found(None, now)
    mailbox = leads.mailbox
    about = (mailbox.id, key_of(wanted.address)) if isinstance(wanted, ByAddress) else (mailbox.id,)
    # a mailbox for the very address may be made at any moment
    return Found(mailbox.id, now, "yes" if leads.own else "away", mailbox.ends_at, about)
