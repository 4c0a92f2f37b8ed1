"""NAME
    mx - take mail from the internet for our mailboxes

SYNOPSIS
    mailfarm mx

DESCRIPTION
    Listens for SMTP (RFC 5321) and takes mail for mailboxes that live now; nothing else. It never relays, and offers
    no AUTH: those with a credential come to submission.

    A recipient is looked up at RCPT, before any content:

        a mailbox that lives                                    250 2.1.5
        an address of ours without one, or one that has ended   550 5.1.1
        a domain that is none of ours, an address literal       550 5.7.1
        postmaster, at a domain of ours or none, without one    250 2.1.5, for the default mailbox (RFC 5321 §4.5.1)
        user%remote@ours, remote!user@ours, "user@remote"@ours  553 5.7.1
        a mailbox of another account than the one before        452 4.5.3, once more in another transaction
        the database does not answer                            451 4.3.0

    A mailbox that lived once is answered like one that never did. One transaction is spooled for one account, hence the
    452: senders take it as "too many recipients" (RFC 5321 §4.5.3.1.10) and send the rest in a transaction of its own.
    The database's clock decides what lives.

    Before content is let in the queue is asked for room (452 4.3.1); after its end 250 is said when the queue has
    confirmed, never earlier. What is refused is told to the account whose address it is ("refusals"), sampled; what
    names no address of ours, to the account of the transaction's other recipients, if there is one.

    On SIGTERM: the port is closed, idle sessions hear 421 4.3.2, running transactions finish within MAILFARM_GRACE.
    On SIGHUP: the certificate is read again, for new connections.

SETTINGS
    MAILFARM_MX_LISTEN           where to listen, or off
    MAILFARM_MX_STARTTLS         offer STARTTLS
    MAILFARM_MX_PROXY_FROM       networks whose connections begin with a PROXY header
    MAILFARM_MX_PROXY_V1         also understand version 1 of it
    MAILFARM_MX_MAX_CONNECTIONS  open sessions; above it 421 4.3.2
    MAILFARM_MX_MAX_RECIPIENTS   recipients a transaction; past it 452 4.5.3
    MAILFARM_HOSTNAME, MAILFARM_DOMAINS, MAILFARM_MAX_SIZE, MAILFARM_CERTIFICATE, MAILFARM_KEY, MAILFARM_GRACE

    A client (an IPv4 address, an IPv6 /64) may begin 600 connections a minute; then 421 4.7.0. Loopback is not counted.
    The hundredth unknown recipient ends a session with 421 4.7.0.

DIAGNOSTICS
    cannot listen on ...         the port is in use or not ours to take; the line names the setting
    mail is refused before its content, message ... found no room
                                 the disk is at its reserve or the queue at its cap: make room, or look why inbound is
                                 behind
    message ... was not confirmed
                                 the queue did not answer; the sender tries again
    Rcpt of ... failed           a look-up failed; the line has the reason
    PROXY header of ... refused  a listed proxy sends no header, or a damaged one
    metrics mailfarm_mx_...      sessions, sessions_open, recipients, messages, content_octets, timeouts, aborted
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import CollectorRegistry
from twisted.logger import Logger

from mailfarm.config import Address as ListenAddress
from mailfarm.config import MxSettings
from mailfarm.errors import ConfigurationError
from mailfarm.ids import Ids
from mailfarm.inbound.accept import Accept
from mailfarm.inbound.capture import DefaultMailbox, ensure_default
from mailfarm.inbound.refusals import Refusal, Refusals, lines_to
from mailfarm.inbound.transaction import Transaction
from mailfarm.limits import Limit
from mailfarm.mail.address import Address, domain_key
from mailfarm.mail.envelope import Envelope
from mailfarm.mail.reply import Reply
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.mailbox import Mailbox
from mailfarm.net.clients import CONNECTIONS, Door
from mailfarm.net.content import SpillContent
from mailfarm.net.gather import Gather
from mailfarm.net.smtp_listener import Listener
from mailfarm.net.smtp_metrics import SMTPMetrics
from mailfarm.net.smtp_server import Caps, SMTPFactory
from mailfarm.net.smtp_session import Answer, Connection, origin_of
from mailfarm.net.tls import ServerTls
from mailfarm.ports import Bus, Database, Limiter, Queue, Tx
from mailfarm.smtp.requests import Auth, Discarded, Hello, Mail, Rcpt, Refused
from mailfarm.smtp.server import Deadlines, ServerConfig

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


class Mx:
    """The service. ``domains`` are ours; ``owner`` gives the account that owns a domain, or empty: it may see what was
    refused for addresses there. ``default`` takes mail for a postmaster without a mailbox. ``clock`` gives
    microseconds; ``folder`` takes large content while it comes in."""

    def __init__(
        self,
        *,
        settings: MxSettings,
        hostname: str,
        max_size: int,
        domains: Domains,
        owner: Callable[[str], str],
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
        connections: Limit = CONNECTIONS,
        deadlines: Deadlines = Deadlines(),  # noqa: B008 - frozen
        caps: Caps = Caps(),  # noqa: B008 - frozen
    ) -> None:
        self.log = Logger(namespace="mailfarm.mx")
        self.owner = owner
        self.default = default
        self._bus = bus
        self._ids = ids
        self.domains = frozenset(domain_key(name) for name in domains.names)
        self.default_domain = domains.default
        try:
            self.accept = Accept(queue, ids, clock, hostname, self._trouble)
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_HOSTNAME: {error}"]) from None
        self.refusals = Refusals(bus, ids, clock, SERVICE)
        self.door = Door(SERVICE, hostname, limiter, connections)
        self.directory: Gather[str, tuple[Mailbox | None, bool]] = Gather(self._look)
        self._database = database
        self._listener: Listener | None = None
        if settings.listen is None:
            return
        try:
            config = ServerConfig(
                hostname=hostname,
                max_size=max_size,
                max_recipients=settings.max_recipients,
                starttls=settings.starttls and tls is not None,
                deadlines=deadlines,
            )
        except ValueError as error:
            raise ConfigurationError([f"MAILFARM_MX_MAX_RECIPIENTS, MAILFARM_MAX_SIZE: {error}"]) from None
        factory = SMTPFactory(
            config,
            lambda connection: MxSession(self, connection),
            reactor,
            SMTPMetrics(registry, SERVICE),
            log=self.log,
            caps=caps.with_sessions(settings.max_connections),
            tls=tls,
            folder=folder,
        )
        self._listener = Listener(
            settings.listen,
            factory,
            setting="MAILFARM_MX_LISTEN",
            proxy_from=settings.proxy_from,
            proxy_v1=settings.proxy_v1,
        )

    @property
    def listening(self) -> dict[str, ListenAddress]:
        """Where it listens, once started, by "mx"; empty if it is off."""
        return {} if self._listener is None else {SERVICE: self._listener.address}

    async def start(self) -> None:
        """Listen. Raises ConfigurationError."""
        if self._listener is not None:
            await self._listener.start()

    async def stop(self, grace: float = 25.0) -> None:
        """Drain: running transactions have ``grace`` seconds."""
        if self._listener is not None:
            await self._listener.stop(grace)

    def ours(self, domain: str) -> bool:
        """Whether mailboxes may be at ``domain``, so that an address there is unknown rather than elsewhere."""
        return domain_key(domain) in self.domains

    async def _look(self, addresses: Sequence[str]) -> Mapping[str, tuple[Mailbox | None, bool]]:
        """The mailbox of each address, and whether it lives, by the database's clock."""

        async def look(tx: Tx) -> dict[str, tuple[Mailbox | None, bool]]:
            found: dict[str, tuple[Mailbox | None, bool]] = {}
            for address in addresses:
                mailbox = await store.by_address(tx, address)
                found[address] = (mailbox, mailbox is not None and mailbox.live(tx.now))
            return found

        found = await self._database.read(look)
        for address, (_, live) in found.items():
            if not live and self._is_postmaster(address):
                # rare enough for a unit of its own, which makes the mailbox if need be
                found[address] = (await ensure_default(self._database, self._bus, self._ids, self.default), True)
        return found

    def _is_postmaster(self, address: str) -> bool:
        return address[:11].lower() == "postmaster@" and self.ours(address[11:])

    def _trouble(self, what: str, error: Exception) -> None:
        self.log.error("{what}: {error!r}", what=what, error=error)


class MxSession:
    """One session's decisions."""

    __slots__ = ("_connection", "_mx", "_transaction", "_unknown_so_far")

    def __init__(self, mx: Mx, connection: Connection) -> None:
        self._mx = mx
        self._connection = connection
        self._transaction: Transaction | None = None
        self._unknown_so_far = 0

    def connected(self) -> Answer:
        return self._mx.door.answer(self._connection.client)

    def hello(self, request: Hello) -> Answer:
        return HELLO

    def authenticate(self, request: Auth) -> Answer:
        return NO_AUTH

    def mail(self, request: Mail) -> Answer:
        self._transaction = Transaction(request, "", self._mx.refusals)
        return self._room_at_mail(request.size) if request.size else SENDER_OK

    async def _room_at_mail(self, size: int) -> Reply:
        return await self._mx.accept.room(size) or SENDER_OK  # RFC 1870 §6.1

    async def rcpt(self, request: Rcpt) -> Reply:
        transaction = self._transaction
        assert transaction is not None
        mx = self._mx
        said = request.recipient.address
        # RFC 5321 §4.5.1: postmaster needs no domain
        address = said if "@" in said else f"{said}@{mx.default_domain}"
        mailbox, live = await mx.directory.get(address)
        if not self._connection.awaits(request):
            return TOO_LATE
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
        transaction.took(said, mailbox.account, mailbox.id)
        return RECIPIENT_OK

    def _unknown(self, address: str, said: str) -> Reply:
        if not self._mx.ours(_domain(address)):
            return Reply(550, "5.7.1", f"<{said}>: we do not relay; this is no domain of ours")
        if any(mark in _local(address) for mark in "%!@"):
            # what other relays took for a route to elsewhere
            return Reply(553, "5.7.1", f"<{said}>: we do not relay; routes in an address are not followed")
        return Reply(550, "5.1.1", f"<{said}>: there is no such mailbox")

    async def data(self, envelope: Envelope) -> Reply:
        refused = await self._mx.accept.room(envelope.size or 0)
        if refused is not None and self._transaction is not None:
            self._all_refused(self._transaction, envelope, refused)
        return refused or GO_AHEAD

    async def content(self, envelope: Envelope, content: SpillContent) -> Reply:
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        self._settle(transaction)
        mailboxes = [transaction.mailboxes[recipient.address] for recipient in envelope.recipients]
        origin = origin_of(self._connection, SERVICE, smtputf8=transaction.smtputf8)
        return await self._mx.accept.take(envelope, content, origin, transaction.account, mailboxes)

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
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            self._settle(transaction)

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
