"""GET /v1/mailboxes/{id}/refusals, /v1/refusals: what was refused lately.

They are heard on the bus and kept here in memory: the last 100 of a mailbox and of an address, and of all the last
20,000, or fewer if their text comes to more than 16 million characters. With what Python adds that is about 60 MB of
memory, 110 if all is beyond ASCII. Not durable, and each process of several has heard them all only since it started.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from klein import Klein

from mailfarm.events import Event, Refused, form
from mailfarm.mail.address import Address
from mailfarm.mailboxes import store
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.mailboxes.match import address_key
from mailfarm.ports import Bus, Database, Subscription

from .access import Access
from .answering import Answer
from .asking import Field
from .routes import Ask, Gives, Resource, route

PER_KEY: Final = 100
MOST: Final = 20_000
MOST_TEXT: Final = 16_000_000


class _Kept:
    """A refusal, where it can be found, and in how many of these places it still is."""

    __slots__ = ("places", "refused", "size")

    def __init__(self, refused: Refused, places: int) -> None:
        self.refused = refused
        self.places = places
        said = (refused.address, refused.sender, refused.text, refused.client, *refused.lines)
        self.size = sum(map(len, said))


class RefusalLog:
    """The last refusals, by account and mailbox or address: ``per_key`` of each, ``most`` and ``most_text`` characters
    in all. The oldest goes first."""

    def __init__(self, bus: Bus, per_key: int = PER_KEY, most: int = MOST, most_text: int = MOST_TEXT) -> None:
        self._bus = bus
        self._per_key = per_key
        self._most = most
        self._most_text = most_text
        self._text = 0
        self._number = 0
        # all by number, and the numbers of each key; both are in order, so the oldest of all is the first of its keys
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._numbers: dict[tuple[str, str], list[int]] = {}
        self._subscription: Subscription | None = None

    async def start(self) -> None:
        """Begin to listen."""
        self._subscription = await self._bus.subscribe("refused", self.hear)

    def stop(self) -> None:
        """Listen no more."""
        if self._subscription is not None:
            self._subscription.stop()
            self._subscription = None

    def hear(self, event: Event) -> None:
        """Keep a refusal. One that belongs to no account is nobody's to see."""
        if not isinstance(event, Refused) or not event.account:
            return
        keys = _keys(event)
        if not keys:
            return
        kept = _Kept(event, len(keys))
        self._number += 1
        self._kept[self._number] = kept
        self._text += kept.size
        for key in keys:
            numbers = self._numbers.setdefault(key, [])
            numbers.append(self._number)
            if len(numbers) > self._per_key:
                self._forget(numbers.pop(0))
        while len(self._kept) > self._most or self._text > self._most_text:
            self._forget_oldest()

    def of_address(self, account: str, address: str) -> Sequence[Refused]:
        """Those of one address, with a +tag or without, the oldest first."""
        return self._found({(account, _at(address_key(address)))})

    def of_mailbox(self, mailbox: Mailbox) -> Sequence[Refused]:
        """Those of one mailbox: mail that would have gone there, and mail for its address of which it is not known
        where it would have gone. The oldest first."""
        keys = {(mailbox.account, mailbox.id), (mailbox.account, _at(address_key(mailbox.address)))}
        return [each for each in self._found(keys) if each.mailbox in ("", mailbox.id)][-self._per_key :]

    def _found(self, keys: set[tuple[str, str]]) -> list[Refused]:
        numbers = sorted({number for key in keys for number in self._numbers.get(key, ())})
        return [self._kept[number].refused for number in numbers]

    def _forget(self, number: int) -> None:
        kept = self._kept[number]
        kept.places -= 1
        if not kept.places:
            self._text -= kept.size
            del self._kept[number]

    def _forget_oldest(self) -> None:
        number, kept = self._kept.popitem(last=False)
        self._text -= kept.size
        for key in _keys(kept.refused):
            numbers = self._numbers[key]
            if numbers[0] == number:
                numbers.pop(0)
                if not numbers:
                    del self._numbers[key]


def _keys(event: Refused) -> set[tuple[str, str]]:
    """Where a refusal is found: at its mailbox, at its address, and at its address without the +tag."""
    keys = set()
    if event.mailbox:
        keys.add((event.account, event.mailbox))
    if event.address:
        keys.add((event.account, _at(address_key(event.address))))
        with suppress(ValueError):  # also what is no address can be refused
            keys.add((event.account, Address.parse(event.address).without_tag.key))
    return keys


def _at(key: str) -> str:
    # an id has no @; what is refused for want of one must not be found at a mailbox
    return key if "@" in key else f"@{key}"


class Refusals(Resource):
    """What was refused for addresses of the caller's account."""

    app = Klein()

    def __init__(self, access: Access, database: Database, log: RefusalLog) -> None:
        super().__init__(access)
        self._database = database
        self._log = log

    @route(
        app,
        "GET",
        "/v1/mailboxes/<id>/refusals",
        "What was refused for a mailbox",
        name="listMailboxRefusals",
        gives=Gives(200, "Refusals"),
        scope="refusals:read",
    )
    async def of_mailbox(self, ask: Ask) -> Answer:
        """The last 100, sampled and not durable, with the SMTP lines that led to each: of mail for its address, with a
        +tag or without, and of mail sent with its own user name and password, whoever it was for."""
        mailbox = await self._database.read(lambda tx: store.find(tx, ask.account, ask.id), once=True)
        return _answer(self._log.of_mailbox(mailbox))

    @route(
        app,
        "GET",
        "/v1/refusals",
        "What was refused for an address",
        name="listRefusals",
        gives=Gives(200, "Refusals"),
        scope="refusals:read",
        query=(Field("address", "text", "The recipient's address.", most=320, required=True),),
    )
    async def of_address(self, ask: Ask) -> Answer:
        """Also of an address that has no mailbox, if the refusal is known to be the account's."""
        return _answer(self._log.of_address(ask.account, ask.query["address"]))


def _answer(refusals: Sequence[Refused]) -> Answer:
    return Answer({"refusals": [form(one) for one in refusals]})
