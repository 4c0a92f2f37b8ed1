"""Who asks: nobody in particular (``auth=none``, on loopback), or the owner of a bearer token (RFC 6750)."""

from __future__ import annotations

from twisted.web.server import Request

from mailfarm.accounts.bearer import Caller, everyone, holder
from mailfarm.net.problems import Problem
from mailfarm.ports import Database

__all__ = ["Access", "Caller"]


class Access:
    """Admits requests. With ``account`` given, all are its own; without, each needs a token."""

    def __init__(self, database: Database, account: str | None) -> None:
        self._database = database
        self._everyone = None if account is None else everyone(account)

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
        caller = await holder(self._database, secret.strip())
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
