"""AUTH (RFC 4954): who says what, how often, and whether it is true.

A credential that is remembered may only say yes. Before no is said the database is asked, for a known user as for one
that nobody knows, so that neither the answer nor its delay tells which of the two it was, and so that a new secret is
good at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.logger import Logger

from mailfarm.accounts.allowance import SetOf, again
from mailfarm.accounts.credential import Credential, check
from mailfarm.accounts.guesses import LONGEST_NAME, Guesses
from mailfarm.accounts.store import credentials_of
from mailfarm.events import LOOKUP, Event, MailboxClosed, Revoked
from mailfarm.mail.reply import Reply
from mailfarm.net.clients import Visit, limited_as
from mailfarm.net.lookups import Found, LookupCounter, Lookups
from mailfarm.ports import Bus, Database, Subscription, Tx
from mailfarm.smtp.requests import Auth

WELCOME: Final = Reply(235, "2.7.0", "Authenticated")
WRONG: Final = Reply(535, "5.7.8", "User name or password is wrong")
NOT_NOW: Final = Reply(454, "4.7.0", "Authentication is not available now; try again later")
TOO_MANY: Final = Reply(454, "4.7.0", "Too many sessions with this user name at once; try again later")

Known = tuple[Credential | None, int]
"""A credential, and the database's clock when it was looked up."""


class Login:
    """Answers AUTH for all sessions of the service."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        guesses: Guesses,
        set_of: SetOf,
        reactor: Any,
        clock: Callable[[], int],
        counter: LookupCounter,
    ) -> None:
        self.log = Logger(namespace="mailfarm.submission")
        self.credentials: Lookups[str, Known] = Lookups(
            "credential", self._look, reactor=reactor, clock=clock, counter=counter
        )
        self._database = database
        self._bus = bus
        self._guesses = guesses
        self._set_of = set_of
        self._hearing: Subscription | None = None

    async def start(self) -> None:
        """Hear what ends a credential."""
        if self._hearing is None:
            self._hearing = await self._bus.subscribe(LOOKUP, self._hear, self.credentials.doubt)

    def stop(self) -> None:
        """Hear no more."""
        if self._hearing is not None:
            self._hearing.stop()
            self._hearing = None

    async def log_in(self, client: str, request: Auth, visit: Visit) -> tuple[Reply, Credential | None]:
        """Answer an AUTH exchange. ``visit`` holds the credential's place among its sessions."""
        name = request.user
        # A test in a loop with a wrong password must not lock its own inbox, nor somebody far away that of all here.
        network = limited_as(client)
        try:
            refused = await self._guesses.too_many(network, name)
            if refused is not None:
                wait = again(refused.wait)
                if refused.who == "client":
                    return Reply(421, "4.7.0", f"Too many failures from your network; {wait}", close=True), None
                return Reply(454, "4.7.0", f"Too many failures for this user name; {wait}"), None
            credential, good = await self._judge(name[: LONGEST_NAME + 1], request.secret)
            if good and credential is not None:
                return await self._let_in(credential, visit)
            await self._guesses.count(network, name)
        except Exception as error:
            self.log.error("AUTH could not be decided: {error!r}", error=error)
            return NOT_NOW, None
        # Who types the secret where the name belongs would find it in the log: only names that exist go there.
        user = "an unknown user" if credential is None else credential.name
        self.log.info("AUTH failed from {client} for {user}", client=client, user=user)
        return WRONG, None

    async def _judge(self, name: str, secret: str) -> tuple[Credential | None, bool]:
        """The credential of this name, and whether the secret is its own. Raises DatabaseUnavailable."""
        credentials = self.credentials
        if (known := self._remembered(name, secret)) is not None:
            credentials.known(name)  # it is in use: keep it fresh
            return known, True
        try:
            asked, now = await credentials.ask(name)
        except Exception:
            # now it is known that the database is away: what is remembered may serve for longer
            if (known := self._remembered(name, secret)) is not None:
                return known, True
            raise
        # the same work whether there is such a user or not
        return asked, check(asked, secret, now)

    def _remembered(self, name: str, secret: str) -> Credential | None:
        """The credential that is remembered under this name, if the secret is its own."""
        found = self.credentials.known(name, renew=False)
        credential, now = (None, 0) if found is None else found.value
        return credential if check(credential, secret, now) else None

    async def _let_in(self, credential: Credential, visit: Visit) -> tuple[Reply, Credential | None]:
        most = (await self._set_of(credential.account)).credential.sessions
        if most and not await visit.hold(f"submission:credential-sessions:{credential.id}", most):
            return TOO_MANY, None
        return WELCOME, credential

    def _hear(self, event: Event) -> None:
        if isinstance(event, MailboxClosed):  # its credentials ended with it
            self.credentials.forget(event.mailbox)
        elif isinstance(event, Revoked):
            self.credentials.forget(event.what)

    async def _look(self, names: Sequence[str]) -> Mapping[str, Found[Known]]:
        async def look(tx: Tx) -> dict[str, Found[Known]]:
            found = await credentials_of(tx, names)
            return {name: _found(found[name], tx.now) for name in names}

        return await self._database.read(look)


def _found(credential: Credential | None, now: int) -> Found[Known]:
    if credential is None or not credential.live(now):
        return Found((credential, now), now)
    about = (credential.id,) if credential.mailbox is None else (credential.id, credential.mailbox)
    return Found((credential, now), now, "yes", credential.expires_at, about)
