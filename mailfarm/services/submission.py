"""NAME
    submission - take mail from those with a credential, to capture or to send

SYNOPSIS
    mailfarm submission

DESCRIPTION
    Listens for SMTP submission (RFC 6409) on up to three ports:

        capture    no credential needed; AUTH is honoured if the client has one. On loopback also in plain text, so
                   that a test suite needs no TLS; STARTTLS only if set, because many clients use it when they see it
                   and then refuse a certificate they do not trust
        starttls   STARTTLS, and AUTH after it; MAIL before AUTH is 530 5.7.0
        tls        the same inside TLS from the start (RFC 8314)

    The credential decides where mail goes:

        capture, with a mailbox       every recipient is filed in that mailbox; once it has ended 550 5.1.1
        capture, without a mailbox    by recipient, as without a credential
        no credential (capture port)  the live mailbox whose address the recipient is, else the default mailbox
        send                          550 5.7.1: sending is not available yet

    By recipient never leads into a mailbox of another account. Any recipient address with the right syntax is taken:
    captured mail goes nowhere.

    A wrong secret and an unknown user are answered alike, 535 5.7.8, after the same work. Three failures in a session
    end it with 421. Ten failures of a client, or fifty of a user name, in five minutes are enough: then 421 or
    454 4.7.0. Failures of clients on loopback are not counted, nor is their success barred by others' failures.

    Before content the queue is asked for room (452 4.3.1); 250 is said when the queue has confirmed, never earlier.

    On SIGTERM: the ports are closed, idle sessions hear 421 4.3.2, running transactions finish within MAILFARM_GRACE.
    On SIGHUP: the certificate is read again, for new connections.

SETTINGS
    MAILFARM_SUBMISSION_CAPTURE           where to listen for open capture, or off
    MAILFARM_SUBMISSION_STARTTLS          where to listen for submission with STARTTLS, or off
    MAILFARM_SUBMISSION_TLS               where to listen for submission inside TLS, or off
    MAILFARM_SUBMISSION_CAPTURE_STARTTLS  offer STARTTLS on the capture port
    MAILFARM_SUBMISSION_NORMALIZE         make CR LF of bare line feeds instead of refusing them
    MAILFARM_SUBMISSION_PROXY_FROM        networks whose connections begin with a PROXY header
    MAILFARM_SUBMISSION_PROXY_V1          also understand version 1 of it
    MAILFARM_SUBMISSION_MAX_CONNECTIONS   open sessions of each port; above it 421 4.3.2
    MAILFARM_SUBMISSION_MAX_RECIPIENTS    recipients a transaction; past it 452 4.5.3
    MAILFARM_HOSTNAME, MAILFARM_MAX_SIZE, MAILFARM_CERTIFICATE, MAILFARM_KEY, MAILFARM_GRACE

    A client (an IPv4 address, an IPv6 /64) may begin 600 connections a minute; then 421 4.7.0. Loopback is not counted.

DIAGNOSTICS
    cannot listen on ...         the port is in use or not ours to take; the line names the setting
    mail is refused before its content, message ... found no room
                                 the disk is at its reserve or the queue at its cap: make room, or look why inbound is
                                 behind
    message ... was not confirmed
                                 the queue did not answer; the client has to send again
    AUTH failed                  a wrong user or secret; the line has the client, and the user if there is such a one
    PROXY header of ... refused  a listed proxy sends no header, or a damaged one
    metrics mailfarm_submission_...
                                 sessions, sessions_open, logins, recipients, messages, content_octets, timeouts
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.logger import Logger

from mailfarm.accounts.credential import Credential, check
from mailfarm.accounts.guesses import LONGEST_NAME, OF_CLIENT, OF_NAME, Guesses
from mailfarm.accounts.store import find_credential
from mailfarm.config import Address, SubmissionSettings
from mailfarm.errors import ConfigurationError
from mailfarm.ids import Ids
from mailfarm.inbound.accept import Accept
from mailfarm.inbound.capture import ByAddress, ById, DefaultMailbox, Wanted, ensure_default, look
from mailfarm.inbound.refusals import Refusal, Refusals, lines_to
from mailfarm.inbound.transaction import Transaction
from mailfarm.limits import Limit
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.net.clients import CONNECTIONS, Door, client_key, on_loopback
from mailfarm.net.content import SpillContent
from mailfarm.net.gather import Gather
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.smtp_session import Answer, Connection, origin_of
from mailfarm.net.tls import ServerTls
from mailfarm.ports import Bus, Database, Limiter, Queue, Tx
from mailfarm.smtp.config import MECHANISMS
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused
from mailfarm.smtp.server import Deadlines, ServerConfig

SERVICE: Final = "submission"

__all__ = ["DefaultMailbox", "Submission", "SubmissionSession"]

HELLO: Final = Reply(250, "", "")
SENDER_OK: Final = Reply(250, "2.1.0", "Ok")
RECIPIENT_OK: Final = Reply(250, "2.1.5", "Ok")
GO_AHEAD: Final = Reply(354, "", "End data with <CR><LF>.<CR><LF>")
WELCOME: Final = Reply(235, "2.7.0", "Authenticated")
WRONG: Final = Reply(535, "5.7.8", "User name or password is wrong")
AUTH_NOT_NOW: Final = Reply(454, "4.7.0", "Authentication is not available now; try again later")
NAME_TOO_OFTEN: Final = Reply(454, "4.7.0", "Too many failures for this user name; try again later")
CLIENT_TOO_OFTEN: Final = Reply(421, "4.7.0", "Too many failures from your network; try again later", close=True)
AUTH_FIRST: Final = Reply(530, "5.7.0", "Authentication required")  # RFC 4954 §6
TOO_LATE: Final = Reply(451, "4.3.0", "This takes too long; try again later")
NO_SENDING: Final = Reply(550, "5.7.1", "Sending is not available yet; use a credential for capture")
ENDED: Final = Reply(550, "5.1.1", "The mailbox has ended; make a new one and use its user name and password")


class Submission:
    """The service. ``default`` is where open capture files what has no mailbox of its own. ``clock`` gives
    microseconds; ``folder`` takes large content while it comes in. ``plain_auth``: the capture port takes AUTH without
    TLS; None: if it is on loopback."""

    def __init__(
        self,
        *,
        settings: SubmissionSettings,
        hostname: str,
        max_size: int,
        default: DefaultMailbox,
        queue: Queue,
        database: Database,
        bus: Bus,
        limiter: Limiter,
        ids: Ids,
        clock: Callable[[], int],
        reactor: Any,
        registry: CollectorRegistry,
        tls: ServerTls | None = None,
        folder: Path | None = None,
        plain_auth: bool | None = None,
        connections: Limit = CONNECTIONS,
        failures_of_client: Limit = OF_CLIENT,
        failures_of_name: Limit = OF_NAME,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - frozen
        caps: Caps = Caps(),  # noqa: B008 - frozen
    ) -> None:
        self.log = Logger(namespace="mailfarm.submission")
        self.default = default
        self._bus = bus
        self._ids = ids
        try:
            self.accept = Accept(queue, ids, clock, hostname, self.trouble)
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_HOSTNAME: {error}"]) from None
        self.refusals = Refusals(bus, ids, clock, SERVICE)
        self.door = Door(SERVICE, hostname, limiter, connections)
        self.directory: Gather[Wanted, str | None] = Gather(self._look)
        self.guesses = Guesses(SERVICE, limiter, failures_of_client, failures_of_name)
        self._database = database
        self._listeners: dict[str, Listener] = {}
        metrics = SMTPMetrics(registry, SERVICE)
        capture_plain = settings.capture is not None and (
            settings.capture.loopback if plain_auth is None else plain_auth
        )

        def listen(name: str, address: Address | None, *, auth_needed: bool, starttls: bool, implicit: bool) -> None:
            if address is None:
                return
            setting = f"MAILFARM_SUBMISSION_{name.upper()}"
            if tls is None and (starttls or implicit):
                raise ConfigurationError(
                    [f"{setting}: this port needs a certificate; set MAILFARM_CERTIFICATE and MAILFARM_KEY, or off"]
                )
            try:
                config = ServerConfig(
                    hostname=hostname,
                    max_size=max_size,
                    max_recipients=settings.max_recipients,
                    starttls=starttls,
                    auth=MECHANISMS,
                    auth_without_tls=not auth_needed and capture_plain,
                    normalize=settings.normalize,
                    deadlines=deadlines,
                )
            except ValueError as error:
                raise ConfigurationError([f"MAILFARM_SUBMISSION_MAX_RECIPIENTS, MAILFARM_MAX_SIZE: {error}"]) from None
            factory = SMTPFactory(
                config,
                lambda connection: SubmissionSession(self, connection, auth_needed),
                reactor,
                metrics,
                log=self.log,
                caps=caps.with_sessions(settings.max_connections),
                tls=tls if starttls or implicit else None,
                implicit_tls=implicit,
                folder=folder,
            )
            self._listeners[name] = Listener(
                address, factory, setting=setting, proxy_from=settings.proxy_from, proxy_v1=settings.proxy_v1
            )

        listen("capture", settings.capture, auth_needed=False, starttls=settings.capture_starttls, implicit=False)
        listen("starttls", settings.starttls, auth_needed=True, starttls=True, implicit=False)
        listen("tls", settings.tls, auth_needed=True, starttls=False, implicit=True)

    @property
    def listening(self) -> dict[str, Address]:
        """Where it listens, once started, by "capture", "starttls" and "tls"."""
        return {name: listener.address for name, listener in self._listeners.items()}

    async def start(self) -> None:
        """Listen. Raises ConfigurationError; then no port is open."""
        for listener in self._listeners.values():
            try:
                await listener.start()
            except ConfigurationError:
                await self.stop(0)
                raise

    async def stop(self, grace: float = 25.0) -> None:
        """Drain: running transactions have ``grace`` seconds, all ports together."""
        for listener in self._listeners.values():
            await listener.stop_listening()
        for ended in [listener.factory.drain(grace) for listener in self._listeners.values()]:
            await ended

    async def log_in(self, client: str, request: Auth) -> tuple[Reply, Credential | None]:
        """Answer an AUTH exchange."""
        name = request.user
        # A test in a loop with a wrong password must not lock its own inbox, nor somebody far away that of all here.
        network = "" if on_loopback(client) else client_key(client)
        try:
            refused = await self.guesses.too_many(network, name)
            if refused is not None:
                return CLIENT_TOO_OFTEN if refused == "client" else NAME_TOO_OFTEN, None
            credential, now = await self._database.read(lambda tx: _credential(tx, name))
            # the same work whether there is such a user or not
            if check(credential, request.secret, now):
                return WELCOME, credential
            await self.guesses.count(network, name)
        except Exception as error:
            self.trouble("AUTH could not be decided", error)
            return AUTH_NOT_NOW, None
        # Who types the secret where the name belongs would find it in the log: only names that exist go there.
        user = "an unknown user" if credential is None else credential.name
        self.log.info("AUTH failed from {client} for {user}", client=client, user=user)
        return WRONG, None

    async def _look(self, wanted: Sequence[Wanted]) -> Mapping[Wanted, str | None]:
        found = await self._database.read(lambda tx: look(tx, wanted, self.default))
        missing = [
            each
            for each in wanted
            if found[each] is None and isinstance(each, ByAddress) and each.account == self.default.account
        ]
        if missing:  # somebody deleted the default mailbox
            inbox = await ensure_default(self._database, self._bus, self._ids, self.default)
            found.update(dict.fromkeys(missing, inbox.id))
        return found

    def trouble(self, what: str, error: Exception) -> None:
        """Log what a client is not told."""
        self.log.error("{what}: {error!r}", what=what, error=error)


async def _credential(tx: Tx, name: str) -> tuple[Credential | None, int]:
    return await find_credential(tx, name[: LONGEST_NAME + 1]), tx.now


class SubmissionSession:
    """One session's decisions."""

    __slots__ = ("_auth_needed", "_connection", "_credential", "_service", "_transaction")

    def __init__(self, service: Submission, connection: Connection, auth_needed: bool) -> None:
        self._service = service
        self._connection = connection
        self._auth_needed = auth_needed
        self._credential: Credential | None = None
        self._transaction: Transaction | None = None

    def connected(self) -> Answer:
        return self._service.door.answer(self._connection.client)

    def hello(self, request: Hello) -> Answer:
        return HELLO

    async def authenticate(self, request: Auth) -> Reply:
        reply, credential = await self._service.log_in(self._connection.client, request)
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
        return self._room_at_mail(request, request.size) if request.size else SENDER_OK

    async def _room_at_mail(self, request: Mail, size: int) -> Reply:
        refused = await self._service.accept.room(size)  # RFC 1870 §6.1
        if refused is not None and self._connection.awaits(request):
            self._mail_refused(request.sender, refused)
        return refused or SENDER_OK

    async def rcpt(self, request: Rcpt) -> Reply:
        transaction, credential = self._transaction, self._credential
        assert transaction is not None
        address = request.recipient.address
        if credential is not None and credential.mailbox is not None:
            found = await self._service.directory.get(ById(credential.mailbox, credential.account))
            reply = ENDED
        else:
            found = await self._service.directory.get(ByAddress(address, transaction.account))
            reply = Reply(550, "5.1.1", f"<{address}>: there is no such mailbox")
        if not self._connection.awaits(request):
            return TOO_LATE
        if found is None:
            refusal = self._refusal(transaction.sender, address, reply)
            self._service.refusals.tell(transaction.account, refusal, self._mailbox)
            return reply
        transaction.took(address, transaction.account, found)
        return RECIPIENT_OK

    async def data(self, envelope: Envelope) -> Reply:
        refused = await self._service.accept.room(envelope.size or 0)
        if refused is not None and self._transaction is not None:
            self._all_refused(self._transaction, envelope, refused)
        return refused or GO_AHEAD

    async def content(self, envelope: Envelope, content: SpillContent) -> Reply:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        self._settle(transaction)
        mailboxes = [transaction.mailboxes[recipient.address] for recipient in envelope.recipients]
        credential = "" if self._credential is None else self._credential.id
        origin = origin_of(self._connection, SERVICE, credential=credential, smtputf8=transaction.smtputf8)
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
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._settle(transaction)

    @property
    def _account(self) -> str:
        """Whose the mail of this session is."""
        return self._service.default.account if self._credential is None else self._credential.account

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
            told = service.directory.get(ByAddress(service.default.address, account))
            told.addCallback(lambda found: service.refusals.tell(account, refusal, found or ""))
            told.addErrback(lambda failure: service.trouble("a refusal could not be told", failure.value))

    def _all_refused(self, transaction: Transaction, envelope: Envelope, reply: Reply) -> None:
        transaction.all_refused(envelope, lambda address: self._refusal(transaction.sender, address, reply))

    def _refusal(self, sender: str, address: str, reply: Reply) -> Refusal:
        lines = lines_to(self._connection.transcript, reply)
        return Refusal(address, sender, origin_of(self._connection, SERVICE), reply, lines)
