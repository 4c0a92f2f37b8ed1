"""Who asks: nobody in particular (``auth=none``, on loopback), the owner of a bearer token (RFC 6750), or a browser
with a session cookie."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry
from twisted.web.server import Request

from mailfarm.accounts.bearer import Caller, everyone, holders
from mailfarm.accounts.secret import digest
from mailfarm.accounts.session import is_session
from mailfarm.events import LOOKUP, Event, Revoked
from mailfarm.net import cookies
from mailfarm.net.forwarded import Forwarded
from mailfarm.net.lookups import Lookups, lookup_counter
from mailfarm.net.problems import Problem
from mailfarm.ports import Bus, Database, Subscription

from .lasting import Lasting
from .rates import Rates

__all__ = ["Access", "Caller", "need"]

T = TypeVar("T")


def need(caller: Caller, scope: str) -> None:
    """Raises Problem: scope-missing."""
    if scope not in caller.scopes:
        raise Problem(
            "scope-missing",
            f"the token lacks the scope {scope}",
            headers={"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{scope}"'},
            scope=scope,
        )


class Access:
    """Admits requests. With ``account`` given, all are its own; without, each needs a token. What a token was found to
    be is remembered for a moment, under the digest of its text."""

    def __init__(
        self,
        database: Database,
        bus: Bus,
        account: str | None,
        rates: Rates,
        forwarded: Forwarded,
        reactor: Any,
        registry: CollectorRegistry,
    ) -> None:
        self._bus = bus
        self._rates = rates
        self._forwarded = forwarded
        self._everyone = None if account is None else everyone(account)
        self.tokens: Lookups[bytes, Caller | None] = Lookups(
            "token",
            lambda digests: holders(database, digests),
            reactor=reactor,
            counter=lookup_counter(registry, "api"),
        )
        self._lasting = Lasting(self.tokens, reactor)
        self._hearing: Subscription | None = None

    async def start(self) -> None:
        """Hear what is revoked."""
        self._hearing = await self._bus.subscribe(LOOKUP, self._hear, self.tokens.doubt)
        if not self.open:
            self._lasting.start()

    def stop(self) -> None:
        """Hear no more."""
        self._lasting.stop()
        if self._hearing is not None:
            self._hearing.stop()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Revoked):
            self.tokens.forget(event.what)
            self._lasting.revoked(event.what)

    @property
    def open(self) -> bool:
        """Whether nobody has to sign in."""
        return self._everyone is not None

    async def let_in(self, request: Request) -> None:
        """Whoever it is that asks for what needs no scope. Raises Problem: too-many-requests."""
        await self._rates.of_client(request)

    async def admit(self, request: Request, scope: str) -> Caller:
        """The caller, if it has ``scope``. Raises Problem: too-many-requests, unauthenticated, scope-missing."""
        await self._rates.of_client(request)
        caller = self._everyone or await self._signed_in(request)
        await self._rates.of_caller(request, caller)
        need(caller, scope)
        return caller

    def lasts(self, request: Request, caller: Caller, end: Callable[[], None]) -> AbstractContextManager[None]:
        """For a request that was admitted and stays open: ``end`` is called when what it came with has ended."""
        if self.open:
            return nullcontext()
        return self._lasting.until_ended(digest(self._secret(request)), caller, end)

    async def look(self, request: Request, secret: str, ask: Callable[[], Awaitable[T | None]]) -> T | None:
        """What ``ask`` finds of a token or session; None counts as a guess, and who guesses too often is not asked
        about another. Raises Problem: too-many-requests."""
        if not self.tokens.has(digest(secret)):
            await self._rates.may_guess(request)
        found = await ask()
        if found is None:
            await self._rates.guessed_wrong(request)
        return found

    async def _signed_in(self, request: Request) -> Caller:
        secret = self._secret(request)
        caller = await self.look(request, secret, lambda: self.tokens.get(digest(secret)))
        if caller is None:
            # one answer for unknown, expired and revoked (RFC 6750 §3.1)
            raise Problem(
                "unauthenticated",
                "the token is unknown or has ended",
                headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )
        return caller

    def https(self, request: Request) -> bool | None:
        """Whether the browser speaks HTTPS with us or with the proxy in front; None if that cannot be told."""
        peer: Any = request.getClientAddress()
        proto = request.requestHeaders.getRawHeaders("x-forwarded-proto") or []
        return cookies.over_https(
            origin=request.getHeader("origin"),
            proxied=self._forwarded.https(getattr(peer, "host", ""), proto),
            tls=request.isSecure(),
            host=request.getHeader("host"),
            fetch=request.getHeader("sec-fetch-site") is not None,
        )

    def session_of(self, request: Request) -> str:
        """The session in the cookie that came with a request; empty if there is none."""
        return cookies.session_of(request.getHeader("cookie"), https=self.https(request))

    def _secret(self, request: Request) -> str:
        """The text of the token or session that came with a request. Raises Problem: unauthenticated,
        foreign-origin."""
        headers = request.requestHeaders.getRawHeaders("authorization") or []
        session = "" if headers else self.session_of(request)
        if is_session(session):
            # The guard has compared the Origin where there is one. Every browser sends one with what changes
            # something: who shows a cookie without it is no browser of ours.
            if request.method not in (b"GET", b"HEAD") and request.getHeader("origin") is None:
                raise Problem("foreign-origin", "with the session cookie this request needs an Origin header")
            return session
        kind, _, secret = headers[0].partition(" ") if len(headers) == 1 else ("", "", "")
        secret = secret.strip()
        if kind.lower() != "bearer" or not secret or is_session(secret):
            raise Problem(
                "unauthenticated", "send Authorization: Bearer <token>", headers={"WWW-Authenticate": "Bearer"}
            )
        return secret
