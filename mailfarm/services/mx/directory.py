"""Which mailbox mail for an address leads to: looked up together, and remembered for a moment."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from mailfarm.events import LOOKUP, Event, MailboxChanged, MailboxClosed, MailboxOpened
from mailfarm.ids import Ids
from mailfarm.inbound.capture import DefaultMailbox, ensure_default
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import key_of
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.net.ahead import Ahead
from mailfarm.net.lookups import MOST, Found, LookupCounter, Lookups
from mailfarm.ports import Bus, Database, Subscription, Tx

Led = tuple[Mailbox | None, bool]
"""The mailbox an address leads to, and whether it lives, by the database's clock."""


class Tagged(NamedTuple):
    """Ask for all addresses ``user+tag@domain`` together: where they lead that have no mailbox of their own. None if
    any may have: ask for each."""

    user: str
    domain: str

    @property
    def base(self) -> str:
        """The address without a tag."""
        return f"{self.user}@{self.domain}"


Wanted = str | Tagged
_USER = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


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
        self.mailboxes: Lookups[Wanted, Led | None] = Lookups(
            "mailbox", self._look, reactor=reactor, clock=clock, counter=counter
        )
        self._hearing: Subscription | None = None
        self._mixed: set[Tagged] = set()  # those that were answered None lately

    def ask_for(self, address: str) -> Wanted:
        """What is asked for first to know where mail for an address leads: itself, or whatever has a tag as it has.

        What is for a tag without a mailbox of its own is never remembered, lest a mailbox that was made for it a moment
        ago be missed; asked together, a hundred recipients ``user+tag`` are one key of one look. While the database is
        away only what this very address led to may be served: see ``answered``."""
        tagged = _tagged(address) if "+" in address else None
        if tagged is None or self.mailboxes.away:
            return address
        if tagged in self._mixed:
            if any(self.mailboxes.known(each, renew=False) is not None for each in (tagged, address)):
                return address
            self._mixed.discard(tagged)
        return tagged

    def answered(self, address: str, wanted: Wanted, live: bool) -> None:
        """Mail for ``address`` leads where that for ``wanted`` does: remember it for when the database is away."""
        if isinstance(wanted, Tagged):
            if live:
                self.mailboxes.share(wanted, address, address.lower())
            else:
                self.mailboxes.forget(address.lower())

    def ahead(self) -> Ahead[Wanted, Led | None]:
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
            key = key_of(event.address)
            if isinstance(event, MailboxOpened):
                # what leads there already was looked up since: a hint that comes late makes nobody unknown
                self.mailboxes.forget(key, _user(key), unless=event.mailbox)
            else:
                self.mailboxes.forget(event.mailbox, key, _user(key))

    async def _look(self, wanted: Sequence[Wanted]) -> Mapping[Wanted, Found[Led | None]]:
        tags = [each for each in wanted if isinstance(each, Tagged)]
        addresses = [each for each in wanted if isinstance(each, str)]

        async def look(tx: Tx) -> dict[Wanted, Found[Led | None]]:
            leads, users = await store.leads(tx, [*addresses, *(each.base for each in tags)], [t.user for t in tags])
            found: dict[Wanted, Found[Led | None]] = {each: _found(leads[each], tx.now) for each in addresses}
            for each in tags:
                if each.user in users:
                    if len(self._mixed) >= MOST:
                        self._mixed.clear()
                    self._mixed.add(each)
                    found[each] = Found(None, tx.now, "yes", None, (each.user,))
                else:
                    found[each] = _found(leads[each.base]._replace(key=each.user), tx.now, "share")
            return found

        found = await self._database.read(look, once=True)
        for address in addresses:
            each = found[address]
            if each.value is not None and not each.value[1] and self._is_postmaster(address):
                # rare enough for a unit of its own, which makes the mailbox if need be
                inbox = await ensure_default(self._database, self._bus, self._ids, self._default)
                found[address] = Found((inbox, True), each.now, "away", inbox.ends_at, (inbox.id, key_of(address)))
        return found

    def _is_postmaster(self, address: str) -> bool:
        return address[:11].lower() == "postmaster@" and self._ours(address[11:])


def _found(lead: store.Lead, now: int, keep: Literal["share"] | None = None) -> Found[Led | None]:
    mailbox = lead.mailbox
    if mailbox is None or not mailbox.live(now):
        return Found((mailbox, False), now)
    # a mailbox for the address with its +tag may be made at any moment
    return Found((mailbox, True), now, keep or ("yes" if lead.own else "away"), mailbox.ends_at, (mailbox.id, lead.key))


@lru_cache(1024)
def _tagged(address: str) -> Tagged | None:
    """For a plain ``user+tag@domain``; None for any other form."""
    user, _, rest = address.lower().partition("+")
    if _USER.fullmatch(user) is None or '"' in rest or "[" in rest or not address.isascii():
        return None
    return Tagged(user, rest.rpartition("@")[2])


def _user(key: str) -> str:
    """The name under which what is said of addresses with a tag is forgotten."""
    return key.partition("+")[0]
