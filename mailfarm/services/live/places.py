"""How many WebSockets may be open at once: of a client, and with a token (``mailfarm help limits``)."""

from __future__ import annotations

from mailfarm.accounts.allowance import SetOf
from mailfarm.accounts.bearer import Caller
from mailfarm.net.clients import Visit, limited_as
from mailfarm.ports import Limiter


class Places:
    """What one connection holds until it ends. Without a limiter nothing is limited; ``of_client`` is the number for
    each client, 0 for any."""

    __slots__ = ("_of_client", "_set_of", "_token", "_visit")

    def __init__(self, limiter: Limiter | None, of_client: int, set_of: SetOf) -> None:
        self._visit = None if limiter is None else Visit(limiter)
        self._of_client = of_client
        self._set_of = set_of
        self._token = ""

    async def for_client(self, client: str) -> bool:
        """Take one of the client's. False when all are taken."""
        key = limited_as(client) if self._visit is not None and self._of_client else ""
        if self._visit is None or not key:
            return True
        return await self._visit.hold(f"live:sockets:{key}", self._of_client)

    async def for_caller(self, caller: Caller) -> bool:
        """Take one of the token's; the same token counts once, however often it is shown on this connection."""
        if self._visit is None or not caller.token or caller.token == self._token:
            return True
        most = (await self._set_of(caller.account)).token.websockets
        if most and not await self._visit.hold(f"live:token-sockets:{caller.token}", most):
            return False
        self._token = caller.token
        return True

    def leave(self) -> None:
        """Give all of them back. Idempotent."""
        if self._visit is not None:
            self._visit.leave()


def host_of(peer: str | None) -> str:
    """The address in Autobahn's ``tcp4:192.0.2.1:4711`` or ``tcp6:2001:db8::1:4711``; loopback's for what has none."""
    kind, _, rest = (peer or "").partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in ("tcp", "tcp4", "tcp6") else "127.0.0.1"
