"""Who asks: nobody in particular (``auth=none``, on loopback), the owner of a bearer token (RFC 6750), or a browser
with a session cookie."""

from __future__ import annotations

from twisted.web.server import Request

from mailfarm.accounts.bearer import Caller, everyone, holder
from mailfarm.accounts.session import is_session
from mailfarm.net.cookies import session_of
from mailfarm.net.problems import Problem
from mailfarm.ports import Database

__all__ = ["Access", "Caller"]


class Access:
    """Admits requests. With ``account`` given, all are its own; without, each needs a token."""

    def __init__(self, database: Database, account: str | None) -> None:
        self._database = database
        self._everyone = None if account is None else everyone(account)

    @property
    def open(self) -> bool:
        """Whether nobody has to sign in."""
        return self._everyone is not None

    async def admit(self, request: Request, scope: str) -> Caller:
        """The caller, if it has ``scope``. Raises Problem: unauthenticated, scope-missing."""
        if self._everyone is not None:
            return self._everyone
        caller = await holder(self._database, _secret(request))
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


def _secret(request: Request) -> str:
    """The text of the token or session that came with a request. Raises Problem: unauthenticated, foreign-origin."""
    headers = request.requestHeaders.getRawHeaders("authorization") or []
    session = "" if headers else session_of(request.getHeader("cookie"))
    if is_session(session):
        # The guard has compared the Origin where there is one. Every browser sends one with what changes something: who
        # shows a cookie without it is no browser of ours.
        if request.method not in (b"GET", b"HEAD") and request.getHeader("origin") is None:
            raise Problem("foreign-origin", "with the session cookie this request needs an Origin header")
        return session
    kind, _, secret = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
    secret = secret.strip()
    if kind.lower() != "bearer" or not secret or is_session(secret):
        raise Problem("unauthenticated", "send Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"})
    return secret
