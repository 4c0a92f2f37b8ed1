"""How often the API may be asked: by client address, by token and by account (``mailfarm help limits``).

What applies is said in ``RateLimit-Policy``; who asks too often is told 429 with ``Retry-After`` and ``RateLimit``
(draft-ietf-httpapi-ratelimit-headers).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any, Final

from twisted.web.server import Request

from mailfarm.accounts.allowance import SetOf, again, charges
from mailfarm.accounts.bearer import Caller
from mailfarm.accounts.guesses import Guesses
from mailfarm.accounts.limit_sets import LimitSets, Rate
from mailfarm.net.clients import limited_as
from mailfarm.net.forwarded import Forwarded
from mailfarm.net.problems import Problem
from mailfarm.ports import Charge, Limiter

_WHOSE: Final = {"client": "from your network", "token": "with this token", "account": "for this account"}


class Rates:
    """Charges requests. Without a limiter nothing is limited."""

    def __init__(self, limiter: Limiter | None, sets: LimitSets, set_of: SetOf, forwarded: Forwarded) -> None:
        self._limiter = limiter
        self._guesses = None if limiter is None else Guesses("api", limiter, sets.client.failed_tokens, None)
        self._client = sets.client.requests
        self._set_of = set_of
        self._forwarded = forwarded
        every = (sets.default, *sets.by_account.values())
        self._callers = any(one.token.requests or one.account.requests for one in every)

    def client(self, request: Request) -> str:
        """The real client's address."""
        peer: Any = request.getClientAddress()
        fields = request.requestHeaders.getRawHeaders("x-forwarded-for") or []
        return self._forwarded.client(getattr(peer, "host", None) or "127.0.0.1", fields)

    async def of_client(self, request: Request) -> None:
        """Charge the client for a request. Raises Problem: too-many-requests."""
        if self._limiter is None or not self._client:
            return
        key = self._key(request)
        if key:
            await self._charge(request, [("client", f"client:api:{key}:requests", self._client)])

    async def of_caller(self, request: Request, caller: Caller) -> None:
        """Charge the token and the account for a request. Raises Problem: too-many-requests."""
        if self._limiter is None or not self._callers:
            return
        limits = await self._set_of(caller.account)
        asked = [("account", f"account:{caller.account}:requests", limits.account.requests)]
        if caller.token:
            asked.insert(0, ("token", f"token:{caller.token}:requests", limits.token.requests))
        await self._charge(request, asked)

    async def may_guess(self, request: Request) -> None:
        """Before a token is looked up that nobody knows here. Raises Problem: too-many-requests."""
        refused = await self._guesses.too_many(self._key(request), "") if self._guesses is not None else None
        if refused is not None:
            raise Problem(
                "too-many-requests",
                f"too many tokens from your network were unknown or had ended; {again(refused.wait)}",
                headers={"Retry-After": str(max(1, ceil(refused.wait)))},
            )

    async def guessed_wrong(self, request: Request) -> None:
        """It was no good. Costs the client one of its failures."""
        if self._guesses is not None:
            await self._guesses.count(self._key(request), "")

    def _key(self, request: Request) -> str:
        return _limited_as(self.client(request))

    async def _charge(self, request: Request, asked: Sequence[tuple[str, str, Sequence[Rate]]]) -> None:
        charged: list[Charge] = []
        policies = request.responseHeaders.getRawHeaders("ratelimit-policy", [])
        for name, key, rates in asked:
            charged += charges(key, rates)
            policies = [*policies, *(f'"{name}";q={rate.count};w={rate.period:g}' for rate in rates)]
        if not charged:
            return
        request.setHeader("RateLimit-Policy", ", ".join(policies))
        assert self._limiter is not None
        refusal = await self._limiter.charge(charged)
        if refusal is not None:
            name = refusal.key.partition(":")[0]
            wait = max(1, ceil(refusal.wait))
            raise Problem(
                "too-many-requests",
                f"too many requests {_WHOSE[name]}; {again(refusal.wait)}",
                headers={"Retry-After": str(wait), "RateLimit": f'"{name}";r=0;t={wait}'},
            )


def _limited_as(client: str) -> str:
    try:
        return limited_as(client)
    except ValueError:  # a Unix socket, or something else without an address
        return ""
