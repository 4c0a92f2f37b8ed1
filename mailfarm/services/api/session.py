"""GET, POST, DELETE /v1/session: signing in with a browser, and out again.

A token is exchanged for a cookie that scripts cannot read. The token is typed once, sent once in a body, and neither
kept in the browser nor ever part of an address.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from klein import Klein

from mailfarm.accounts import session
from mailfarm.accounts.token import Token
from mailfarm.events import LOOKUP, Revoked, rfc3339
from mailfarm.ids import Ids
from mailfarm.net import cookies
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Tx

from .access import Access
from .answering import Answer
from .asking import Body, Field
from .routes import Ask, Gives, Resource, route

_TOKEN = Body((Field("token", "text", "A token of the API.", most=200),), required=("token",))


class Sessions(Resource):
    """The session of the browser that asks."""

    app = Klein()

    def __init__(
        self,
        access: Access,
        database: Database,
        bus: Bus,
        ids: Ids,
        random: Callable[[int], bytes],
    ) -> None:
        super().__init__(access)
        self._database = database
        self._bus = bus
        self._ids = ids
        self._random = random

    @route(app, "GET", "/v1/session", "Am I signed in", name="getSession", gives=Gives(200, "Session"))
    async def read(self, ask: Ask) -> Answer:
        """Needs no token. `auth` says whether this farm asks for one at all; `signed_in`, whether the cookie that came
        with this request is good."""
        text = self._access.session_of(ask.request)
        if self._access.open or not text:
            return Answer(_form(self._access.open, None))
        found = await self._access.look(
            ask.request, text, lambda: self._database.read(lambda tx: session.find(tx, text))
        )
        return Answer(_form(False, found))

    @route(
        app,
        "POST",
        "/v1/session",
        "Sign in",
        name="signIn",
        gives=Gives(201, "Session"),
        body=_TOKEN,
        problems=("unauthenticated", "unavailable", "conflict"),
    )
    async def begin(self, ask: Ask) -> Answer:
        """Exchange a token for a cookie: HttpOnly, SameSite=Strict, for seven days or as long as the token. Requests
        that carry it and change something need an `Origin` header, as every browser sends."""
        if self._access.open:
            raise Problem("conflict", "nobody has to sign in here: MAILFARM_API_AUTH is none")
        text = session.new_session(self._random)
        token = ask.body["token"].strip()
        made = await self._access.look(
            ask.request, token, lambda: self._database.unit(lambda tx: session.begin(tx, self._ids, token, text))
        )
        if made is None:
            raise Problem("unauthenticated", "the token is unknown or has ended")
        assert made.expires_at is not None
        seconds = (made.expires_at - made.created_at) // 1_000_000
        cookie = cookies.given(text, seconds, secure=self._secure(ask))
        return Answer(_form(False, made), 201, headers={"Set-Cookie": cookie, "Location": "/v1/session"})

    @route(
        app,
        "DELETE",
        "/v1/session",
        "Sign out",
        name="signOut",
        gives=Gives(204),
        problems=("unavailable",),
    )
    async def end(self, ask: Ask) -> Answer:
        """The session ends and the cookie is taken back. Good also for who is not signed in."""
        text = self._access.session_of(ask.request)
        if text:
            found = await self._access.look(ask.request, text, lambda: self._database.unit(lambda tx: _end(tx, text)))
            if found is not None:
                ended, now = found
                self._bus.publish(LOOKUP, Revoked(self._ids.new(), ended.account, now, "token", ended.id))
        return Answer(status=204, headers={"Set-Cookie": cookies.taken(secure=self._secure(ask))})

    def _secure(self, ask: Ask) -> bool:
        # who is no browser does not say; a browser keeps the plain name over plain HTTP alone
        return self._access.https(ask.request) is not False


async def _end(tx: Tx, text: str) -> tuple[Token, int] | None:
    ended = await session.end(tx, text)
    return None if ended is None else (ended, tx.now)


def _form(open_: bool, token: Token | None) -> dict[str, Any]:
    signed_in = token is not None
    return {
        "auth": "none" if open_ else "token",
        "signed_in": signed_in,
        "name": token.name if token is not None else None,
        "scopes": list(token.scopes) if token is not None else [],
        "expires_at": rfc3339(token.expires_at) if token is not None and token.expires_at is not None else None,
    }
