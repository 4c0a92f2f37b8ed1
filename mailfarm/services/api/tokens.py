"""GET, POST /v1/tokens; DELETE /v1/tokens/{id}: the tokens of the caller's account.

A token can be made only with scopes that its maker has, so none leads to more than the first one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein

from mailfarm.accounts import store
from mailfarm.accounts.first_token import NAME as FIRST
from mailfarm.accounts.token import SCOPES, Token, new_token, scopes
from mailfarm.errors import Invalid
from mailfarm.events import LOOKUP, Revoked, rfc3339
from mailfarm.ids import Ids
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Tx

from .access import Access
from .answering import Answer
from .asking import Body, Field
from .routes import Ask, Gives, Resource, route

LONGEST_LIFETIME = 10 * 365 * 86_400
_NEW = Body(
    (
        Field("name", "text", "What it is for; shown in lists. Not `first`, which is the setting's.", most=255),
        Field(
            "scope",
            "text",
            "Scopes parted by spaces (RFC 6749 §3.3); left out: all that the maker has.",
            most=1000,
            example="mailboxes:write messages:read",
        ),
        Field(
            "lifetime", "integer", "Seconds until it ends; null: never.", least=1, most=LONGEST_LIFETIME, nullable=True
        ),
    ),
    required=("name",),
)
_PAGE = (
    Field("after", "text", "The `next` of the page before.", default="", most=26),
    Field("limit", "integer", "How many at most.", default=100, least=1, most=1000),
)


class Tokens(Resource):
    """Tokens: made, listed without their secret, revoked."""

    app = Klein()

    def __init__(self, access: Access, database: Database, bus: Bus, ids: Ids, random: Callable[[int], bytes]) -> None:
        super().__init__(access)
        self._database = database
        self._bus = bus
        self._ids = ids
        self._random = random

    @route(
        app,
        "POST",
        "/v1/tokens",
        "Make a token",
        name="createToken",
        gives=Gives(201, "NewToken"),
        scope="tokens:write",
        body=_NEW,
    )
    async def create(self, ask: Ask) -> Answer:
        """The answer holds its text, which is not kept and not shown again. It can have no scope that the caller has
        not."""
        mine = tuple(scope for scope in SCOPES if scope in ask.caller.scopes)
        wanted = scopes(ask.body["scope"].split()) if "scope" in ask.body else mine
        for scope in wanted:
            if scope not in ask.caller.scopes:
                raise Problem("scope-missing", f"you cannot give the scope {scope}, which you do not have", scope=scope)
        name = ask.body["name"].strip()
        if not name:
            raise Invalid("name must not be empty; it is how you know the token again")
        if name == FIRST:
            raise Invalid(f"name must not be {FIRST!r}: that token is MAILFARM_API_FIRST_TOKEN's, and ends with it")
        lifetime = ask.body.get("lifetime")
        text = new_token(self._random)

        async def work(tx: Tx) -> Token:
            return await store.create_token(
                tx,
                self._ids,
                ask.account,
                text,
                name=name,
                scopes_=wanted,
                expires_at=None if lifetime is None else tx.now + lifetime * 1_000_000,
            )

        made = await self._database.unit(work)
        return Answer({**_form(made), "token": text}, 201, headers={"Location": f"/v1/tokens/{made.id}"})

    @route(
        app,
        "GET",
        "/v1/tokens",
        "List tokens",
        name="listTokens",
        gives=Gives(200, "TokenPage"),
        scope="tokens:read",
        query=_PAGE,
    )
    async def list_(self, ask: Ask) -> Answer:
        """By id, also those that have ended; without their text, which nobody knows but who was shown it."""
        limit = ask.query["limit"]
        found = await self._database.read(
            lambda tx: store.tokens(tx, ask.account, after=ask.query["after"], limit=limit + 1)
        )
        page = found[:limit]
        return Answer({"tokens": [_form(each) for each in page], "next": page[-1].id if len(found) > limit else None})

    @route(
        app,
        "DELETE",
        "/v1/tokens/<id>",
        "Revoke a token",
        name="revokeToken",
        gives=Gives(204),
        scope="tokens:write",
    )
    async def revoke(self, ask: Ask) -> Answer:
        """It ends now, with every session that was begun with it; within five seconds everywhere. A second time changes
        nothing."""

        async def work(tx: Tx) -> int:
            await store.revoke_token(tx, ask.account, ask.id)
            return tx.now

        now = await self._database.unit(work)
        self._bus.publish(LOOKUP, Revoked(self._ids.new(), ask.account, now, "token", ask.id))
        return Answer(status=204)


def _form(token: Token) -> dict[str, Any]:
    return {
        "id": token.id,
        "name": token.name,
        "scopes": list(token.scopes),
        "created_at": rfc3339(token.created_at),
        "expires_at": None if token.expires_at is None else rfc3339(token.expires_at),
        "revoked_at": None if token.revoked_at is None else rfc3339(token.revoked_at),
    }
