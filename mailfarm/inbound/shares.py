"""How much may be brought in: by a client, with a credential, into a mailbox, for an account.

A message is asked for where the refusal is cheapest and clearest, and counted once, when nothing but its content is
missing:

=====  ======================================================  ===================================================
MAIL   asks for client, credential and, if known, account      451 4.7.1: none of its recipients need be looked up
RCPT   asks for the mailbox, and for the account (mx)          450 4.7.1: the mail for others still goes through
DATA   counts one message for each of them, or for none        451 4.7.1: the last one was taken meanwhile
=====  ======================================================  ===================================================

450 and not 452 at RCPT: RFC 5321 §4.2.3 has 450 for a mailbox that is "temporarily blocked for policy reasons", while
452 there means too many recipients (§4.5.3.1.10), which senders answer by trying again at once. What is refused before
DATA costs nothing; what is lost after it (the content was too large, the client went away) has been counted.

A mailbox counts once in a transaction, whichever of its recipients lead there: it is one message there.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from mailfarm.accounts.allowance import SetOf, again, charges
from mailfarm.accounts.limit_sets import Allowed, LimitSet, LimitSets
from mailfarm.mail.reply import Reply
from mailfarm.ports import Charge, Limiter, Refusal

_WHO: Final[Mapping[str, str]] = {
    "client": "from your network",
    "credential": "with this user name",
    "mailbox": "for this mailbox",
    "account": "for this account",
}


REMEMBERED: Final = 20_000
"""Lists of charges that are kept rather than made for each message, 1 KB each; past it all are forgotten."""


class Shares:
    """What a service counts. ``client`` is always a limiter's key, or empty for one that is not limited."""

    def __init__(self, service: str, limiter: Limiter, sets: LimitSets, set_of: SetOf) -> None:
        self._client_prefix = f"client:{service}:"
        self._limiter = limiter
        self._client = sets.client
        self._set_of = set_of
        self._made: dict[tuple[str, str, str, int, int], list[Charge]] = {}
        every = (sets.default, *sets.by_account.values())
        limited = [each for one in every for each in (one.credential, one.mailbox, one.account)]
        self.any = any(each.messages or each.recipients for each in (sets.client, *limited))
        """Whether anything is limited at all; if not nothing need be asked."""

    def may_begin(self, client: str) -> bool:
        """Whether ``at_mail`` would find nothing against it, as is known without asking anybody."""
        return self._limiter.far(self._of_client(client, 0))

    def may_take(self, mailbox: str, account: str, taken: int) -> bool:
        """The same of ``at_rcpt`` for a session without a credential."""
        limits = self._set_of.known(account)
        if limits is None:
            return False
        if limits.account.recipients:
            most = self._most_recipients(limits, False)
            if most is not None and taken >= most:
                return False
        return self._limiter.far(self._at_rcpt(mailbox, account, limits))

    async def at_mail(self, client: str, account: str = "", credential: str = "") -> Reply | None:
        """None, or why no message may begin now."""
        asked = [*self._of_client(client, 0)]
        if account:
            limits = await self._set_of(account)
            asked += self._charges("account", account, limits, 0)
            if credential:
                asked += self._charges("credential", credential, limits, 0)
        return await self._ask(451, "", asked)

    async def at_rcpt(self, address: str, mailbox: str, account: str, taken: int, credential: str = "") -> Reply | None:
        """None, or why this recipient is not taken now; ``taken`` were before it."""
        limits = await self._set_of(account)
        most = self._most_recipients(limits, bool(credential))
        if most is not None and taken >= most:
            return Reply(452, "4.5.3", "Too many recipients for one transaction; send to the rest in another")
        return await self._ask(450, f"<{address}>: ", self._at_rcpt(mailbox, account, limits))

    async def at_data(
        self, client: str, account: str, mailboxes: Collection[str], recipients: int, credential: str = ""
    ) -> Reply | None:
        """Count one message; None, or why it is not taken now, and then nothing was counted."""
        limits = await self._set_of(account)
        asked = self._of_client(client, 1) + self._charges("account", account, limits, 1, recipients)
        if credential:
            asked += self._charges("credential", credential, limits, 1, recipients)
        for mailbox in dict.fromkeys(mailboxes):
            asked += self._charges("mailbox", mailbox, limits, 1)
        return await self._ask(451, "", asked)

    def _of_client(self, client: str, cost: int) -> list[Charge]:
        if not client or not self._client.messages:
            return []
        key = ("client", client, "", cost, 0)
        return self._made.get(key) or self._keep(
            key, charges(f"{self._client_prefix}{client}:messages", self._client.messages, cost)
        )

    def _at_rcpt(self, mailbox: str, account: str, limits: LimitSet) -> list[Charge]:
        key = (mailbox, account, limits.name, 0, 0)
        found = self._made.get(key)
        if found is None:
            every = self._charges("mailbox", mailbox, limits, 0) + self._charges("account", account, limits, 0)
            found = self._keep(key, every)
        return found

    def _charges(self, kind: str, id: str, limits: LimitSet, cost: int, recipients: int = 0) -> list[Charge]:
        key = (kind, id, limits.name, cost, recipients)
        found = self._made.get(key)
        if found is None:
            allowed: Allowed = getattr(limits, kind)
            found = charges(f"{kind}:{id}:messages", allowed.messages, cost)
            if allowed.recipients:
                found += charges(f"{kind}:{id}:recipients", allowed.recipients, recipients if cost else 0)
            self._keep(key, found)
        return found

    def _keep(self, key: tuple[str, str, str, int, int], made: list[Charge]) -> list[Charge]:
        if len(self._made) >= REMEMBERED:
            self._made.clear()
        self._made[key] = made
        return made

    def _most_recipients(self, limits: LimitSet, credential: bool) -> int | None:
        """The most that any of these rates can ever allow at once."""
        rates = limits.account.recipients + (limits.credential.recipients if credential else ())
        return min([rate.count for rate in rates]) if rates else None

    async def _ask(self, code: int, before: str, asked: Sequence[Charge]) -> Reply | None:
        refusal = await self._limiter.charge(asked) if asked else None
        return None if refusal is None else _refused(code, before, refusal)


def _refused(code: int, before: str, refusal: Refusal) -> Reply:
    kind, _, _ = refusal.key.partition(":")
    what = "recipients" if ":recipients:" in refusal.key else "messages"
    return Reply(code, "4.7.1", f"{before}Too many {what} {_WHO[kind]}; {again(refusal.wait)}")
