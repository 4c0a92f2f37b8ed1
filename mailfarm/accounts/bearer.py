"""Who holds a bearer token (RFC 6750) or a browser's session: what the HTTP services ask before they answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mailfarm.ports import Database, Tx

from . import store
from .token import SCOPES, Token


@dataclass(frozen=True, slots=True)
class Caller:
    """An account, and what it may be asked for. ``token`` is the id of the token, of a session that of the token it was
    begun with; empty where nobody signs in. ``session`` is the id of the session, if it is one."""

    account: str
    scopes: frozenset[str]
    token: str = ""
    session: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """What a look found under the digest of a token's text, and for how long it holds: ``now`` is the database's clock
    and ``ends_at`` the token's end, in microseconds; ``about`` are the ids whose revocation ends it. ``value`` is None
    for a token that is unknown, expired or revoked: which of these it is nobody is told (RFC 6750 §3.1)."""

    value: Caller | None
    now: int
    keep: Literal["yes", "no"] = "no"
    ends_at: int | None = None
    about: tuple[str, ...] = ()


def everyone(account: str) -> Caller:
    """Where nobody signs in: all are this account, and may do everything."""
    return Caller(account, frozenset(SCOPES))


async def holders(database: Database, digests: Sequence[bytes]) -> Mapping[bytes, Held]:
    """The holder of the token or session with each of these digests. Raises DatabaseUnavailable."""

    async def look(tx: Tx) -> dict[bytes, Held]:
        found = await store.tokens_of(tx, digests)
        return {digest: _held(found.get(digest), tx.now) for digest in digests}

    return await database.read(look, once=True)


def _held(token: Token | None, now: int) -> Held:
    if token is None or not token.live(now):
        return Held(None, now)
    ids = (token.id, "") if token.parent is None else (token.parent, token.id)
    return Held(Caller(token.account, frozenset(token.scopes), *ids), now, "yes", token.expires_at, ids)
