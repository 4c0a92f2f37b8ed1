"""Who holds a bearer token (RFC 6750): what the HTTP services ask before they answer."""

from __future__ import annotations

from dataclasses import dataclass

from mailfarm.ports import Database, Tx

from . import store
from .token import SCOPES, Token


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, and what it may be asked for."""

    account: str
    scopes: frozenset[str]


def everyone(account: str) -> Caller:
    """Where nobody signs in: all are this account, and may do everything."""
    return Caller(account, frozenset(SCOPES))


async def holder(database: Database, text: str) -> Caller | None:
    """The holder of the live token with this text; None for one that is unknown, expired or revoked: which of these it
    is nobody is told (RFC 6750 §3.1). Raises DatabaseUnavailable."""

    async def look(tx: Tx) -> tuple[Token | None, int]:
        return await store.find_token(tx, text), tx.now

    token, now = await database.read(look)
    return Caller(token.account, frozenset(token.scopes)) if token is not None and token.live(now) else None
