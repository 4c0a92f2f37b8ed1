"""GET, POST /v1/mailboxes; GET, PATCH, DELETE /v1/mailboxes/{id}; POST, DELETE /v1/mailboxes/{id}/password."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein

from mailfarm.accounts.credential import Credential
from mailfarm.accounts.secret import new_secret
from mailfarm.accounts.store import create_credential, renew_credential, revoke_credentials_of
from mailfarm.events import LOOKUP, MailboxChanged, MailboxOpened, Revoked, from_rfc3339
from mailfarm.ids import Ids, is_id
from mailfarm.mailboxes import store
from mailfarm.mailboxes.addresses import Domains
from mailfarm.mailboxes.announce import announce
from mailfarm.mailboxes.forms import mailbox_form
from mailfarm.mailboxes.mailbox import LONGEST, Mailbox, NewMailbox
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Tx

from .access import Access
from .answering import Answer
from .asking import Body, Field
from .routes import Ask, Gives, Resource, route

_LIFETIME = Field("lifetime", "integer", "Seconds until it ends, from its start.", least=1, most=LONGEST, nullable=True)
_RETENTION = Field(
    "retention", "integer", "Seconds a message is kept; null: as long as it.", least=1, most=LONGEST, nullable=True
)
_NEW = Body(
    (
        Field("address", "text", "Its address; left out: one is made.", most=320, nullable=True),
        Field("kind", "text", "What it is for.", default="sandbox", choices=("sandbox", "disposable", "permanent")),
        _LIFETIME,
        Field("starts_at", "moment", "When it begins to take mail; left out: now.", nullable=True),
        _RETENTION,
    )
)
_CHANGES = Body(
    (
        Field(
            "lifetime", "integer", "Seconds until it ends, from now; null: never.", least=1, most=LONGEST, nullable=True
        ),
        Field("ends_at", "moment", "When it ends; null: never.", nullable=True),
        _RETENTION,
    )
)
_PAGE = (
    Field("address", "text", "Only the mailbox with this address.", default="", most=320),
    Field("after", "text", "The `next` of the page before.", default="", most=26),
    Field("limit", "integer", "How many at most.", default=100, least=1, most=1000),
)


class Mailboxes(Resource):
    """The mailboxes of the caller's account."""

    app = Klein()

    def __init__(
        self,
        access: Access,
        database: Database,
        bus: Bus,
        ids: Ids,
        domains: Domains,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(access)
        self._database = database
        self._bus = bus
        self._ids = ids
        self._domains = domains
        self._random = random

    @route(
        app,
        "POST",
        "/v1/mailboxes",
        "Make a mailbox",
        name="createMailbox",
        gives=Gives(201, "NewMailbox"),
        scope="mailboxes:write",
        body=_NEW,
        problems=("conflict",),
    )
    async def create(self, ask: Ask) -> Answer:
        """`{}` is enough. The answer holds the mailbox's own SMTP user and password; the password is not kept and not
        shown again."""
        new = NewMailbox(
            address=ask.body.get("address"),
            kind=ask.body.get("kind", "sandbox"),
            lifetime=ask.body.get("lifetime"),
            starts_at=_moment(ask.body, "starts_at"),
            retention=ask.body.get("retention"),
        )
        secret = new_secret(self._random)

        async def work(tx: Tx) -> tuple[Mailbox, MailboxOpened, str]:
            mailbox, opened = await store.create(tx, self._ids, ask.account, new, self._domains)
            made = await create_credential(
                tx, self._ids, ask.account, secret.verifier, name=mailbox.id, mailbox=mailbox.id
            )
            return mailbox, opened, made.name

        mailbox, opened, user = await self._database.unit(work)
        announce(self._bus, [opened])
        form = {**mailbox_form(mailbox), "smtp": {"user": user, "password": secret.text}}
        return Answer(form, 201, headers={"Location": f"/v1/mailboxes/{mailbox.id}"})

    @route(
        app,
        "GET",
        "/v1/mailboxes",
        "List mailboxes",
        name="listMailboxes",
        gives=Gives(200, "MailboxPage"),
        scope="mailboxes:read",
        query=_PAGE,
    )
    async def list(self, ask: Ask) -> Answer:
        """By id, which is by age. `next` is null on the last page."""
        limit, after = ask.query["limit"], ask.query["after"]
        if after and not is_id(after):
            raise Problem("invalid-value", "after must be the `next` of the page before, which is an id", name="after")

        async def work(tx: Tx) -> Any:
            return await store.list_(
                tx, ask.account, address=ask.query["address"] or None, after=after, limit=limit + 1
            )

        found = await self._database.read(work)
        more = found[limit - 1].id if len(found) > limit else None
        return Answer({"mailboxes": [mailbox_form(mailbox) for mailbox in found[:limit]], "next": more})

    @route(
        app,
        "GET",
        "/v1/mailboxes/<id>",
        "Read a mailbox",
        name="getMailbox",
        gives=Gives(200, "Mailbox"),
        scope="mailboxes:read",
    )
    async def read(self, ask: Ask) -> Answer:
        """`cursor` is the last change number given out: wait or list `after` it to see only what comes from now on."""
        return Answer(
            mailbox_form(await self._database.read(lambda tx: store.find(tx, ask.account, ask.id), once=True))
        )

    @route(
        app,
        "PATCH",
        "/v1/mailboxes/<id>",
        "Change how long a mailbox or its messages live",
        name="changeMailbox",
        gives=Gives(200, "Mailbox"),
        scope="mailboxes:write",
        body=_CHANGES,
    )
    async def change(self, ask: Ask) -> Answer:
        """Members that are left out stay as they are. Give `lifetime` or `ends_at`, not both."""
        if "lifetime" in ask.body and "ends_at" in ask.body:
            raise Problem("invalid-value", "give lifetime or ends_at, not both", name="lifetime")
        changes = dict(ask.body)
        if "ends_at" in changes:
            changes["ends_at"] = _moment(changes, "ends_at")
        if not changes:
            raise Problem("invalid-value", "give lifetime, ends_at or retention")

        async def work(tx: Tx) -> tuple[Mailbox, int]:
            return await store.change(tx, ask.account, ask.id, **changes), tx.now

        changed, now = await self._database.unit(work)
        self._bus.publish(LOOKUP, MailboxChanged(self._ids.new(), ask.account, changed.id, now, changed.address))
        return Answer(mailbox_form(changed))

    @route(
        app,
        "DELETE",
        "/v1/mailboxes/<id>",
        "Delete a mailbox and everything in it",
        name="deleteMailbox",
        gives=Gives(204),
        scope="mailboxes:write",
    )
    async def delete(self, ask: Ask) -> Answer:
        """Its address is free again and its SMTP credential ends."""
        closed = await self._database.unit(lambda tx: store.delete(tx, self._ids, ask.account, ask.id))
        announce(self._bus, [closed])
        return Answer(status=204)

    @route(
        app,
        "POST",
        "/v1/mailboxes/<id>/password",
        "Give a mailbox a new SMTP password",
        name="renewPassword",
        gives=Gives(200, "SmtpLogin"),
        scope="mailboxes:write",
        problems=("conflict",),
    )
    async def renew(self, ask: Ask) -> Answer:
        """The user stays; the password before it is good no more, within five seconds everywhere. Also for a mailbox
        that had none, or whose password was revoked. SMTP sessions that are signed in go on until they end."""
        secret = new_secret(self._random)

        async def work(tx: Tx) -> tuple[Credential, bool, int]:
            mailbox = await store.find(tx, ask.account, ask.id)
            return *await renew_credential(
                tx, self._ids, ask.account, secret.verifier, name=mailbox.id, mailbox=mailbox.id
            ), tx.now

        made, again, now = await self._database.unit(work)
        if again:
            self._tell_revoked(ask.account, now, made.id)
        return Answer({"user": made.name, "password": secret.text})

    @route(
        app,
        "DELETE",
        "/v1/mailboxes/<id>/password",
        "Revoke a mailbox's SMTP password",
        name="revokePassword",
        gives=Gives(204),
        scope="mailboxes:write",
    )
    async def revoke(self, ask: Ask) -> Answer:
        """Nobody can sign in to SMTP for this mailbox any more, within five seconds everywhere; mail for its address
        comes as before. A second time changes nothing. SMTP sessions that are signed in go on until they end."""

        async def work(tx: Tx) -> tuple[tuple[str, ...], int]:
            mailbox = await store.find(tx, ask.account, ask.id)
            return await revoke_credentials_of(tx, ask.account, mailbox.id), tx.now

        ended, now = await self._database.unit(work)
        for each in ended:
            self._tell_revoked(ask.account, now, each)
        return Answer(status=204)

    def _tell_revoked(self, account: str, now: int, credential: str) -> None:
        self._bus.publish(LOOKUP, Revoked(self._ids.new(), account, now, "credential", credential))


def _moment(members: Any, name: str) -> int | None:
    text = members.get(name)
    if text is None:
        return None
    try:
        return from_rfc3339(text)
    except (ValueError, OverflowError):
        raise Problem("invalid-value", f"{name} must be a time such as 2026-01-31T12:00:00Z", name=name) from None
