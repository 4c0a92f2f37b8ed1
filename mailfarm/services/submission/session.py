"""One session's decisions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred

from mailfarm.accounts.credential import Credential
from mailfarm.inbound.capture import ByAddress, ById
from mailfarm.inbound.pressure import Sender
from mailfarm.inbound.refusals import Refusal, lines_to
from mailfarm.inbound.transaction import Transaction
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net.clients import limited_as, network_of
from mailfarm.net.content import SpillContent
from mailfarm.net.smtp_session import Answer, Connection, origin_of
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused

if TYPE_CHECKING:
    from .service import Submission

SERVICE: Final = "submission"

HELLO: Final = Reply(250, "", "")
SENDER_OK: Final = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Ok")
GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
AUTH_FIRST: Final = Reply(530, "5.7.0", "Authentication required")  # RFC 4954 §6
TOO_LATE: Final = Reply(451, "4.3.0", "This takes too long; try again later")
NO_SENDING: Final = Reply(550, "5.7.1", "Sending is not available yet; use a credential for capture")
ENDED: Final = Reply(550, "5.1.1", "The mailbox has ended; make a new one and use its user name and password")


class SubmissionSession:
    """One session's decisions."""

    __slots__ = (
        "_ahead", "_auth_needed", "_client", "_connection", "_credential", "_service", "_transaction", "_visit",
    )  # fmt: skip

    def __init__(self, service: Submission, connection: Connection, auth_needed: bool) -> None:
        self._service = service
        self._connection = connection
        self._client = limited_as(connection.client)
        self._visit = service.door.visit()
        self._ahead = service.directory.ahead()
        self._auth_needed = auth_needed
        self._credential: Credential | None = None
        self._transaction: Transaction | None = None

    def connected(self) -> Answer:
        return self._service.door.answer(self._connection.client, self._visit)

    def hello(self, request: Hello) -> Answer:
        return HELLO

    async def authenticate(self, request: Auth) -> Reply:
        reply, credential = await self._service.login.log_in(self._connection.client, request, self._visit)
        if credential is not None and self._connection.awaits(request):
            self._credential = credential
        return reply

    def mail(self, request: Mail) -> Answer:
        credential = self._credential
        if credential is None and self._auth_needed:
            return AUTH_FIRST
        if credential is not None and credential.purpose != "capture":
            return NO_SENDING
        self._transaction = Transaction(request, self._account, self._service.refusals)
        self._ahead.forget()
        service = self._service
        asks = request.size or service.shares.any or not service.accept.pressure.none
        return self._may_begin(request) if asks else SENDER_OK

    async def _may_begin(self, request: Mail) -> Reply:
        service = self._service
        refused = await service.shares.at_mail(self._client, self._account, self._credential_id)
        if refused is None and (request.size or not service.accept.pressure.none):
            refused = await service.accept.room(request.size or 0, self._sender, count=False)  # RFC 1870 §6.1
        if refused is not None and self._connection.awaits(request):
            self._mail_refused(request.sender, refused)
        return refused or SENDER_OK

    def rcpt(self, request: Rcpt) -> Answer:
        transaction, credential = self._transaction, self._credential
        assert transaction is not None
        if (credential is None or credential.mailbox is None) and not self._service.shares.any:
            known = self._ahead.known(ByAddress(request.recipient.address, transaction.account))
            if known is not None and known[0] is not None:
                transaction.took(request.recipient.address, transaction.account, known[0])
                return RECIPIENT_OK
        return self._look_up(request, transaction, credential)

    async def _look_up(self, request: Rcpt, transaction: Transaction, credential: Credential | None) -> Reply:
        service = self._service
        address = request.recipient.address
        if credential is not None and credential.mailbox is not None:
            found = await service.directory.get(ById(credential.mailbox, credential.account))
            reply = ENDED
        else:
            account = transaction.account
            found = await self._ahead.get(
                ByAddress(address, account), lambda: [ByAddress(each, account) for each in self._connection.ahead()]
            )
            reply = Reply(550, "5.1.1", f"<{address}>: there is no such mailbox")
        if not self._connection.awaits(request):
            return TOO_LATE
        if found is None:
            refusal = self._refusal(transaction.sender, address, reply)
            service.refusals.tell(transaction.account, refusal, self._mailbox)
            return reply
        if service.shares.any:
            refused = await service.shares.at_rcpt(
                address, found, transaction.account, transaction.taken, self._credential_id
            )
            if not self._connection.awaits(request):
                return TOO_LATE
            if refused is not None:
                service.refusals.tell(transaction.account, self._refusal(transaction.sender, address, refused), found)
                return refused
        transaction.took(address, transaction.account, found)
        return RECIPIENT_OK

    async def data(self, envelope: Envelope) -> Reply:
        service, transaction = self._service, self._transaction
        refused = await service.accept.room(envelope.size or 0, self._sender)
        if refused is None and transaction is not None and service.shares.any:
            refused = await service.shares.at_data(
                self._client,
                transaction.account,
                transaction.mailboxes.values(),
                transaction.taken,
                self._credential_id,
            )
        if refused is not None and transaction is not None and transaction is self._transaction:
            self._all_refused(transaction, envelope, refused)
        return refused or GO_AHEAD

    async def content(self, envelope: Envelope, content: SpillContent) -> Reply:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        self._settle(transaction)
        mailboxes = [transaction.mailboxes[recipient.address] for recipient in envelope.recipients]
        origin = origin_of(self._connection, SERVICE, credential=self._credential_id, smtputf8=transaction.smtputf8)
        return await self._service.accept.take(envelope, content, origin, transaction.account, mailboxes)

    def discarded(self, request: Discarded) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            if request.reply is not None:
                self._all_refused(transaction, request.envelope, request.reply)
            self._settle(transaction)

    def refused(self, request: Refused) -> None:
        if not request.recipient:
            self._mail_refused(request.sender, request.reply)
        elif self._transaction is not None:
            refusal = self._refusal(self._transaction.sender, request.recipient, request.reply)
            if self._mailbox:
                self._service.refusals.tell(self._account, refusal, self._mailbox)
            else:
                self._transaction.unclaimed.add(refusal)

    def lost(self) -> None:
        self._visit.leave()
        self._ahead.forget()
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._settle(transaction)

    @property
    def _account(self) -> str:
        """Whose the mail of this session is."""
        return self._service.default.account if self._credential is None else self._credential.account

    @property
    def _sender(self) -> Sender:
        """Whose share of what can be filed this mail is of."""
        credential = self._credential
        network = network_of(self._connection.client)
        return Sender(network, network) if credential is None else Sender(credential.account, credential.id)

    @property
    def _credential_id(self) -> str:
        """What AUTH proved, or empty."""
        return "" if self._credential is None else self._credential.id

    @property
    def _mailbox(self) -> str:
        """The mailbox of the credential, or empty."""
        return (self._credential.mailbox or "") if self._credential is not None else ""

    def _settle(self, transaction: Transaction) -> None:
        transaction.unclaimed.settle(lambda address: transaction.account)

    def _mail_refused(self, sender: str, reply: Reply) -> None:
        """MAIL was refused: told of at the credential's mailbox, else at the default one of the account."""
        service, account = self._service, self._account
        if self._credential is None and self._auth_needed:
            return  # anybody
        refusal = self._refusal(sender, "", reply)
        if self._mailbox:
            service.refusals.tell(account, refusal, self._mailbox)
        elif account == service.default.account:
            told = Deferred.fromCoroutine(service.directory.get(ByAddress(service.default.address, account)))
            told.addCallback(lambda found: service.refusals.tell(account, refusal, found or ""))
            told.addErrback(lambda failure: service.trouble("a refusal could not be told", failure.value))

    def _all_refused(self, transaction: Transaction, envelope: Envelope, reply: Reply) -> None:
        transaction.all_refused(envelope, lambda address: self._refusal(transaction.sender, address, reply))

    def _refusal(self, sender: str, address: str, reply: Reply) -> Refusal:
        lines = lines_to(self._connection.transcript, reply)
        return Refusal(address, sender, origin_of(self._connection, SERVICE), reply, lines)
