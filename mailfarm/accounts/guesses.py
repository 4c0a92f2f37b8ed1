"""Guessing secrets does not pay: failures are counted by client and by user name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from mailfarm.limits import Limit
from mailfarm.ports import Charge, Limiter

LONGEST_NAME: Final = 255


@dataclass(frozen=True, slots=True)
class TooMany:
    """Who failed too often, and the seconds until one more try."""

    who: Literal["client", "name"]
    wait: float


class Guesses:
    """Failures of one service. ``client`` is the key of a client's network, or empty for one that is
    not counted, neither for itself nor for the user name, and always asked. A limit of None counts nothing."""

    def __init__(self, service: str, limiter: Limiter, of_client: Limit | None, of_name: Limit | None) -> None:
        self._client = f"{service}:auth-client:"
        self._name = f"{service}:auth-name:"
        self._limiter = limiter
        self._of_client = of_client
        self._of_name = of_name

    async def too_many(self, client: str, name: str) -> TooMany | None:
        """Who failed too often lately to be asked once more. Only asks: a success costs nothing."""
        charges = self._charges(client, name, 0)
        refusal = await self._limiter.charge(charges) if charges else None
        if refusal is None:
            return None
        return TooMany("client" if refusal.key.startswith(self._client) else "name", refusal.wait)

    async def count(self, client: str, name: str) -> None:
        """One more failure. Each key on its own: one that is full does not spare the other."""
        for charge in self._charges(client, name, 1):
            await self._limiter.charge([charge])

    def _charges(self, client: str, name: str, cost: int) -> list[Charge]:
        if not client:
            return []
        found = []
        if self._of_client is not None:
            found.append(Charge(self._client + client, self._of_client, cost, always=True))
        if self._of_name is not None:
            found.append(Charge(self._name + name[:LONGEST_NAME].lower(), self._of_name, cost, always=True))
        return found
