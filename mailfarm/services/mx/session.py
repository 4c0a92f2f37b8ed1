"""One session's decisions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from mailfarm.inbound.pressure import Sender
from mailfarm.inbound.refusals import Refusal, lines_to
from mailfarm.inbound.transaction import Transaction
from mailfarm.mail.address import Address
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.net.clients import limited_as, network_of
from mailfarm.net.content import SpillContent
from mailfarm.net.smtp_session import Answer, Connection, origin_of
from mailfarm.ports import Origin
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused

from .directory import Wanted
from .folding import key_of

if TYPE_CHECKING:
    from .service import Mx

SERVICE: Final = "mx"
HELLO: Final = Reply(250, "", "")
SENDER_OK: Final = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Ok")
GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
NO_AUTH: Final = Reply(535, "5.7.8", "There is no AUTH here; submit mail on the submission port")
GUESSING: Final = Reply(421, "4.7.0", "Too many unknown recipients", close=True)
TOO_LATE: Final = Reply(451, "4.3.0", "This takes too long; try again later")
MOST_UNKNOWN: Final = 100
ANOTHER_ACCOUNT: Final = Reply(
    452, "4.5.3", "Too many recipients for one transaction; send to this one in a transaction of its own"
)


class MxSession:
    """One session's decisions."""

    __slots__ = (
        "_ahead", "_client", "_connection", "_given", "_gone", "_mx", "_origin", "_transaction", "_unknown_so_far",
        "_visit",
    )  # fmt: skip

    def __init__(self, mx: Mx, connection: Connection) -> None:
        self._mx = mx
        self._connection = connection
        self._client = limited_as(connection.client)
        self._visit = mx.door.visit()
        self._ahead = mx.directory.ahead()
        self._origin: Origin | None = None
        self._transaction: Transaction | None = None
        self._unknown_so_far = 0
        self._given: tuple[bytes, Reply] | None = None  # what the last content was answered, if it may be sent again
        self._gone = False

    def connected(self) -> Answer:
        return self._mx.door.answer(self._connection.client, self._visit)

    def hello(self, request: Hello) -> Answer:
        self._origin = None  # also after STARTTLS, which has a client say it again
        return HELLO

    def authenticate(self, request: Auth) -> Answer:
        return NO_AUTH

    def mail(self, request: Mail) -> Answer:
        self._transaction = Transaction(request, "", self._mx.refusals)
        self._ahead.forget()
        shares = self._mx.shares
        if request.size or not self._mx.accept.pressure.none or (shares.any and not shares.may_begin(self._client)):
            return self._may_begin(request.size or 0)
        return SENDER_OK

    async def _may_begin(self, size: int) -> Reply:
        mx = self._mx
        refused = await mx.shares.at_mail(self._client)
        if refused is None and (size or not mx.accept.pressure.none):
            refused = await mx.accept.room(size, self._sender, count=False)  # RFC 1870 §6.1
        return refused or SENDER_OK

    def rcpt(self, request: Rcpt) -> Answer:
        address = self._whole(request.recipient.address)
        directory = self._mx.directory
        wanted = directory.ask_for(address)
        known = self._ahead.known(wanted)
        if known is None or known[0] is None:
            return self._look_up(request, address)
        if wanted is not address:
            directory.answered(address, wanted, known[0][1])
        return self._decide(request, address, *known[0])

    async def _look_up(self, request: Rcpt, address: str) -> Reply:
        directory = self._mx.directory
        wanted = directory.ask_for(address)
        try:
            led = await self._ahead.get(wanted, self._coming)
        except Exception:
            known = directory.mailboxes.known(address)  # for its own sake, if it was asked for with others
            if known is None:
                raise
            led = known.value
        else:
            if led is not None:
                directory.answered(address, wanted, led[1])
        if led is None:
            led = await self._ahead.get(address, self._coming)
        if not self._connection.awaits(request):
            return TOO_LATE
        assert led is not None
        answer = self._decide(request, address, *led)
        return answer if isinstance(answer, Reply) else await answer

    def _coming(self) -> Iterable[Wanted]:
        ask_for = self._mx.directory.ask_for
        return [ask_for(self._whole(address)) for address in self._connection.ahead()]

    def _decide(self, request: Rcpt, address: str, mailbox: Mailbox | None, live: bool) -> Answer:
        mx, transaction, said = self._mx, self._transaction, request.recipient.address
        assert transaction is not None
        if mailbox is None or not live:
            reply = self._unknown(address, said)
            refusal = self._refusal(transaction, said, reply)
            if mailbox is not None:
                mx.refusals.tell(mailbox.account, refusal, mailbox.id)
            elif account := mx.owner(_domain(address)):
                mx.refusals.tell(account, refusal)
            else:
                transaction.unclaimed.add(refusal)
            self._unknown_so_far += 1
            return reply if self._unknown_so_far < MOST_UNKNOWN else GUESSING
        if transaction.account and transaction.account != mailbox.account:
            return ANOTHER_ACCOUNT
        if mx.shares.any and not mx.shares.may_take(mailbox.id, mailbox.account, transaction.taken):
            return self._take_if_allowed(request, transaction, mailbox)
        transaction.took(said, mailbox.account, mailbox.id)
        return RECIPIENT_OK

    async def _take_if_allowed(self, request: Rcpt, transaction: Transaction, mailbox: Mailbox) -> Reply:
        mx, said = self._mx, request.recipient.address
        refused = await mx.shares.at_rcpt(said, mailbox.id, mailbox.account, transaction.taken)
        if not self._connection.awaits(request):
            return TOO_LATE
        if refused is not None:
            mx.refusals.tell(mailbox.account, self._refusal(transaction, said, refused), mailbox.id)
            return refused
        transaction.took(said, mailbox.account, mailbox.id)
        return RECIPIENT_OK

    def _whole(self, address: str) -> str:
        # RFC 5321 §4.5.1: postmaster needs no domain
        return address if "@" in address else f"{address}@{self._mx.default_domain}"

    def _unknown(self, address: str, said: str) -> Reply:
        if not self._mx.ours(_domain(address)):
            return Reply(550, "5.7.1", f"<{said}>: we do not relay; this is no domain of ours")
        if any(mark in _local(address) for mark in "%!@"):
            # what other relays took for a route to elsewhere
            return Reply(553, "5.7.1", f"<{said}>: we do not relay; routes in an address are not followed")
        return Reply(550, "5.1.1", f"<{said}>: there is no such mailbox")

    async def data(self, envelope: Envelope) -> Reply:
        mx, transaction = self._mx, self._transaction
        refused = await mx.accept.room(envelope.size or 0, self._sender)
        if refused is None and transaction is not None and mx.shares.any:
            refused = await mx.shares.at_data(
                self._client, transaction.account, transaction.mailboxes.values(), transaction.taken
            )
        if refused is not None and transaction is not None and transaction is self._transaction:
            self._all_refused(transaction, envelope, refused)
        return refused or GO_AHEAD

    async def content(self, envelope: Envelope, content: SpillContent) -> Reply:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        self._settle(transaction)
        mailboxes = [transaction.mailboxes[recipient.address] for recipient in envelope.recipients]
        origin = self._origin
        if transaction.smtputf8:
            origin = origin_of(self._connection, SERVICE, smtputf8=True)
        elif origin is None:
            origin = self._origin = origin_of(self._connection, SERVICE)
        folding = self._mx.folding
        if folding is None:
            return await self._mx.accept.take(envelope, content, origin, transaction.account, mailboxes)
        self._given = None
        key = key_of(self._client, transaction.account, envelope, mailboxes, content.sha256)
        reply = await folding.again(key, content)
        if reply is None:
            reply = await self._mx.accept.take(envelope, content, origin, transaction.account, mailboxes)
        if reply.positive:
            self._given = key, reply
            self._unheard()
        return reply

    def _unheard(self) -> None:
        """Remember what this client was given, if it has gone and may not have heard of it."""
        folding, connection = self._mx.folding, self._connection
        if folding is not None and self._gone and self._given is not None and connection.quiet:
            folding.unheard(*self._given)

    def discarded(self, request: Discarded) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            if request.reply is not None:
                self._all_refused(transaction, request.envelope, request.reply)
            self._settle(transaction)

    def refused(self, request: Refused) -> None:
        # whom a MAIL would have been for nobody knows
        if self._transaction is not None and request.recipient:
            self._transaction.unclaimed.add(self._refusal(self._transaction, request.recipient, request.reply))

    def lost(self) -> None:
        self._visit.leave()
        self._gone = True
        self._unheard()
        self._ahead.forget()
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._settle(transaction)

    @property
    def _sender(self) -> Sender:
        network = network_of(self._connection.client)
        return Sender(network, network)

    def _settle(self, transaction: Transaction) -> None:
        transaction.unclaimed.settle(lambda address: self._mx.owner(_domain(address)))

    def _all_refused(self, transaction: Transaction, envelope: Envelope, reply: Reply) -> None:
        transaction.all_refused(envelope, lambda address: self._refusal(transaction, address, reply))

    def _refusal(self, transaction: Transaction, address: str, reply: Reply) -> Refusal:
        lines = lines_to(self._connection.transcript, reply)
        return Refusal(address, transaction.sender, origin_of(self._connection, SERVICE), reply, lines)


def _domain(address: str) -> str:
    return address.rpartition("@")[2]


def _local(address: str) -> str:
    try:
        return Address.parse(address).local
    except ValueError:
        return address.rpartition("@")[0]
