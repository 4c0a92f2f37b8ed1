"""Who asks: nobody in particular (``auth=none``, on loopback), or the owner of a bearer token (RFC 6750)."""

from __future__ import annotations

from dataclasses import dataclass

from twisted.web.server import Request

from mailfarm.accounts import store
from mailfarm.accounts.token import SCOPES, Token
from mailfarm.net.problems import Problem
from mailfarm.ports import Database, Tx


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, and what it may be asked for here."""

    account: str
    scopes: frozenset[str]


class Access:
    """Admits requests. With ``account`` given, all are its own; without, each needs a token."""

    def __init__(self, database: Database, account: str | None) -> None:
        self._database = database
        self._everyone = None if account is None else Caller(account, frozenset(SCOPES))

    @property
    def open(self) -> bool:
        """Whether no token is asked for."""
        return self._everyone is not None

    async def admit(self, request: Request, scope: str) -> Caller:
        """The caller, if it has ``scope``. Raises Problem: unauthenticated, scope-missing."""
        if self._everyone is not None:
            return self._everyone
        headers = request.requestHeaders.getRawHeaders("authorization") or []
        kind, _, secret = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        if kind.lower() != "bearer" or not secret.strip():
            raise Problem(
                "unauthenticated", "send Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"}
            )
        caller = await self.bearer(secret.strip())
        if caller is None:
            # one answer for unknown, expired and revoked (RFC 6750 §3.1)
            raise Problem(
                "unauthenticated",
                "the token is unknown or has ended",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        if scope not in caller.scopes:
            raise Problem(
                "scope-missing",
                f"the token lacks the scope {scope}",
                headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
                scope=scope,
            )
        return caller

    async def bearer(self, secret: str) -> Caller | None:
        """The caller whose live token this is."""

        async def look(tx: Tx) -> tuple[Token | None, int]:
            return await store.find_token(tx, secret), tx.now

        token, now = await self._database.read(look)
        if token is None or not token.live(now):
            return None
        return Caller(token.account, frozenset(token.scopes))
