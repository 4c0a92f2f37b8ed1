"""Guessing secrets does not pay: failures are counted by client and by user name."""

from __future__ import annotations

from typing import Final, Literal

from mailfarm.limits import Limit
from mailfarm.ports import Charge, Limiter

OF_CLIENT: Final = Limit(10, 300)
OF_NAME: Final = Limit(50, 300)
LONGEST_NAME: Final = 255


class Guesses:
    """Failures of one service. ``client`` is the key of a client's network, or empty for one that is
    not counted, neither for itself nor for the user name, and always asked."""

    def __init__(self, service: str, limiter: Limiter, of_client: Limit = OF_CLIENT, of_name: Limit = OF_NAME) -> None:
        self._client = f"{service}:auth-client:"
        self._name = f"{service}:auth-name:"
        self._limiter = limiter
        self._of_client = of_client
        self._of_name = of_name

    async def too_many(self, client: str, name: str) -> Literal["client", "name"] | None:
        """Who failed too often lately to be asked once more. Only asks: a success costs nothing."""
        if not client:
            return None
        refusal = await self._limiter.charge(self._charges(client, name, 0))
        if refusal is None:
            return None
        return "client" if refusal.key.startswith(self._client) else "name"

    async def count(self, client: str, name: str) -> None:
        """One more failure. Each key on its own: one that is full does not spare the other."""
        for charge in self._charges(client, name, 1):
            await self._limiter.charge([charge])

    def _charges(self, client: str, name: str, cost: int) -> list[Charge]:
        if not client:
            return []
        return [
            Charge(self._client + client, self._of_client, cost),
            Charge(self._name + name[:LONGEST_NAME].lower(), self._of_name, cost),
        ]
