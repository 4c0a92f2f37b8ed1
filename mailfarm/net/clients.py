"""Clients as limits see them: by address, and by network for IPv6, where one client has 2^64 addresses.

Clients on loopback are not limited by address: on a developer's machine everybody is 127.0.0.1, and behind a proxy
nobody is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Any, Final

from mailfarm.limits import Limit, Quota
from mailfarm.mail.reply import Reply
from mailfarm.ports import Charge, Hold, Limiter, Refusal

from .smtp_session import Answer

_IPV6_PREFIX = 64

BUSY: Final = Reply(421, "4.3.2", "More mail comes in than can be filed; try again in a minute", close=True)
TOO_MANY: Final = Reply(421, "4.7.0", "Too many sessions from your network at once; try again later", close=True)


def client_key(client: str) -> str:
    """The address for IPv4, its /64 for IPv6, so that a limiter's key cannot be changed at will."""
    ip = _ip(client)
    return str(ip_network((ip, _IPV6_PREFIX), strict=False)) if isinstance(ip, IPv6Address) else str(ip)


def on_loopback(client: str) -> bool:
    """Whether the client is on this machine."""
    return bool(_ip(client).is_loopback)


@lru_cache(maxsize=1024)
def network_of(client: str) -> str:
    """``client_key``, remembered for the last thousand."""
    return client_key(client)


@lru_cache(maxsize=1024)
def limited_as(client: str) -> str:
    """``client_key``, or empty for a client on loopback, which is not limited. Remembered for the last thousand."""
    return "" if on_loopback(client) else client_key(client)


def _ip(client: str) -> Any:
    ip = ip_address(client.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


class Door:
    """Greets clients, unless they knock too often or too many of them are in. One for a service.

    ``rates`` bound how often a client may come, ``sessions`` how many of it may be in at once (0: any number);
    ``again`` says a wait, in seconds, in words. ``may_come`` is asked of a client's network while mail comes in faster
    than it is filed.
    """

    def __init__(
        self,
        service: str,
        hostname: str,
        limiter: Limiter,
        rates: Sequence[Limit | Quota],
        sessions: int,
        again: Callable[[float], str],
        may_come: Callable[[str], bool] = lambda network: True,
    ) -> None:
        self._connects = f"{service}:connect:"
        self._inside = f"{service}:sessions:"
        self._limiter = limiter
        self._rates = tuple(rates)
        self._sessions = sessions
        self._again = again
        self._may_come = may_come
        self._welcome = Reply(220, "", f"{hostname} ESMTP mailfarm")
        self._charges = lru_cache(maxsize=1024)(self._charges_of)

    def visit(self) -> Visit:
        """What a client who comes now will hold."""
        return Visit(self._limiter)

    def answer(self, client: str, visit: Visit) -> Answer:
        """220, 421 4.7.0, or 421 4.3.2."""
        if not self._may_come(network_of(client)):
            return BUSY
        key = limited_as(client)
        return self._let_in(key, visit) if key and (self._rates or self._sessions) else self._welcome

    def _charges_of(self, key: str) -> list[Charge]:
        return [Charge(f"{self._connects}{key}:{rate.period:g}", rate) for rate in self._rates]

    async def _let_in(self, key: str, visit: Visit) -> Reply:
        charges = self._charges(key)
        if self._sessions:
            entered = await visit.enter(charges, self._inside + key, self._sessions)
            refusal = entered if isinstance(entered, Refusal) else None
        else:
            entered, refusal = True, await self._limiter.charge(charges)
        if refusal is not None:
            text = f"Too many connections from your network; {self._again(refusal.wait)}"
            return Reply(421, "4.7.0", text, close=True)
        return self._welcome if entered else TOO_MANY


class Visit:
    """The places that one connection holds, until it leaves."""

    __slots__ = ("_holds", "_left", "_limiter")

    def __init__(self, limiter: Limiter) -> None:
        self._limiter = limiter
        self._holds: tuple[Hold, ...] = ()
        self._left = False

    async def hold(self, key: str, most: int) -> bool:
        """Take one of ``most`` places; False when all are taken."""
        return self._took(await self._limiter.hold(key, most))

    async def enter(self, charges: Sequence[Charge], key: str, most: int) -> bool | Refusal:
        """Charge, and take one of ``most`` places: the refusal, or False when all are taken."""
        entered = await self._limiter.enter(charges, key, most)
        return entered if isinstance(entered, Refusal) else self._took(entered)

    def _took(self, hold: Hold | None) -> bool:
        if hold is None:
            return False
        if self._left:  # it went while we asked
            hold.release()
        else:
            self._holds += (hold,)
        return True

    def leave(self) -> None:
        """Give all of them back. Idempotent."""
        self._left = True
        holds, self._holds = self._holds, ()
        for hold in holds:
            hold.release()
