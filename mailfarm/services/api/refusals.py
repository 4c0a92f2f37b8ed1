"""GET /v1/mailboxes/{id}/refusals, /v1/refusals: what was refused lately.

They are heard on the bus and kept here in memory: the last 100 of an address, the 10,000 addresses that last had one.
Not durable, and each process of several has heard them all only since it started.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Sequence

from klein import Klein

from mailfarm.events import Event, Refused, form
from mailfarm.mailboxes import store
from mailfarm.mailboxes.match import address_key
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Subscription

from .access import Access
from .answering import Answer
from .asking import Field
from .routes import Ask, Gives, Resource, route

PER_ADDRESS = 100
ADDRESSES = 10_000


class RefusalLog:
    """The last refusals, by account and address."""

    def __init__(self, bus: Bus, per_address: int = PER_ADDRESS, addresses: int = ADDRESSES) -> None:
        self._bus = bus
        self._per_address = per_address
        self._most = addresses
        self._kept: OrderedDict[tuple[str, str], deque[Refused]] = OrderedDict()
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
        key = (event.account, address_key(event.address))
        kept = self._kept.get(key)
        if kept is None:
            kept = self._kept[key] = deque(maxlen=self._per_address)
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        kept.append(event)

    def of(self, account: str, address: str) -> Sequence[Refused]:
        """Those of one address, the oldest first."""
        return tuple(self._kept.get((account, address_key(address)), ()))


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
        """The last 100, sampled and not durable, with the SMTP lines that led to each."""
        mailbox = await self._database.read(lambda tx: store.find(tx, ask.account, ask.id))
        return self._answer(ask.account, mailbox.address)

    @route(
        app,
        "GET",
        "/v1/refusals",
        "What was refused for an address",
        name="listRefusals",
        gives=Gives(200, "Refusals"),
        scope="refusals:read",
        query=(Field("address", "text", "The recipient's address.", default="", most=320),),
    )
    async def of_address(self, ask: Ask) -> Answer:
        """Also of an address that has no mailbox, if the refusal is known to be the account's."""
        if not ask.query["address"]:
            raise Problem("invalid-value", "address is missing", name="address")
        return self._answer(ask.account, ask.query["address"])

    def _answer(self, account: str, address: str) -> Answer:
        return Answer({"refusals": [form(one) for one in self._log.of(account, address)]})
