"""How many WebSockets may be open at once: of a client, and with a token (``mailfarm help limits``)."""

from __future__ import annotations

from typing import Final

from mailfarm.accounts.allowance import SetOf
from mailfarm.accounts.bearer import Caller
from mailfarm.net.clients import Visit, limited_as
from mailfarm.ports import Limiter

MOST_TOKENS: Final = 20
"""Tokens that one connection may show: their places are held until it ends."""


class Places:
    """What one connection holds until it ends. Without a limiter nothing is limited; ``of_client`` is the number for
    each client, 0 for any."""

    __slots__ = ("_of_client", "_set_of", "_tokens", "_visit")

    def __init__(self, limiter: Limiter | None, of_client: int, set_of: SetOf) -> None:
        self._visit = None if limiter is None else Visit(limiter)
        self._of_client = of_client
        self._set_of = set_of
        self._tokens: set[str] = set()

    async def for_client(self, client: str) -> bool:
        """Take one of the client's. False when all are taken."""
        key = limited_as(client) if self._visit is not None and self._of_client else ""
        if self._visit is None or not key:
            return True
        return await self._visit.hold(f"live:sockets:{key}", self._of_client)

    async def for_caller(self, caller: Caller) -> bool:
        """Take one of the token's; each counts once, however often and in whatever turn it is shown here. False also
        past ``MOST_TOKENS``."""
        if self._visit is None or not caller.token or caller.token in self._tokens:
            return True
        most = (await self._set_of(caller.account)).token.websockets
        if not most:
            return True
        if len(self._tokens) >= MOST_TOKENS:
            return False
        if not await self._visit.hold(f"live:token-sockets:{caller.token}", most):
            return False
        self._tokens.add(caller.token)
        return True

    def leave(self) -> None:
        """Give all of them back. Idempotent."""
        if self._visit is not None:
            self._visit.leave()


def host_of(peer: str | None) -> str:
    """The address in Autobahn's ``tcp4:192.0.2.1:4711`` or ``tcp6:2001:db8::1:4711``; loopback's for what has none."""
    kind, _, rest = (peer or "").partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("tcp", "tcp4", "tcp6") else "127.0.0.1"
